"""The down-and-up test, held against Pillow by itself, and against what is drawn to be found."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.comparison.down_and_up import THRESHOLD, down_and_up

Array = NDArray[Any]
BICUBIC = Image.Resampling.BICUBIC


def octaves(width: int, height: int, amplitude: float = 24.0) -> Array:
    """Noise of equal power in each octave, as photos have it."""
    rng, total = np.random.default_rng(0), np.full((height, width, 3), 127.0)
    for side in (7, 14, 28, 56, 112, 224, 448):
        size = max(1, side * width // height), side
        noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        total += (np.asarray(Image.fromarray(noise).resize((width, height), BICUBIC)) - 127.0) * amplitude / 255
    return total.clip(0, 255).astype(np.uint8)


def rms(before: Image.Image, size: tuple[int, int]) -> float:
    after = before.resize(size, BICUBIC).resize(before.size, BICUBIC)
    return float(np.sqrt(np.square(np.asarray(before, float) - np.asarray(after, float)).mean()))


@pytest.mark.parametrize(
    ("size", "small", "half"), [((600, 400), (336, 224), (168, 112)), ((300, 500), (224, 373), (112, 186))]
)
def test_the_figures_are_pillows(size: tuple[int, int], small: tuple[int, int], half: tuple[int, int]) -> None:
    pixels = octaves(*size)
    image = Image.fromarray(pixels)
    found, lost = down_and_up(pixels), rms(image, small)
    assert found.rms == pytest.approx(lost)
    assert found.ratio == pytest.approx(lost / rms(image.resize(small, BICUBIC), half))


def test_a_fine_hatch_is_found() -> None:
    plain = octaves(600, 600)
    marked = plain.copy()
    rows = np.arange(150, 450)
    marked[150:450, 150:450] = np.where((rows % 4 < 2)[:, None, None], plain[150:450, 150:450] // 2, 255)
    assert not down_and_up(plain).suspicious
    assert down_and_up(marked).suspicious
    assert down_and_up(marked).ratio > THRESHOLD  # type: ignore[operator]


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (224, 224), (640, 480)])
def test_a_flat_picture_says_nothing(size: tuple[int, int]) -> None:
    assert down_and_up(np.full((size[1], size[0], 3), 90, np.uint8)) == (0, None, False)


def test_small_pictures_lose_nothing() -> None:
    found = down_and_up(octaves(224, 300))
    assert (found.rms, found.ratio, found.suspicious) == (0, 0, False)
