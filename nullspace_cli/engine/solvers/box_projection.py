"""Euclidean projection onto an affine set and a box: the paper's watermark problem (eq. 7) for p = 2, exactly.

For each problem   minimise 1/2 ||z - t||^2   subject to   A z = A x,  l <= z <= u,   with orthonormal rows A [r, n].

The dual has only r variables and no constraints; a semismooth Newton method (`dual_newton`) ends after finitely many
steps. Its Hessian A M A^T, where M marks the entries strictly inside the box, has eigenvalues in [0, 1], mostly near 1:
conjugate gradients solve each Newton system by a few products with A for *all* problems at once, where factorising
would cost n r^2 for each and is kept for the hard ones.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.device_waits import places
from nullspace_cli.engine.solvers.dual_newton import ASKED_EVERY, minimise_dual
from nullspace_cli.engine.solvers.interior_point import minimise
from nullspace_cli.engine.solvers.solution import AffineBox, Solution, Status

NEWTON_STEPS = 25
"""Most problems take 7 to 22; those that take more seldom end soon."""

GAP = 1e-6
"""Largest gap that counts as solved for a problem that Newton's method has handed over."""


def _newton_step(
    A: Tensor, steps: int, free: Bool[Tensor, "p n"], gradient: Tensor, damping: Tensor, forcing: Tensor
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
    point, iterations = minimise_dual(
        problem,
        problem.forward(x - t),  # exact where no bound is active
        partial(_newton_step, A, max_inner),
        tolerance=tolerance,
        max_iterations=min(max_iterations, NEWTON_STEPS),
    )
    z, y, status = point.z, point.y, Status.SOLVED
    stuck = places(~(point.gradient.norm(dim=1) <= tolerance))
    if len(stuck):
        z[stuck], y[stuck], more, solved = minimise(problem.select(stuck), 2, tolerance, GAP, max_iterations)
        iterations[stuck] += more
        status = Status.SOLVED if bool(solved.all()) else Status.ITERATION_LIMIT
    return Solution.certified(problem, z, y, 2, iterations, status)
