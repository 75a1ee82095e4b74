"""Least squares inside a box, many right-hand sides at once: the point whose image under A comes nearest to b.

For each problem   minimise ||A v - b||   subject to   l <= v <= u;   of several minimisers that reach b, the shortest.

- Where v = A^+ b lies in the box, it is the answer.
- Otherwise Mehrotra's predictor-corrector method (1992). With D = diag(slack / dual variable) each iteration factorises
  the small matrix I + A D A^T, whose eigenvalues are at least 1, so that neither singular values of A close to zero nor
  optima that have almost every entry on a bound make it creep; it takes about 5 to 25 iterations.
- Where b is reached, the shortest v is the projection of 0 onto {v : A v = b} and the box: `box_projection`.

Certificate. With r = b - A v and g = A^T r, the duality gap of 1/2 ||A v - b||^2 is the Frank-Wolfe gap

    gap = sum_i max(g_i (u_i - v_i), g_i (l_i - v_i)),   and   ||r|| - min ||r|| <= min(||r||, gap / ||r||).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.solvers.box_projection import project_affine_box
from nullspace_cli.engine.solvers.device_waits import places
from nullspace_cli.engine.solvers.mehrotra import SHORT_OF_THE_BOUND, newton_rhs, step_length
from nullspace_cli.engine.solvers.side_by_side import side_by_side
from nullspace_cli.engine.solvers.solution import Solution, Status


class _Problem(NamedTuple):
    """min ||A v - b|| over the box; `enough` is the excess that counts as solved."""

    A: Float[Tensor, "d n"]
    b: Float[Tensor, "p d"]
    lower: Float[Tensor, "p n"]
    upper: Float[Tensor, "p n"]
    enough: Float[Tensor, " p"]

    def select(self, which: Tensor) -> "_Problem":
        return self._replace(
            b=self.b[which], lower=self.lower[which], upper=self.upper[which], enough=self.enough[which]
        )

    def examine(self, v: Float[Tensor, "p n"]) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"], Float[Tensor, "p n"]]:
        """||r||, the bound on its excess, and g = A^T r."""
        r = self.b - v @ self.A.mT
        g = r @ self.A
        size = r.norm(dim=1)
        gap = torch.maximum(g * (self.upper - v), g * (self.lower - v)).sum(1)
        return size, torch.minimum(size, gap / size.clamp_min(1e-300)), g


def bounded_least_squares(
    A: Float[Tensor, "d n"],
    b: Float[Tensor, "p d"],
    lower: Float[Tensor, "..."] | float,
    upper: Float[Tensor, "..."] | float,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 60,
) -> Solution:
    """Minimise ||A v - b||_2 over lower <= v <= upper for every row of b.

    Where b can be reached, v is the shortest that reaches it. Where it cannot, the minimiser is unique unless columns
    of A depend on each other in a special way; then v is one of them.

    Args:
        A: any matrix, of any rank, in float64.
        b: right-hand sides.
        lower, upper: finite bounds, lower <= 0 <= upper and lower < upper, broadcast to v.
        tolerance: largest excess of ||A v - b|| over its minimum that counts as solved, as a share of ||b||.
        max_iterations: of the interior point method.

    Returns:
        The minimisers v, inside the bounds exactly. `residual` is ||A v - b||, `gap` a proven bound on how far it
        exceeds the least possible, both in the units of b; `iterations` are those of the interior point method and of
        the projection that follows, 0 where A^+ b lies in the box.
    """
    p, n = len(b), A.shape[1]
    low, high = (torch.as_tensor(bound, dtype=A.dtype, device=A.device).expand(p, n) for bound in (lower, upper))
    U, sigma, rows = torch.linalg.svd(A, full_matrices=False)
    kept = places(sigma > max(A.shape) * torch.finfo(A.dtype).eps * sigma.amax())
    U, sigma, rows = U[:, kept], sigma[kept], rows[kept]
    scale = b.norm(dim=1)
    whole = _Problem(A, b, low, high, tolerance * scale)
    # In the singular vectors' coordinates, without what no v reaches. A quarter: see `reached`.
    turned = _Problem(sigma[:, None] * rows, b @ U, low, high, tolerance / 4 * scale)

    v = (turned.b / sigma) @ rows
    iterations = torch.zeros(p, dtype=torch.int64, device=b.device)
    outside = places(((v < low) | (v > high)).any(1))
    at_once = side_by_side(b.device, 2 * len(rows) ** 2 + 30 * n)  # numbers of each, as measured
    for some in outside.split(at_once):
        v[some], iterations[some] = _interior_point(turned.select(some), max_iterations)
    # Where the least residual is 0, the excess is at least half the residual.
    reached = outside[turned.select(outside).examine(v[outside])[0] <= tolerance / 2 * scale[outside]]
    shortest = True
    if len(reached):
        near = float(tolerance / 2 * scale[reached].amin() / sigma[0])
        x = v[reached]
        found = project_affine_box(rows, x, torch.zeros_like(x), low[reached], high[reached], tolerance=near)
        v[reached] = torch.where((found.residual <= near)[:, None], found.value, x)
        iterations[reached] += found.iterations
        shortest = found.status is Status.SOLVED
    residual, excess, _ = whole.examine(v)
    solved = shortest and bool((excess <= whole.enough).all())
    return Solution(
        value=v,
        residual=residual,
        bound_violation=torch.maximum(low - v, v - high).clamp_min(0).amax(1),
        gap=excess,
        iterations=iterations,
        status=Status.SOLVED if solved else Status.ITERATION_LIMIT,
    )


def _interior_point(problem: _Problem, max_iterations: int) -> tuple[Float[Tensor, "p n"], Int[Tensor, " p"]]:
    """The point of the least excess on each problem's way, and how many iterations it took."""
    width = problem.upper - problem.lower
    slack = torch.stack([width, width], 1) / 2
    best = problem.lower + width / 2
    _, _, g = problem.examine(best)
    # Dual variables that fit the gradient -g, all of at least its mean size.
    spare = g.abs().mean(1, keepdim=True).clamp_min(1e-300)
    duals = torch.stack([(-g).clamp_min(0) + spare, g.clamp_min(0) + spare], 1)
    least = torch.full_like(problem.enough, torch.inf)
    iterations = torch.zeros(len(best), dtype=torch.int64, device=best.device)
    unsolved = torch.arange(len(best), device=best.device)  # the problems that `problem`, `slack` and `duals` hold
    for iteration in range(max_iterations + 1):
        v = (problem.lower + slack[:, 0]).clamp(problem.lower, problem.upper)
        _, excess, g = problem.examine(v)
        better = excess < least[unsolved]
        least[unsolved] = torch.where(better, excess, least[unsolved])
        best[unsolved] = torch.where(better[:, None], v, best[unsolved])
        iterations[unsolved] = iteration
        rest = places((excess > problem.enough) & excess.isfinite())
        if iteration == max_iterations or not len(rest):
            break
        unsolved, problem, slack, duals, g = unsolved[rest], problem.select(rest), slack[rest], duals[rest], g[rest]
        slack, duals = _advance(problem.A, slack, duals, g)
    return best, iterations


