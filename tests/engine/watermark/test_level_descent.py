"""Rounding by what Pillow makes of the levels, judged by dense matrices and Pillow's own resize."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.preimage.solver import PreimageSolver
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.watermark.level_descent import LevelDescent
from nullspace_cli.engine.watermark.patch_constraint import PatchConstraint
from nullspace_cli.engine.watermark.within_tolerance import by_singular_vectors
from tests.engine.watermark.patches import smooth_space

TRANSFORM = EvalTransform((3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 1.0)
MU = 20.0

Levels = NDArray[np.uint8]


@dataclass
class Problem:
    """One picture [H, c, W] to be rounded, and what it costs."""

    space: PatchSpace
    source: Levels
    target: Levels
    real: NDArray[np.float64]
    lower: Levels
    upper: Levels

    def rounded(self) -> tuple[Levels, Levels]:
        """To the nearest, and by the descent from there."""
        view = ResizeOperator(TRANSFORM, self.source.shape[2], self.source.shape[0])
        preimages = PreimageSolver(view)
        space, sigma = by_singular_vectors(self.space)
        constraint = PatchConstraint(space, view.geometry, preimages.passes.transposed, torch.device("cpu"))
        wanted = preimages.passes(self.source)
        descent = LevelDescent(preimages, constraint, sigma.float(), wanted, self.lower, self.upper)
        nearest = self.real.round().clip(self.lower, self.upper).astype(np.uint8)
        return nearest, descent(nearest, self.target, MU)

    def cost(self, pixels: Levels) -> tuple[float, float]:
        """||q - t||^2 + MU ||A (P(q) - b)||^2 with Pillow's resize and A itself; and the error's part."""
        weight, inputs = self.space.patch_map.weight, []
        for picture in (pixels, self.source):
            image = Image.fromarray(np.ascontiguousarray(picture.swapaxes(1, 2)))
            inputs.append(torch.from_numpy(np.array(image.resize((64, 64), Image.Resampling.BICUBIC))).double())
        change = ((inputs[0] - inputs[1]) / torch.tensor(TRANSFORM.std)).permute(2, 0, 1)[None]
        error = float(torch.nn.functional.conv2d(change, weight, stride=16).square().sum())
        distance = float(((pixels.astype(np.float64) - self.target) ** 2).sum())
        return distance + MU * error, error


@pytest.fixture
def problem() -> Problem:
    """A picture of 40 x 40 whose margin is fixed."""
    dice = np.random.default_rng(0)
    source = dice.integers(40, 200, (40, 3, 40), np.uint8)
    lower, upper = np.zeros_like(source), np.full_like(source, 255)
    for bound in (lower, upper):
        bound[:4], bound[..., -6:] = source[:4], source[..., -6:]
    real = (source + dice.uniform(-1, 1, source.shape)).clip(lower, upper)
    return Problem(smooth_space(TRANSFORM.std), source, real.round().astype(np.uint8), real, lower, upper)


def test_a_descent_lowers_the_cost_that_pillow_and_the_embedding_say(problem: Problem) -> None:
    nearest, descended = problem.rounded()
    before, after = problem.cost(nearest), problem.cost(descended)
    assert after[0] < before[0]
    assert after[1] < 0.2 * before[1]


def test_pixels_stay_within_their_bounds(problem: Problem) -> None:
    problem.lower = np.maximum(problem.lower, problem.source - 1)
    _, descended = problem.rounded()
    assert (descended >= problem.lower).all()
    assert (descended <= problem.upper).all()
    assert np.array_equal(descended[:4], problem.source[:4])


def test_hardly_any_single_move_would_gain(problem: Problem) -> None:
    _, descended = problem.rounded()
    cost, gains = problem.cost(descended)[0], []
    for place in np.random.default_rng(1).permutation(np.flatnonzero(problem.lower < problem.upper))[:200]:
        for step in (-1, 1):
            moved = descended.copy()
            moved.flat[place] = int(moved.flat[place]) + step
            gains.append(cost - problem.cost(moved)[0])
    assert np.mean(np.array(gains) > 0) < 0.1


def test_the_source_stays_where_nothing_is_wanted(problem: Problem) -> None:
    problem.real = problem.source.astype(np.float64)
    problem.target = problem.source
    _, descended = problem.rounded()
    assert np.array_equal(descended, problem.source)
