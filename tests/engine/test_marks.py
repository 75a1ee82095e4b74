"""The mark: what of a logo counts, where it goes, and the target it makes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.marks import Mark, Placement, place, read_mark, target_image


def logo(path: Path, ground: tuple[int, ...], ink: tuple[int, ...], mode: str = "RGB") -> Path:
    image = Image.new(mode, (40, 20), ground)
    image.paste(ink, (10, 5, 30, 15))
    image.save(path)
    return path


def square(coverage: float = 1.0, width: int = 10, height: int = 5) -> Mark:
    return Mark(np.full((height, width, 3), 0.25), np.full((height, width), coverage), Path("mark.png"))


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
    ],
)
def test_placement(placement: Placement, box: tuple[int, int, int, int]) -> None:
    left, right, top, bottom = box
    colour, coverage = place(square(), 100, 100, placement)
    expected = torch.zeros(100, 100)
    expected[top : top + (bottom - top), left:right] = 1
    assert (coverage.round() == expected).float().mean() > 0.989
    torch.testing.assert_close(colour[:, coverage > 0.5].mean().item(), 0.25, rtol=1e-3, atol=0)


def test_target_exaggerates_beyond_the_range() -> None:
    image = torch.full((3, 50, 100), 0.5, dtype=torch.float64)
    plain = target_image(image, square(), Placement(fit="stretch", scale=1.0, strength=1.0))
    strong = target_image(image, square(), Placement(fit="stretch", scale=1.0, strength=4.0))
    half = target_image(image, square(), Placement(fit="stretch", scale=1.0, strength=4.0, opacity=0.5))
    assert [t[0, 25, 50].item() for t in (plain, strong, half)] == pytest.approx([0.25, -0.5, 0.0])
    assert plain.dtype == torch.float64


def test_hidden_colours_do_not_bleed() -> None:
    colour = np.zeros((20, 20, 3))
    colour[:, :10] = 1.0  # white where it covers, black where it does not
    coverage = np.zeros((20, 20))
    coverage[:, :10] = 1
    shown, covered = place(Mark(colour, coverage, Path("m.png")), 77, 77, Placement(scale=1.0))
    assert shown[:, covered > 0.05].min() > 0.99
