"""Treatments: what they draw, that the fine ones leave the local mean alone, and that they can be seen."""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.watermark import mark_style as style
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.mark_style import (
    GREEN_MAGENTA,
    GREY,
    MarkStyle,
    Period,
    line_period,
    target_image,
    visible_tint,
    wave_period,
)
from nullspace_cli.engine.watermark.marks import Mark, Placement

FULL = Placement(fit="stretch", scale=1.0, strength=1.0)
MIDDLE = Placement(fit="stretch", scale=0.5, strength=1.0)
PERIODS: list[Period] = [(6, math.inf), (math.inf, 5), (4, 4), (2, 2), (12, math.inf)]


def block(colour: tuple[float, float, float] = (1, 1, 1), coverage: float = 1.0) -> Mark:
    return Mark(np.full((8, 8, 3), colour, np.float32), np.full((8, 8), coverage, np.float32), "a block")


def flat(level: float, size: int = 120, channels: int = 3) -> Tensor:
    return torch.full((channels, size, size), level, dtype=torch.float64)


def within(change: Tensor, margin: int = 15) -> Tensor:
    """Away from the edges, in whole periods: 120 - 2 * 15 = 90, cut to 60 = 5 * 12 = 15 * 4 = 12 * 5 = 10 * 6."""
    return change[:, margin : margin + 60, margin : margin + 60]


def test_plain_is_the_mark_over_the_picture() -> None:
    image = flat(0.5)
    mark = block((0.25, 0.25, 0.25))
    shown = [
        target_image(image, mark, Placement(fit="stretch", scale=0.5, opacity=opacity, strength=strength))
        for opacity, strength in ((1, 1), (1, 4), (0.5, 4))
    ]
    assert [t[0, 60, 60].item() for t in shown] == pytest.approx([0.25, -0.5, 0.0])
    assert all(torch.equal(t[:, :29], image[:, :29]) for t in shown)


