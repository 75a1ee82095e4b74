"""The demo's images: the same on every machine, and no class told by colour."""

import hashlib

import numpy as np
import pytest

from nullspace_cli.demo.drawing import CLASSES, SPLITS, Rng, draw

GOLDEN = {
    ("val", 20, 224, 1.0): "638f03feec2e617520b86bef7b4e19468d030e1d9668ff3777df7d4536591b9f",
    ("train", 20, 64, 0.5): "15e2e82c28661e70bcf7a95045c1353f30dba7562539795cca1d9761691dc933",
    ("test", 10, 97, 0.0): "79e09f5750e0692d2cea953d3e35110311f38aa258c411e747bb120c18d647ad",
}


def digest(split: str, count: int, size: int, hardness: float) -> str:
    hasher = hashlib.sha256()
    for index in range(count):
        hasher.update(draw(split, index, size=size, hardness=hardness)[0].tobytes())
    return hasher.hexdigest()


@pytest.mark.parametrize(("split", "count", "size", "hardness"), GOLDEN)
def test_bytes_are_the_recorded_ones(split: str, count: int, size: int, hardness: float) -> None:
    """Recorded on x86-64 with AVX-512; a machine that differs would draw another data set."""
    assert digest(split, count, size, hardness) == GOLDEN[split, count, size, hardness]


def test_shape_type_and_classes() -> None:
    for index in range(10):
        pixels, label = draw("val", index, size=50)
        assert (pixels.shape, str(pixels.dtype), label) == ((50, 50, 3), "uint8", index)
        assert pixels.std() > 5
    assert len(CLASSES) == 10


def test_streams_do_not_meet() -> None:
    drawn = {
        draw(split, index, size=32, seed=seed)[0].tobytes() for split in SPLITS for index in (0, 10) for seed in (0, 1)
    }
    assert len(drawn) == 12


def test_colour_does_not_tell_the_class() -> None:
    """The class means of figure-and-ground colour differ by no more than chance allows."""
    means = np.array([[draw("val", 10 * i + c, size=32)[0].mean((0, 1)) for i in range(60)] for c in range(10)])
    overall, spread = means.mean((0, 1)), means.std((0, 1)) / np.sqrt(60)
    assert np.abs((means.mean(1) - overall) / spread).max() < 4.5


def test_dice_are_uniform() -> None:
    dice = Rng(1, 2)
    plane = dice.plane(200, 200)
    assert -1 <= plane.min() < -0.999
    assert 0.999 < plane.max() < 1
    assert abs(plane.mean()) < 0.02
    assert sorted({dice.below(3) for _ in range(50)}) == [0, 1, 2]
    assert all(2 <= dice.uniform(2, 5) < 5 for _ in range(50))
    assert dice.direction() != dice.direction()
