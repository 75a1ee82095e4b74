"""The dual of a projection onto an affine set and a box, by a semismooth Newton method: problems side by side.

    minimise 1/2 ||z - t||^2   subject to   A z = A x,  l <= z <= u,   for each problem.

The minimiser y of

    phi(y) = sum_i h(t + A^T y)_i - <x, A^T y>,   h' = clip to [l, u],

gives z(y) = clip(t + A^T y, l, u), and grad phi(y) = A (z(y) - x) is what is left of the equality. phi is convex and
piecewise quadratic; its generalised Hessian is A M A^T, where M marks the entries strictly inside the box. How its
systems are solved is left to the caller: A may be a matrix or a map of whole images.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nullspace_cli.engine.solvers.device_waits import finished, places
from nullspace_cli.engine.solvers.solution import Projection

ASKED_EVERY = 4
"""Steps of an inner loop after which a card is asked whether all problems are done."""


class Point(NamedTuple):
    """Dual points y [p, r] and what follows from them."""

    y: Float[Tensor, "p r"]
    u: Float[Tensor, "p n"]  # t + A^T y
    z: Float[Tensor, "p n"]  # u, clipped
    gradient: Float[Tensor, "p r"]  # A (z - x)

    def select(self, which: Tensor) -> "Point":
        return Point(*(part[which] for part in self))


NewtonStep = Callable[
    [Bool[Tensor, "p n"], Float[Tensor, "p r"], Float[Tensor, " p"], Float[Tensor, " p"]], Float[Tensor, "p r"]
]
"""(A M A^T + damping) s = -gradient from M, gradient, damping and the relative accuracy that is wanted of each."""


def minimise_dual(
    problem: Projection,
    start: Float[Tensor, "p r"],
    newton_step: NewtonStep,
    *,
    tolerance: float,
    max_iterations: int,
) -> tuple[Point, Int[Tensor, " p"]]:
    """Minimise phi for every problem: the last point of each, and how many steps it took."""
    point = _at(start, problem)
    whole = Point(*(part.clone() for part in point))
    iterations = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    unsolved = torch.arange(len(start), device=start.device)  # the problems that `problem` and `point` hold
    for iteration in range(max_iterations + 1):
        for target, part in zip(whole, point, strict=True):
            target[unsolved] = part
        size = problem.size(point.gradient)
        rest = places(size > tolerance)
        if iteration == max_iterations or not len(rest):
            break
        if len(rest) < len(size):
            unsolved, problem, point, size = unsolved[rest], problem.select(rest), point.select(rest), size[rest]
        free = (point.u > problem.lower) & (point.u < problem.upper)
        damping = 1e-12 + 1e-3 * size.clamp(max=1e-2)
        step = newton_step(free, point.gradient, damping, size.sqrt().clamp(max=0.1))
        point = _at(point.y + _line_search(problem, point, step)[:, None] * step, problem)
        iterations[unsolved] += 1
    return whole, iterations


def _at(y: Float[Tensor, "p r"], problem: Projection) -> Point:
    u = problem.t + problem.adjoint(y)
    z = u.clamp(problem.lower, problem.upper)
    return Point(y, u, z, problem.forward(z - problem.x))


def _line_search(problem: Projection, point: Point, step: Tensor) -> Float[Tensor, " p"]:
    """How far to go along each step: to where the slope of phi has all but vanished.

    The slope sum_i (z_i - x_i) w_i along w = A^T step needs no product with A, so it is searched for its zero: doubled
    until it turns positive, then halved between. Where few entries are free, the way to the optimum is many Newton
    steps long, and a search that only shortens them would creep.
    """
    w = problem.adjoint(step)

    def slope(length: Tensor) -> Tensor:
        z = (point.u + length[:, None] * w).clamp(problem.lower, problem.upper)
        return ((z - problem.x) * w).sum(1)

    start = (point.gradient * step).sum(1)  # negative: the step goes downhill
    length, low, high = torch.ones_like(start), torch.zeros_like(start), torch.full_like(start, torch.inf)
    for k in range(60):
        here = slope(length)
        done = here.abs() <= 0.1 * start.abs()
        if finished(done, k, ASKED_EVERY):
            break
        low, high = torch.where(here < 0, length, low), torch.where(here > 0, length, high)
        longer = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where(done, length, longer)
    return length
