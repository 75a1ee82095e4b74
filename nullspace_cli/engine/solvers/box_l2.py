"""Euclidean projection onto an affine set and a box: the paper's watermark problem (eq. 7) for p = 2, exactly.

For each problem   minimise 1/2 ||z - t||^2   subject to   A z = A x,  l <= z <= u,   with orthonormal rows A [r, n].

The dual has only r variables and no constraints. Its minimiser y of

    phi(y) = sum_i h(t + A^T y)_i - <x, A^T y>,   h' = clip to [l, u],

gives z(y) = clip(t + A^T y, l, u), and grad phi(y) = A (z(y) - x) is the equality residual. phi is convex and piecewise
quadratic, so a semismooth Newton method ends after finitely many steps. Its Hessian A M A^T, where M marks the entries
strictly inside the box, has eigenvalues in [0, 1], mostly near 1: conjugate gradients solve each Newton system by a few
products with A for *all* problems at once, where factorising would cost n r^2 for each.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.solvers.solution import Solution, Status

PATIENCE = 40
"""Newton steps without a smaller residual in any problem before the solver gives up."""


class _Problem(NamedTuple):
    """p problems that share A [r, n]; the rest is [p, n]. `nearest` is the target clipped to the box."""

    A: Tensor
    x: Tensor
    t: Tensor
    lower: Tensor
    upper: Tensor
    nearest: Tensor

    def select(self, which: Tensor) -> "_Problem":
        return _Problem(self.A, *(part[which] for part in self[1:]))


class _Point(NamedTuple):
    """Dual points y [p, r] and what follows from them."""

    y: Float[Tensor, "p r"]
    free: Bool[Tensor, "p n"]  # entries of z strictly inside the box
    z: Float[Tensor, "p n"]
    gradient: Float[Tensor, "p r"]
    phi: Float[Tensor, " p"]
    noise: Float[Tensor, " p"]  # phi's own rounding error

    def select(self, which: Tensor) -> "_Point":
        return _Point(*(part[which] for part in self))


def _at(y: Float[Tensor, "p r"], problem: _Problem) -> _Point:
    A, x, t, lower, upper, nearest = problem
    shift = y @ A
    u = t + shift
    z = u.clamp(lower, upper)
    # phi(y) - phi(0) term by term, in differences that stay accurate where z, x and t nearly agree:
    # h(u) - h(t) = z (u - t) + (z - z0) (t - (z + z0) / 2), with z0 the clipped t.
    terms = (z - x) * shift + (z - nearest) * (t - (z + nearest) / 2)
    noise = 1e-14 * terms.abs().sum(1)
    return _Point(y, (u > lower) & (u < upper), z, (z - x) @ A.mT, terms.sum(1), noise)


def _newton_step(A: Tensor, point: _Point, damping: Tensor, forcing: Tensor, steps: int) -> Float[Tensor, "p r"]:
    """Conjugate gradients on (A M A^T + damping) s = -gradient, each problem to its own relative accuracy `forcing`."""
    mask = point.free.to(A.dtype)
    s = torch.zeros_like(point.gradient)
    residual = -point.gradient
    direction = residual.clone()
    rho = (residual * residual).sum(1)
    goal = rho * forcing**2
    for _ in range(steps):
        active = rho > goal
        if not bool(active.any()):
            break
        image = ((direction @ A) * mask) @ A.mT + damping[:, None] * direction
        alpha = torch.where(active, rho / (direction * image).sum(1).clamp_min(1e-300), 0.0)
        s += alpha[:, None] * direction
        residual -= alpha[:, None] * image
        fresh = (residual * residual).sum(1)
        beta = torch.where(active, fresh / rho.clamp_min(1e-300), 0.0)
        direction = residual + beta[:, None] * direction
        rho = torch.where(active, fresh, rho)
    return s


def project_affine_box(
    A: Float[Tensor, "r n"],
    x: Float[Tensor, "p n"],
    t: Float[Tensor, "p n"],
    lower: Float[Tensor, "#p #n"] | float = 0.0,
    upper: Float[Tensor, "#p #n"] | float = 1.0,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 300,
    max_inner: int = 200,
) -> Solution:
    """Project every row of t onto {z : A z = A x, lower <= z <= upper}.

    Args:
        A: orthonormal rows; the accuracy of everything is that of their dtype (float64 for a certificate).
        x: points in the box; each makes its problem feasible.
        t: targets; they may lie outside the box.
        lower, upper: bounds, broadcast to t; equal ones fix an entry.
        tolerance: largest ||A (z - x)||_2 that counts as solved.
        max_iterations: Newton steps.
        max_inner: conjugate gradient steps within each.

    Returns:
        The projections. The bounds hold exactly; the gap follows from the residual, as |<y, A (z - x)>|.
    """
    low, high = (torch.as_tensor(bound, dtype=t.dtype, device=t.device).expand_as(t) for bound in (lower, upper))
    whole = _Problem(A, x, t, low, high, t.clamp(low, high))
    point = _at((x - t) @ A.mT, whole)  # exact where no bound is active
    best = _Point(*(part.clone() for part in point))
    iterations = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    unsolved = torch.arange(len(t), device=t.device)  # the problems that `problem` and `point` hold
    least = torch.full_like(point.phi, torch.inf)  # smallest residual of each problem so far
    improved = torch.zeros_like(iterations)  # and the iteration that reached it
    problem, status = whole, Status.ITERATION_LIMIT
    for _ in range(max_iterations + 1):
        for target, part in zip(best, point, strict=True):
            target[unsolved] = part
        norm = point.gradient.norm(dim=1)
        better = unsolved[norm < least[unsolved]]
        improved[better] = iterations[better]
        least[unsolved] = torch.minimum(least[unsolved], norm)
        rest = norm > tolerance
        if not bool(rest.any()):
            status = Status.SOLVED
            break
        if not bool(rest.all()):
            unsolved, problem, point, norm = unsolved[rest], problem.select(rest), point.select(rest), norm[rest]
        damping = 1e-12 + 1e-3 * norm.clamp(max=1e-2)
        step = _newton_step(A, point, damping, norm.sqrt().clamp(max=0.1), max_inner)
        point = _line_search(problem, point, step)
        iterations[unsolved] += 1
        if bool((iterations[unsolved] - improved[unsolved] > PATIENCE).all()):
            status = Status.STALLED
            break
    return _certified(best, whole, iterations, status)


def _line_search(problem: _Problem, point: _Point, step: Tensor) -> _Point:
    """Backtrack each problem to a sufficient decrease of phi; one that finds none stays where it is."""
    slope = (point.gradient * step).sum(1)
    length = torch.ones_like(slope)
    for _ in range(30):
        trial = _at(point.y + length[:, None] * step, problem)
        enough = trial.phi <= point.phi + 1e-4 * length * slope + point.noise + trial.noise
        if bool(enough.all()):
            break
        length = torch.where(enough, length, length / 2)
    kept = [
        torch.where(enough.view(-1, *[1] * (new.ndim - 1)), new, old) for old, new in zip(point, trial, strict=True)
    ]
    return _Point(*kept)


def _certified(point: _Point, problem: _Problem, iterations: Tensor, status: Status) -> Solution:
    """Measure the answer afresh, from z alone where that is possible."""
    residual = (point.z - problem.x) @ problem.A.mT
    primal = ((point.z - problem.t) ** 2).sum(1) / 2
    violation = torch.maximum(problem.lower - point.z, point.z - problem.upper).clamp_min(0).amax(1)
    gap = (point.y * residual).sum(1).abs() / (1 + primal)
    return Solution(point.z, residual.norm(dim=1), violation, gap, iterations, status)