def _advance(
    A: Tensor, slack: Float[Tensor, "p 2 n"], duals: Float[Tensor, "p 2 n"], g: Float[Tensor, "p n"]
) -> tuple[Tensor, Tensor]:
    """One predictor-corrector iteration on the slacks to both bounds (v - l, u - v) and their dual variables."""
    D = 1 / (duals / slack).sum(1)
    factor = _factor(A, D)
    dual_residual = -g - duals[:, 0] + duals[:, 1]
    products = slack * duals

    def solve(right: Float[Tensor, "p n"]) -> Float[Tensor, "p n"]:
        """The change with (1 / D + A^T A) change = right."""
        image = torch.cholesky_solve(((D * right) @ A.mT)[..., None], factor)[..., 0] @ A
        return D * (right - image)

    def step(aim: Float[Tensor, "p 2 n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Changes of slacks and duals that change the products by `aim`, to first order, and how far they may go."""
        rhs = newton_rhs(aim, slack, dual_residual)
        change = solve(rhs)
        change += solve(rhs - change / D - (change @ A.mT) @ A)  # where D is huge, `solve` cancels digits
        along = torch.stack([change, -change], 1)
        dual_step = (aim - duals * along) / slack
        return (
            along,
            dual_step,
            torch.minimum(step_length(slack, along), step_length(duals, dual_step))[:, None, None],
        )

    along, dual_step, length = step(-products)
    mean = products.mean((1, 2), keepdim=True)
    after = ((slack + length * along) * (duals + length * dual_step)).mean((1, 2), keepdim=True)
    along, dual_step, length = step((after / mean) ** 3 * mean - products - along * dual_step)
    length = SHORT_OF_THE_BOUND * length
    return slack + length * along, duals + length * dual_step


def _factor(A: Float[Tensor, "d n"], D: Float[Tensor, "p n"]) -> Float[Tensor, "p d d"]:
    """Cholesky factors of I + A D A^T."""
    matrices = torch.stack([(A * weights) @ A.mT for weights in D])
    matrices.diagonal(dim1=1, dim2=2).add_(1)
    factor, _ = torch.linalg.cholesky_ex(matrices)
    return factor
