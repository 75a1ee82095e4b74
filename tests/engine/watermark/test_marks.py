"""The mark: what of a logo counts, how text is set, and where it goes."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.watermark import marks
from nullspace_cli.engine.watermark.marks import (
    Fit,
    Mark,
    Placed,
    Placement,
    Position,
    place,
    read_mark,
)


def logo(path: Path, ground: tuple[int, ...], ink: tuple[int, ...], mode: str = "RGB") -> Path:
    image = Image.new(mode, (40, 20), ground)
    image.paste(ink, (10, 5, 30, 15))
    image.save(path)
    return path


def square(coverage: float = 1.0, width: int = 10, height: int = 5) -> Mark:
    return Mark(np.full((height, width, 3), 0.25), np.full((height, width), coverage), "a square")


def on_canvas(placed: Placed, width: int, height: int) -> Tensor:
    canvas = torch.zeros(height, width)
    canvas[placed.box] = placed.coverage
    return canvas


@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), (200, 30, 90)])
def test_opaque_logo_loses_its_background(ground: tuple[int, ...], tmp_path: Path) -> None:
    mark = read_mark(logo(tmp_path / "a.png", ground, (20, 200, 20)))
    assert mark.coverage[0, 0] == 0
    assert mark.coverage[10, 20] == pytest.approx(1)
    np.testing.assert_allclose(mark.colour[10, 20] * 255, (20, 200, 20), atol=1e-6)


def test_alpha_is_the_coverage(tmp_path: Path) -> None:
    mark = read_mark(logo(tmp_path / "a.png", (9, 9, 9, 0), (255, 255, 255, 128), "RGBA"))
    assert mark.coverage[0, 0] == 0
    assert mark.coverage[10, 20] == pytest.approx(128 / 255)
    np.testing.assert_allclose(mark.colour[10, 20], 1, atol=0.01)


def test_opaque_alpha_counts_as_none(tmp_path: Path) -> None:
    mark = read_mark(logo(tmp_path / "a.png", (255, 255, 255, 255), (0, 0, 0, 255), "RGBA"))
    assert mark.coverage[0, 0] == 0


def test_photo_without_background_covers_all(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert read_mark(tmp_path / "a.png").coverage.min() == 1


@pytest.mark.parametrize("colour", [(255, 255, 255), (3, 3, 3), (0, 0, 0, 0)])
def test_blank_marks_are_refused(colour: tuple[int, ...], tmp_path: Path) -> None:
    Image.new("RGBA" if len(colour) == 4 else "RGB", (9, 9), colour).save(tmp_path / "blank.png")
    with pytest.raises(ImageError, match=r"blank\.png is blank"):
        read_mark(tmp_path / "blank.png")


@pytest.mark.parametrize(
    ("placement", "box"),
    [
        (Placement(scale=0.5), (25, 75, 37, 62)),
        (Placement(scale=1.0), (0, 100, 25, 75)),
        (Placement(fit="stretch", scale=0.5), (25, 75, 25, 75)),
        (Placement(fit="cover", scale=0.5), (25, 75, 25, 75)),
        (Placement(position="top-left", scale=0.5), (0, 50, 0, 25)),
        (Placement(position="bottom-right", scale=0.5), (50, 100, 75, 100)),
        (Placement(position="bottom", scale=0.5), (25, 75, 75, 100)),
        (Placement(position="bottom-right", scale=0.5, margin=0.1), (40, 90, 65, 90)),
        (Placement(position="top", scale=0.5, margin=0.1), (25, 75, 10, 35)),
        (Placement(position="left", scale=1.0, margin=0.1), (10, 90, 30, 70)),
    ],
)
def test_placement(placement: Placement, box: tuple[int, int, int, int]) -> None:
    left, right, top, bottom = box
    placed = place(square(), 100, 100, placement)
    expected = torch.zeros(100, 100)
    expected[top:bottom, left:right] = 1
    assert (on_canvas(placed, 100, 100).round() == expected).float().mean() > 0.989
    torch.testing.assert_close(placed.colour[:, placed.coverage > 0.5].mean().item(), 0.25, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("fit", "position", "expected"),
    [
        ("contain", "center", (0.8, 0.0)),
        ("stretch", "left", (0.8, 0.03)),
        ("contain", "top-right", (0.4, 0.03)),
        ("tile", "top-left", (0.3, 0.0)),
    ],
)
def test_what_suits_fit_and_position(fit: Fit, position: Position, expected: tuple[float, float]) -> None:
    placement = Placement.suiting(fit, position, None, None, 1.0)
    assert (placement.scale, placement.margin) == expected
    given = Placement.suiting(fit, position, 0.5, 0.1, 1.0)
    assert (given.scale, given.margin) == (0.5, 0.1)


@pytest.mark.parametrize(("canvas", "size"), [((90, 60), (30, 40)), ((90, 60), (7, 40)), ((64, 64), (40, 3))])
def test_cover_is_the_middle_of_the_whole(canvas: tuple[int, int], size: tuple[int, int]) -> None:
    """What Pillow makes of a part is that part of what it makes of everything."""
    values = np.random.default_rng(1).random((size[1], size[0]), dtype=np.float32)
    placed = place(Mark(np.ones((*values.shape, 3)), values, "noise"), *canvas, Placement(fit="cover", scale=1.0))
    ratio = max(canvas[0] / size[0], canvas[1] / size[1])
    whole = (round(size[0] * ratio), round(size[1] * ratio))
    left, top = (whole[0] - canvas[0]) // 2, (whole[1] - canvas[1]) // 2
    full = np.asarray(Image.fromarray(values).resize(whole, Image.Resampling.LANCZOS)).clip(0, 1)
    expected = full[top : top + canvas[1], left : left + canvas[0]]
    np.testing.assert_allclose(placed.coverage, expected, atol=1e-4)


@pytest.mark.parametrize("fit", ["contain", "cover", "stretch", "tile"])
@pytest.mark.parametrize("size", [(2, 2000), (2000, 2), (1, 1), (1, 50_000)])
def test_nothing_larger_than_the_canvas_is_made(
    monkeypatch: pytest.MonkeyPatch, fit: Fit, size: tuple[int, int]
) -> None:
    made = []
    resize = Image.Image.resize

    def watched(self: Image.Image, wanted: tuple[int, int], *arguments: Any, **options: Any) -> Image.Image:
        made.append(wanted[0] * wanted[1])
        # The first pass is as wide as what is wanted, and as high as what the second one reads of it.
        box = arguments[1] if len(arguments) > 1 else (0, 0, *self.size)
        made.append(wanted[0] * (box[3] - box[1]))
        return resize(self, wanted, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    placed = place(square(1.0, *size), 300, 200, Placement(fit, "center", 1.0))
    assert placed.coverage.shape <= (200, 300)
    assert max(made) <= max(300 * 200, 300 * size[1])


def test_large_marks_are_scaled_down_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (60, 80, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    whole = read_mark(tmp_path / "a.png")
    monkeypatch.setattr(marks, "MARK_PIXELS", 600)
    small = read_mark(tmp_path / "a.png")
    assert small.coverage.shape == (20, 27)
    means = whole.coverage[:60, :78].reshape(20, 3, 26, 3).mean((1, 3))
    np.testing.assert_allclose(small.coverage[:, :26], means, atol=0.003)
    seen = (whole.colour * whole.coverage[..., None])[:60, :78].reshape(20, 3, 26, 3, 3).mean((1, 3))
    np.testing.assert_allclose((small.colour * small.coverage[..., None])[:, :26], seen, atol=0.02)
    monkeypatch.undo()
    assert read_mark(tmp_path / "a.png").coverage.shape == (60, 80)


@given(
    st.sampled_from(["contain", "cover", "stretch", "tile"]),
    st.sampled_from(["center", "top", "bottom", "left", "right", "top-left", "bottom-right"]),
    st.floats(0.01, 1),
    st.floats(0, 0.49),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_marks_stay_inside_the_canvas(
    fit: Fit, position: Position, scale: float, margin: float, canvas: tuple[int, int], size: tuple[int, int]
) -> None:
    width, height = canvas
    placed = place(square(1.0, *size), width, height, Placement(fit, position, scale, margin=margin))
    h, w = placed.coverage.shape
    assert placed.top >= 0
    assert placed.left >= 0
    assert placed.top + h <= height
    assert placed.left + w <= width
    if fit != "tile":
        assert h <= max(1, round(height * scale))
        assert w <= max(1, round(width * scale))
    assert placed.colour.shape == (3, h, w)
    assert placed.colour.dtype == placed.coverage.dtype == torch.float32
    for values in (placed.colour, placed.coverage):
        assert 0 <= values.min() <= values.max() <= 1
    assert placed.coverage.max() > 0.5


@pytest.mark.parametrize("canvas", [(1000, 100), (100, 1000), (400, 300)])
@pytest.mark.parametrize("size", [(10, 5), (5, 10), (30, 2)])
def test_contained_marks_keep_their_shape_and_touch_their_box(canvas: tuple[int, int], size: tuple[int, int]) -> None:
    placed = place(square(1.0, *size), *canvas, Placement(scale=0.8))
    h, w = placed.coverage.shape
    assert w / size[0] == pytest.approx(h / size[1], abs=1)
    assert w == round(0.8 * canvas[0]) or h == round(0.8 * canvas[1])


@pytest.mark.parametrize("canvas", [(500, 200), (200, 500)])
def test_tiles_leave_no_crop_without_a_mark(canvas: tuple[int, int]) -> None:
    placed = place(square(), *canvas, Placement(fit="tile", position="top-left", scale=0.2))
    covered = on_canvas(placed, *canvas).round()
    assert covered[:20, :40].min() == 1  # a tile of 40 x 20 in the corner
    side = 100
    crops = covered.unfold(0, side, 1).unfold(1, side, 1).mean((2, 3))
    assert crops.min() > 0.2
    assert crops.max() < 0.6  # and gaps between them


def test_every_other_row_of_tiles_is_shifted_by_half() -> None:
    placed = place(square(1.0, 10, 10), 400, 400, Placement(fit="tile", position="top-left", scale=0.25))
    row = torch.nonzero(placed.coverage[50] > 0.5)[:, 0]
    pitch = 140  # 100 and a gap of 40
    assert {int(i) % pitch for i in row} == set(range(100))
    below = torch.nonzero(placed.coverage[50 + pitch] > 0.5)[:, 0]
    assert {int(i + pitch // 2) % pitch for i in below} == set(range(100))


def test_hidden_colours_do_not_bleed() -> None:
    colour = np.ones((20, 20, 3))
    colour[:, :10] = 0.2  # dark where it covers, white where it does not
    coverage = np.zeros((20, 20))
    coverage[:, :10] = 1
    placed = place(Mark(colour, coverage, "half"), 77, 77, Placement(scale=1.0))
    assert placed.coverage.max() <= 1  # Lanczos overshoots beside an edge
    shown = placed.colour[:, placed.coverage > 0.05]
    torch.testing.assert_close(shown, torch.full_like(shown, 0.2), rtol=0, atol=0.01)


def test_marks_know_what_they_were_made_from(tmp_path: Path) -> None:
    path = logo(tmp_path / "a.png", (255, 255, 255), (0, 0, 0))
    assert read_mark(path).sha256 == sha256(path.read_bytes()).hexdigest()
