"""Rounding in a map's metric: what it promises of the grid and the bounds, and how much less than nearest it moves."""

from itertools import product

import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.nullspace.decomposition import split_space
from nullspace_cli.engine.solvers.box_projection import project_affine_box
from nullspace_cli.engine.solvers.metric_rounding import MetricRounding

LEVELS = 255


def gaussian(d: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(d, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(d: int, n: int) -> Tensor:
    """Cosines of falling weight: low frequencies, as trained patch embeddings have them."""
    i, k = torch.arange(n, dtype=torch.float64), torch.arange(d, dtype=torch.float64)[:, None]
    return torch.cos(torch.pi * k * (i + 0.5) / n) / (1 + k)


def points(p: int, n: int, seed: int = 1) -> Tensor:
    return torch.rand(p, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nearest(z: Tensor) -> Tensor:
    return (z * LEVELS).round() / LEVELS


def error(A: Tensor, q: Tensor, z: Tensor) -> float:
    return float(((q - z) @ A.mT).square().mean().sqrt())


def deviation(q: Tensor, z: Tensor) -> float:
    """Root mean square, in levels."""
    return LEVELS * float((q - z).square().mean().sqrt())


def assert_on_grid(q: Tensor) -> None:
    assert torch.equal(q, nearest(q))
    assert q.min() >= 0
    assert q.max() <= 1


@pytest.mark.parametrize(
    ("A", "largest_ratio"), [(gaussian(12, 384), 0.07), (gaussian(48, 96), 0.45), (smooth(24, 192), 0.08)]
)
def test_moves_far_less_than_nearest_rounding(A: Tensor, largest_ratio: float) -> None:
    z = points(40, A.shape[1])
    q = MetricRounding.of(A).round(z)
    assert_on_grid(q)
    assert error(A, q, z) <= largest_ratio * error(A, nearest(z), z)
    assert deviation(q, z) <= 0.6


def test_saturated_patches() -> None:
    """Solutions of the watermark problem, with many entries on the bounds, where a correction can go one way only."""
    A = gaussian(12, 384)
    x = points(10, 384)
    rows, _, _ = split_space(A, 1e-12)
    z = project_affine_box(rows, x, x + 2 * gaussian(10, 384, seed=2)).value
    assert ((z == 0) | (z == 1)).double().mean() > 0.4
    q = MetricRounding.of(A).round(z)
    assert_on_grid(q)
    assert error(A, q, x) <= 0.25 * error(A, nearest(z), x)
    assert deviation(q, z) <= 0.6


@pytest.mark.parametrize("max_flips", [0, 300])
def test_finds_the_best_of_all_roundings(max_flips: int) -> None:
    """With room for every partial rounding the search is exhaustive: two levels, and the first two entries fixed."""
    A, damping = gaussian(4, 8), 0.05
    z, upper = points(40, 8), torch.ones(8, dtype=torch.float64)
    z[:, :2] = upper[:2] = 0
    q = MetricRounding.of(A, damping).round(z, upper=upper, levels=1, width=2**6, max_flips=max_flips)
    every = torch.tensor([(0, 0, *free) for free in product((0, 1), repeat=6)], dtype=torch.float64)
    difference = every - z[:, None]
    objective = (difference @ A.mT).square().sum(2) + damping * A.square().sum() / 8 * difference.square().sum(2)
    assert torch.equal(q, every[objective.argmin(1)])


@pytest.mark.parametrize("max_flips", [0, 300])
def test_never_worse_than_nearest_rounding(max_flips: int) -> None:
    """With hardly any damping, entries at their bounds throw the feedback far off."""
    A, damping = smooth(30, 32), 1e-6
    z = points(40, 32).sub(0.5).mul(3).add(0.5).clamp(0, 1)
    q = MetricRounding.of(A, damping).round(z, width=1, max_flips=max_flips)
    delta = damping * float(A.square().sum()) / 32

    def objective(rounded: Tensor) -> Tensor:
        return ((rounded - z) @ A.mT).square().sum(1) + delta * (rounded - z).square().sum(1)

    assert (objective(q) <= objective(nearest(z)) * (1 + 1e-9)).all()


def test_descent_and_a_wider_search_find_better() -> None:
    A, z = gaussian(12, 384), points(40, 384).sub(0.5).mul(2).add(0.5).clamp(0, 1)
    rounding = MetricRounding.of(A)
    plain = error(A, rounding.round(z, width=1, max_flips=0), z)
    assert error(A, rounding.round(z, width=1), z) < 0.6 * plain
    assert error(A, rounding.round(z, width=8, max_flips=0), z) < 0.6 * plain


def test_point_on_the_grid_stays() -> None:
    A, z = gaussian(48, 96), nearest(points(8, 96).sub(0.5).mul(2).add(0.5).clamp(0, 1))
    assert torch.equal(MetricRounding.of(A).round(z), z)


def test_fixed_entries_stay_and_bounds_hold() -> None:
    A, z = gaussian(12, 384), points(8, 384)
    fixed = torch.zeros(8, 384, dtype=torch.bool)
    fixed[:, 100:200] = True  # off the grid, as padding may be
    fixed[3] = True  # a patch of padding alone
    lower, upper = (z - 0.6 / LEVELS).clamp(0, 1), (z + 0.6 / LEVELS).clamp(0, 1)
    lower[:, 300:], upper[:, 300:] = z[:, 300:] - 1e-4, z[:, 300:] + 1e-4  # too tight for most levels
    q = MetricRounding.of(A).round(z, lower=torch.where(fixed, z, lower), upper=torch.where(fixed, z, upper))
    assert torch.equal(q[fixed], z[fixed])
    free = ~fixed
    free[:, 300:] = False
    assert torch.equal(q[free], nearest(q[free]))
    # Bounds that are levels themselves, but for the last digits, may be met: hence a millionth of a level.
    assert (q >= lower - 1e-8).all()
    assert (q <= upper + 1e-8).all()
    assert torch.equal(q[:, 300:], torch.where(((nearest(z) - z).abs() <= 1e-4) & ~fixed, nearest(z), z)[:, 300:])


def test_problems_do_not_disturb_each_other() -> None:
    A, z = smooth(48, 96), points(6, 96)
    rounding = MetricRounding.of(A)
    together = rounding.round(z)
    assert torch.equal(together, rounding.round(z))
    assert torch.equal(together, torch.cat([rounding.round(row[None]) for row in z]))


def test_map_with_more_rows_than_columns() -> None:
    A, z = gaussian(40, 24), points(8, 24)
    q = MetricRounding.of(A).round(z)
    assert_on_grid(q)
    assert error(A, q, z) < error(A, nearest(z), z)


@pytest.mark.gpu
def test_on_cuda() -> None:
    A, z = smooth(24, 192), points(40, 192)
    q = MetricRounding.of(A.cuda()).round(z.cuda()).cpu()
    assert_on_grid(q)
    assert error(A, q, z) <= 0.1 * error(A, nearest(z), z)