@pytest.mark.parametrize("kind", get_args(MarkStyle))
def test_of_an_image_in_levels_the_target_is_the_same_in_levels(kind: MarkStyle) -> None:
    pixels = torch.randint(256, (3, 90, 120), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    placement = Placement(scale=0.7, strength=2.0)
    expected = target_image(pixels.float() / 255, text_mark("ab"), placement, kind).clamp(0, 1).mul(255).round()
    assert torch.equal(target_image(pixels, text_mark("ab"), placement, kind), expected.to(torch.uint8))


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("level", [0.0, 0.03, 0.2, 0.5, 0.9, 0.98, 1.0])
@pytest.mark.parametrize("tint", [GREY, GREEN_MAGENTA])
def test_the_hatch_has_the_mean_of_the_picture_and_stays_in_range(
    period: Period, level: float, tint: style.Tint
) -> None:
    target = target_image(flat(level), block((0.8, 0.1, 0.2)), FULL, "hatch", period, tint)
    torch.testing.assert_close(within(target).mean((1, 2)), torch.full((3,), level, dtype=torch.float64))
    assert 0 <= target.min() <= target.max() <= 1
    contrast = within(target).std((1, 2), correction=0).max().item()
    assert contrast >= 0.99 * min(level, 1 - level, 0.2)  # seen on every ground that leaves room for it


@pytest.mark.parametrize("level", [0.05, 0.95])
def test_thin_lines_outdo_a_small_head_room(level: float) -> None:
    target = target_image(flat(level), block(), FULL, "hatch", (12, math.inf))
    assert within(target).std() > 3 * 0.05  # lines of equal width would reach 0.05


def test_the_hatch_keeps_its_contrast_on_both_sides() -> None:
    dark, light = (
        within(target_image(flat(level), block((0.5, 0.5, 0.5)), FULL, "hatch", (6, math.inf))) for level in (0.1, 0.9)
    )
    torch.testing.assert_close(dark.std(), light.std())
    torch.testing.assert_close(dark.sort(1)[0], 1 - light.sort(1, descending=True)[0])


@pytest.mark.parametrize("ratio", [1.3, 2, 3, 4])
def test_what_a_resize_reads_of_a_hatch_is_next_to_nothing(ratio: float) -> None:
    size, transform = round(120 * ratio), EvalTransform((3, 120, 120), (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0)
    view = ResizeOperator(transform, size, size)
    image = flat(0.5, size)
    change = target_image(image, block(), FULL, "hatch", line_period((ratio, ratio))) - image
    read = view.apply(change)[:, 20:100, 20:100].square().mean().sqrt()
    assert read < 0.25 * change.square().mean().sqrt()


@pytest.mark.parametrize(
    ("ratios", "period"),
    [
        ((4.0, 4.0), (6, math.inf)),
        ((8.57, 8.57), (12, math.inf)),
        ((2.0, 5.0), (math.inf, 7)),
        ((4 / 3, 1.0), (2, math.inf)),
        ((1.2, 1.2), (2, 2)),
        ((0.5, 0.5), (2, 2)),
    ],
)
def test_line_period(ratios: tuple[float, float], period: Period) -> None:
    assert line_period(ratios) == period


@pytest.mark.parametrize(
    ("ratios", "period"),
    [
        ((2.0, 2.0), (math.inf, 16 / 6)),
        ((4.0, 4.0), (math.inf, 16 / 3)),
        ((7.5, 5.0), (8, math.inf)),
        ((12.0, 12.0), (math.inf, 16)),
        ((24.0, 24.0), (math.inf, 32)),
        ((1.5, 1.5), (2, math.inf)),
    ],
)
def test_wave_period(ratios: tuple[float, float], period: Period) -> None:
    assert wave_period(ratios) == period


def test_the_hatch_takes_the_place_of_the_pictures_own_detail() -> None:
    noise = torch.rand(3, 120, 120, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = 0.4 + 0.2 * noise
    target = target_image(image, block(), FULL, "hatch", (6, math.inf))
    along = within(target).diff(dim=2).std() / within(image).diff(dim=2).std()  # lines do not vary along a row
    assert along < 0.7


@pytest.mark.parametrize("level", [0.2, 0.8])
@pytest.mark.parametrize(("ink", "inside"), [(1.0, 1), (0.0, -1)])
def test_an_outline_is_a_light_line_beside_a_dark_one(level: float, ink: float, inside: int) -> None:
    change = target_image(flat(level), block((ink,) * 3), MIDDLE, "outline", (6, 6)) - level
    row = change[0, 60]
    assert row[30:33].mean() * inside > 0.2  # the block begins at 30
    assert row[27:30].mean() * inside < -0.2
    assert row[40:80].abs().max() < 1e-6
    assert row[:20].abs().max() < 1e-6
    assert abs(row.sum()) < 1e-6


@pytest.mark.parametrize("kind", get_args(MarkStyle))
def test_strength_and_opacity_scale_the_change(kind: MarkStyle) -> None:
    image = flat(0.3) + torch.linspace(0, 0.3, 120, dtype=torch.float64)
    once, twice, faint = (
        target_image(image, block((0.9, 0.2, 0.1)), Placement(scale=0.5, opacity=opacity, strength=strength), kind)
        - image
        for opacity, strength in ((1, 1), (1, 2), (0.25, 1))
    )
    assert once.abs().max() > 0.1
    torch.testing.assert_close(twice, 2 * once)
    torch.testing.assert_close(faint, once / 4)


@pytest.mark.parametrize("kind", get_args(MarkStyle))
def test_a_grey_picture_takes_the_marks_luminance(kind: MarkStyle) -> None:
    grey, mark = flat(0.4, channels=1).float(), block((0.9, 0.9, 0.9))
    target = target_image(grey, mark, MIDDLE, kind, tint=GREEN_MAGENTA)
    assert target.shape == grey.shape
    assert target.dtype == torch.float32
    torch.testing.assert_close(target, target_image(grey.repeat(3, 1, 1), mark, MIDDLE, kind)[:1])


def test_a_coloured_mark_on_a_grey_picture() -> None:
    target = target_image(flat(0.0, channels=1), block((1, 0, 0)), MIDDLE)
    assert target.max().item() == pytest.approx(0.299, abs=1e-3)


def test_a_hatch_hints_at_the_marks_colour() -> None:
    target = target_image(flat(0.5), block((0.9, 0.0, 0.0)), FULL, "hatch", (6, math.inf))
    darkest = within(target)[:, within(target).mean(0) < 0.5].mean(1)
    assert darkest[0] > darkest[1] + 0.1


def test_the_figure_of_a_mark_stands_out_from_its_ground() -> None:
    colour = np.full((120, 120, 3), (0.1, 0.1, 0.5), np.float32)
    colour[40:80, 40:80] = 1
    disc = Mark(colour, np.ones((120, 120), np.float32), "a white square on blue")
    change = target_image(flat(0.5), disc, FULL, "hatch", (6, math.inf)) - 0.5
    figure, ground = change[:, 48:72, 48:72].std(), change[:, 84:108].std()
    assert figure > 3 * ground > 0.1


@pytest.mark.parametrize("kind", get_args(MarkStyle))
def test_squares_join_without_a_seam(kind: MarkStyle, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(3, 90, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    placement = Placement(position="bottom-right", scale=0.9, strength=1)
    whole = target_image(image, text_mark("ab\ncd"), placement, kind, (5, math.inf))
    monkeypatch.setattr(style._Ink, "of", lambda _: style._Ink(1.0, math.inf, 1.0))
    monkeypatch.setattr(style, "SIDE", 17)
    torch.testing.assert_close(target_image(image, text_mark("ab\ncd"), placement, kind, (5, math.inf)), whole)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_hatched_letters_can_be_told_from_the_picture(level: float) -> None:
    image = flat(level, 240)
    target = target_image(image, text_mark("AB"), Placement(strength=1), "hatch", (6, math.inf))
    plain = target_image(image, text_mark("AB"), Placement(strength=1)) - image
    letters = plain[0] / (1 - level)
    local = torch.nn.functional.avg_pool2d((target - image).square().mean(0)[None], 7, 1, 3)[0].sqrt()
    assert torch.corrcoef(torch.stack([letters.flatten(), local.flatten()]))[0, 1] > 0.75


def test_the_tint_follows_what_an_embedding_does_not_read() -> None:
    size = 8
    greys = torch.zeros(size * size, 3, size * size, dtype=torch.float64)
    for i in range(size * size):
        greys[i, :, i] = 3**-0.5
    assert visible_tint(onto(greys), (size, size), (4, 4)) == GREEN_MAGENTA
    means = torch.zeros(3, 3, size * size, dtype=torch.float64)
    means[range(3), range(3)] = 1 / size
    assert visible_tint(onto(means), (size, size), (4, 4)) == GREY


def onto(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """The projection of images onto the span of orthonormal rows [k, c, n]."""
    A = rows.flatten(1)
    return lambda images: (images.flatten(1) @ A.mT @ A).view(images.shape)
