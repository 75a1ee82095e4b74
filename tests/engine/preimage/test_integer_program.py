"""Wrong values of a view put right exactly: Pillow's own resize, and all levels tried one by one, are the judges."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from nullspace_cli.engine.preimage.integer_program import exact_levels
from nullspace_cli.engine.preimage.neighbourhood import Neighbourhood, window_of
from nullspace_cli.engine.preimage.pillow_passes import Levels, Passes
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator

TRANSFORM = EvalTransform((3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.9, "center")
SIZES = [(90, 85), (200, 120), (100, 300)]
"""Widths and heights: hardly larger than what is made of them, wide, and tall, which Pillow 13 turns first."""

VALUE = 30, 25
"""The view's value that is looked at."""

Plane = NDArray[np.uint8]


def passes_of(width: int, height: int) -> Passes:
    return Passes(ResizeOperator(TRANSFORM, width, height))


def noise(passes: Passes, low: int = 0, high: int = 256, seed: int = 0) -> Levels:
    shape = passes.rows.shape[1], 1, passes.cols.shape[1]
    return np.random.default_rng(seed).integers(low, high, shape).clip(0, 255).astype(np.uint8)


def amiss(passes: Passes, pixels: Levels, wanted: Levels) -> NDArray[np.int64]:
    """How many levels each value of the view is off."""
    return np.abs(passes(pixels).astype(int) - wanted)


def around(
    passes: Passes, pixels: Levels, wanted: Levels, further: int, bounds: tuple[Plane | int, Plane | int] = (0, 255)
) -> tuple[Plane, Neighbourhood]:
    """The pixels that may change, and all that reads them."""
    under = window_of(passes, *VALUE, further)
    plane = pixels[:, 0]
    return plane[under], Neighbourhood.of(passes, plane, under, wanted[:, 0], bounds)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("range_", [(0, 256), (-60, 316), (100, 104)], ids=["noise", "saturated", "faint"])
@pytest.mark.parametrize("further", [0, 1, 2])
def test_what_was_knocked_off_is_put_right(size: tuple[int, int], range_: tuple[int, int], further: int) -> None:
    """Where other pixels are known to do it: those before the knock, whose levels stay within reach."""
    passes = passes_of(*size)
    pixels = noise(passes, *range_)
    wanted = passes(pixels)
    part, _ = around(passes, pixels, wanted, further)
    knocked = part + np.random.default_rng(1).integers(-9, 10, part.shape)
    part[:] = knocked.clip(0, 255)
    before, off = part.copy(), amiss(passes, pixels, wanted)
    part, neighbourhood = around(passes, pixels, wanted, further)
    found = exact_levels(neighbourhood, 9)
    assert found is not None
    part[:] = found
    after = amiss(passes, pixels, wanted)
    i, j = VALUE
    inside = slice(i - further, i + further + 1), 0, slice(j - further, j + further + 1)
    assert off[inside].any()
    assert not after[inside].any()
    assert (after <= off).all()
    assert np.abs(found - before).max() <= 9


def test_bounds_and_fixed_pixels() -> None:
    passes = passes_of(*SIZES[1])
    pixels = noise(passes, 20, 230)
    wanted = passes(pixels)
    part, _ = around(passes, pixels, wanted, 1)
    part[:, 3] ^= 1
    part[4] ^= 6
    fixed = np.zeros(pixels[:, 0].shape, bool)
    fixed[window_of(passes, *VALUE, 1)][:, 3] = True  # they stay as they were knocked
    lower, upper = (np.where(fixed, pixels[:, 0], level).astype(np.uint8) for level in (3, 250))
    part, neighbourhood = around(passes, pixels, wanted, 1, (lower, upper))
    assert (passes(pixels) != wanted).any()
    found = exact_levels(neighbourhood, 255)
    assert found is not None
    assert np.array_equal(found[:, 3], part[:, 3])
    assert (found >= neighbourhood.lower).all()
    assert (found <= neighbourhood.upper).all()
    part[:] = found
    assert amiss(passes, pixels, wanted)[VALUE[0] - 1 : VALUE[0] + 2, 0, VALUE[1] - 1 : VALUE[1] + 2].max() == 0


@pytest.mark.parametrize("seed", range(12))
def test_none_is_found_where_trying_all_levels_finds_none(seed: int) -> None:
    """Two pixels may change, by three levels each; the other values may be as wrong as they were."""
    passes = passes_of(*SIZES[0])
    pixels = noise(passes, seed=seed)
    wanted = passes(pixels)
    under = window_of(passes, *VALUE, 0)
    place = under[0].start + 2, under[1].start + 2
    dice = np.random.default_rng(seed)
    free = np.zeros(pixels[:, 0].shape, bool)
    free[place[0] : place[0] + 2, place[1]] = True
    pixels[:, 0][free] = (pixels[:, 0][free] + dice.integers(-5, 6, 2)).clip(0, 255)
    plane = pixels[:, 0].copy()
    lower, upper = (np.where(free, level, plane).astype(np.uint8) for level in (0, 255))
    part, neighbourhood = around(passes, pixels, wanted, 0, (lower, upper))
    off = np.abs(neighbourhood.V - neighbourhood.wanted)
    found = exact_levels(neighbourhood, 3)

    def is_right(whole: Levels) -> bool:
        after = np.abs(around(passes, whole, wanted, 0)[1].V - neighbourhood.wanted)
        right = (passes(whole) == wanted)[VALUE[0], 0, VALUE[1]]
        return bool(right and (after <= np.maximum(off, 0.5)).all())

    if found is not None:
        part[:] = found
        assert is_right(pixels)
        return
    for steps in product(range(-3, 4), repeat=2):
        trial = pixels.copy()
        levels = plane[free].astype(int) + steps
        if levels.min() < 0 or levels.max() > 255:
            continue
        trial[:, 0][free] = levels
        assert not is_right(trial)


def test_others_get_no_further() -> None:
    """A value wrong for what lies outside the pixels stays as wrong as it was, and hinders nobody."""
    passes = passes_of(*SIZES[0])
    pixels = noise(passes)
    wanted = passes(pixels)
    wanted[VALUE[0], 0, VALUE[1] + 1] ^= 64
    part, _ = around(passes, pixels, wanted, 0)
    part[2, 2] += 40 if part[2, 2] < 128 else -40
    part, neighbourhood = around(passes, pixels, wanted, 0)
    before = amiss(passes, pixels, wanted)
    found = exact_levels(neighbourhood, 60)
    assert found is not None
    part[:] = found
    after = amiss(passes, pixels, wanted)
    assert before[VALUE[0], 0, VALUE[1]] > 0
    assert after[VALUE[0], 0, VALUE[1]] == 0
    assert (after <= before).all()
