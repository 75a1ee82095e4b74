"""The nearest point of an affine set, no box: A z = A x with some entries of z given (paper, A.3), p = 1 or p = 2.

With F the free entries and v = z_F - t_F, minimise ||v||_p subject to A_F v = b = A (x - t). With A_F = U S V^T,

- p = 2 has the closed form v = V S^-1 U^T b, by the pseudo-inverse;
- p = 1 is a linear program. Its minimisers have ||v||_inf <= ||v||_1 <= ||V S^-1 U^T b||_1, so that bounds of this last
  size change nothing: the interior point method for boxes solves it, certificate and all.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.solvers.interior_point import solve_affine_box
from nullspace_cli.engine.solvers.solution import AffineBox, Norm, Solution, Status


def nearest_affine(
    A: Float[Tensor, "r n"],
    x: Float[Tensor, "p n"],
    t: Float[Tensor, "p n"],
    free: Bool[Tensor, " n"],
    *,
    norm: Norm,
) -> Solution:
    """Minimise ||z - t||_p subject to A z = A x and z = t wherever not `free`, for every row of t.

    Args:
        A: orthonormal rows, of which A[:, free] has full row rank; float64 for a certificate.
        x, t: points and targets, anywhere.

    Returns:
        The minimisers. `residual` is ||A (z - x)||_2; nothing is bounded, so that `bound_violation` is 0.
    """
    U, sigma, Vt = torch.linalg.svd(A[:, free], full_matrices=False)
    z = t.clone()
    v = torch.zeros_like(t[:, free])
    for _ in range(2):  # the second time for what rounding left of the first
        b = (x - z) @ A.mT
        v = v + (b @ U / sigma) @ Vt
        z[:, free] = t[:, free] + v
    # Each problem in units of its own shortest solution: a tolerance then means the same for all of them.
    scale = v.abs().amax(1, keepdim=True).clamp_min(1e-12)
    v, zero = v / scale, torch.zeros_like(v)
    if norm == 2:
        unbounded = torch.full_like(v, torch.inf)
        problem = AffineBox(Vt, v, zero, -unbounded, unbounded)
        count = torch.zeros(len(v), dtype=torch.int64, device=v.device)
        solution = Solution.certified(problem, v, v @ Vt.mT, 2, count, Status.SOLVED)
    else:
        reach = v.abs().sum(1, keepdim=True).clamp_min(1)
        solution = solve_affine_box(Vt, v, zero, -reach, reach, norm=1)
    z[:, free] = t[:, free] + scale * solution.value
    residual = ((z - x) @ A.mT).norm(dim=1)
    return replace(solution, value=z, residual=residual, bound_violation=torch.zeros_like(residual))
