"""Wrong values repaired pixel by pixel: every change tried afresh, one by one, is the judge."""

from itertools import product

import numpy as np
import pytest

from nullspace_cli.engine.preimage.local_search import CANDIDATES, LESS, MOST, descend
from nullspace_cli.engine.preimage.neighbourhood import Neighbourhood, window_of
from nullspace_cli.engine.preimage.pillow_passes import Levels, Passes
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator

TRANSFORM = EvalTransform((3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.9, "center")
STEPS = (-8, -2, 2, 8)


@pytest.mark.parametrize("size", [(90, 85), (200, 120)])
@pytest.mark.parametrize("range_", [(0, 256), (-60, 316)], ids=["noise", "saturated"])
def test_each_change_is_the_best_there_is(size: tuple[int, int], range_: tuple[int, int]) -> None:
    passes = Passes(ResizeOperator(TRANSFORM, *size))
    shape = passes.rows.shape[1], 1, passes.cols.shape[1]
    dice = np.random.default_rng(0)
    pixels = dice.integers(*range_, shape).clip(0, 255).astype(np.uint8)
    wanted = passes(pixels)
    under = window_of(passes, 30, 25, 0)
    plane = pixels[:, 0]
    plane[under] = (plane[under] + dice.integers(-9, 10, plane[under].shape)).clip(0, 255)
    assert plane[under].size <= CANDIDATES

    def around() -> Neighbourhood:
        return Neighbourhood.of(passes, plane, under, wanted[:, 0], (0, 255))

    part = around()
    descend(part, STEPS)
    assert changes(passes, pixels, wanted) > 2
    np.testing.assert_array_equal(part.levels, plane[under])
    np.testing.assert_allclose(part.V, around().V, atol=1e-9)


def changes(passes: Passes, pixels: Levels, wanted: Levels) -> int:
    """Make the best change of one pixel, as often as there is one and the search may; how often."""
    plane, under = pixels[:, 0], window_of(passes, 30, 25, 0)

    def cost() -> float:
        return Neighbourhood.of(passes, plane, under, wanted[:, 0], (0, 255)).cost

    part = plane[under]
    for made in range(MOST):
        least, best = cost() - LESS, None
        for step, *at in product(STEPS, *map(range, part.shape)):
            place, pixel = tuple(at), int(part[*at])
            if 0 <= pixel + step <= 255:
                part[place] = pixel + step
                if (after := cost()) < least:
                    least, best = after - LESS, (place, pixel + step)
                part[place] = pixel
        if best is None:
            return made
        part[best[0]] = best[1]
    return MOST
