"""Euclidean projection onto an affine set and a box: the paper's watermark problem (eq. 7) for p = 2, exactly.

For each problem   minimise 1/2 ||z - t||^2   subject to   A z = A x,  l <= z <= u,   with orthonormal rows A [r, n].

The dual has only r variables and no constraints. Its minimiser y of

    phi(y) = sum_i h(t + A^T y)_i - <x, A^T y>,   h' = clip to [l, u],

gives z(y) = clip(t + A^T y, l, u), and grad phi(y) = A (z(y) - x) is the equality residual. phi is convex and piecewise
quadratic, so a semismooth Newton method ends after finitely many steps. Its Hessian A M A^T, where M marks the entries
strictly inside the box, has eigenvalues in [0, 1], mostly near 1: conjugate gradients solve each Newton system by a few
products with A for *all* problems at once, where factorising would cost n r^2 for each and is kept for the hard ones.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.device_waits import finished, places
from nullspace_cli.engine.solvers.interior_point import minimise
from nullspace_cli.engine.solvers.solution import AffineBox, Solution, Status

NEWTON_STEPS = 25
"""Most problems take 7 to 22; those that take more seldom end soon."""

ASKED_EVERY = 4
"""Steps of an inner loop after which a card is asked whether all problems are done."""

GAP = 1e-6
"""Largest gap that counts as solved for a problem that Newton's method has handed over."""


class _Point(NamedTuple):
    """Dual points y [p, r] and what follows from them."""

    y: Float[Tensor, "p r"]
    u: Float[Tensor, "p n"]  # t + A^T y
    z: Float[Tensor, "p n"]  # u, clipped
    gradient: Float[Tensor, "p r"]  # A (z - x)

    def select(self, which: Tensor) -> "_Point":
        return _Point(*(part[which] for part in self))


def _at(y: Float[Tensor, "p r"], problem: AffineBox) -> _Point:
    A, x, t, lower, upper = problem
    u = t + y @ A
    z = u.clamp(lower, upper)
    return _Point(y, u, z, (z - x) @ A.mT)


def _newton_step(
    A: Tensor, free: Bool[Tensor, "p n"], gradient: Tensor, damping: Tensor, forcing: Tensor, steps: int
) -> Float[Tensor, "p r"]:
    """(A M A^T + damping) s = -gradient, each problem to its own relative accuracy `forcing`.

    By conjugate gradients for all at once; those whose few free entries make that slow are factorised, one by one.
    """
    mask = free.to(A.dtype)

    def hessian_of(y: Tensor) -> Tensor:
        return ((y @ A) * mask) @ A.mT + damping[:, None] * y

    s, hard = conjugate_gradients(
        hessian_of, -gradient, relative=forcing, max_iterations=steps, asked_every=ASKED_EVERY
    )
    for i in places(hard).tolist():
        used = A[:, free[i]]
        hessian = used @ used.mT
        hessian.diagonal().add_(damping[i])
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if not bool(failed):
            s[i] = torch.cholesky_solve(-gradient[i, :, None], factor)[:, 0]
    return s


def project_affine_box(
    A: Float[Tensor, "r n"],
    x: Float[Tensor, "p n"],
    t: Float[Tensor, "p n"],
    lower: Float[Tensor, "..."] | float = 0.0,
    upper: Float[Tensor, "..."] | float = 1.0,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 150,
    max_inner: int = 15,
) -> Solution:
    """Project every row of t onto {z : A z = A x, lower <= z <= upper}.

    A problem whose x has many entries on a bound may have hardly a feasible point off it. Its dual is then so flat that
    Newton's method creeps; such a problem is handed to the interior point method.

    Args:
        A: orthonormal rows; the accuracy of everything is that of their dtype (float64 for a certificate).
        x: points in the box; each makes its problem feasible.
        t: targets; they may lie outside the box.
        lower, upper: bounds, broadcast to t; equal ones fix an entry.
        tolerance: largest ||A (z - x)||_2 that counts as solved.
        max_iterations: of the interior point method; Newton's takes no more either.
        max_inner: conjugate gradient steps within each, before a problem is factorised.

    Returns:
        The projections. The bounds hold exactly.
    """
    problem = AffineBox.broadcast(A, x, t, lower, upper)
    point, iterations = _minimise(problem, tolerance, min(max_iterations, NEWTON_STEPS), max_inner)
    z, y, status = point.z, point.y, Status.SOLVED
    stuck = places(~(point.gradient.norm(dim=1) <= tolerance))
    if len(stuck):
        z[stuck], y[stuck], more, solved = minimise(problem.select(stuck), 2, tolerance, GAP, max_iterations)
        iterations[stuck] += more
        status = Status.SOLVED if bool(solved.all()) else Status.ITERATION_LIMIT
    return Solution.certified(problem, z, y, 2, iterations, status)


def _minimise(
    problem: AffineBox, tolerance: float, max_iterations: int, max_inner: int
) -> tuple[_Point, Int[Tensor, " p"]]:
    """Minimise phi for every problem: the last point of each, and how many steps it took."""
    A, x, t = problem[:3]
    point = _at((x - t) @ A.mT, problem)  # exact where no bound is active
    whole = _Point(*(part.clone() for part in point))
    iterations = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    unsolved = torch.arange(len(t), device=t.device)  # the problems that `problem` and `point` hold
    for iteration in range(max_iterations + 1):
        for target, part in zip(whole, point, strict=True):
            target[unsolved] = part
        norm = point.gradient.norm(dim=1)
        rest = places(norm > tolerance)
        if iteration == max_iterations or not len(rest):
            break
        if len(rest) < len(norm):
            unsolved, problem, point, norm = unsolved[rest], problem.select(rest), point.select(rest), norm[rest]
        free = (point.u > problem.lower) & (point.u < problem.upper)
        damping = 1e-12 + 1e-3 * norm.clamp(max=1e-2)
        step = _newton_step(A, free, point.gradient, damping, norm.sqrt().clamp(max=0.1), max_inner)
        point = _at(point.y + _line_search(problem, point, step)[:, None] * step, problem)
        iterations[unsolved] += 1
    return whole, iterations


def _line_search(problem: AffineBox, point: _Point, step: Tensor) -> Float[Tensor, " p"]:
    """How far to go along each step: to where the slope of phi has all but vanished.

    The slope sum_i (z_i - x_i) w_i along w = A^T step needs no product with A, so it is searched for its zero: doubled
    until it turns positive, then halved between. Where few entries are free, the way to the optimum is many Newton
    steps long, and a search that only shortens them would creep.
    """
    w = step @ problem.A

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
