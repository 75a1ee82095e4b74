"""The nearest point of an affine set and a box, p = 1 or p = 2: the paper's watermark problem (eq. 7), hard cases too.

For each problem   minimise ||z - t||_1 or 1/2 ||z - t||_2^2   subject to   A z = A x,  l <= z <= u.

Both are written as one: z is a start plus signed, bounded, non-negative moves w. For p = 2 there is one move, up from
l. For p = 1 there are two, up and down from t clipped to the box (which changes the objective by a constant only):

    minimise   <c, w> + q/2 ||w||^2   subject to   A sum_k sign_k w_k = A (x - start),  0 <= w <= range.

That is solved by Mehrotra's predictor-corrector method (1992) with Gondzio's centrality correctors (1996). Each
iteration factorises A D A^T [r, r], with positive weights D, once for every problem.

Where x lies on many bounds, there may be no feasible point off them, or hardly one. The optimum then has few free
entries and huge multipliers, and A D A^T comes close to singular. Two things keep the method exact there. A proximal
term, which vanishes as the iterates settle, bounds D while the equality is not met (Altman and Gondzio 1999). And the
factor only preconditions conjugate gradients, so that its own regularisation leaves no trace in the step. The few
problems that do not end even so are tried again by themselves, with the rows of A rotated (`_graded`).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.device_waits import places
from nullspace_cli.engine.solvers.mehrotra import SHORT_OF_THE_BOUND, newton_rhs, step_length
from nullspace_cli.engine.solvers.side_by_side import side_by_side
from nullspace_cli.engine.solvers.solution import AffineBox, Norm, Solution, Status, gap_of

FIRST_TRY = 30
"""Iterations before a problem is tried again by itself, in graded rows; most take 5 to 25."""

PROXIMAL = 1e-3
"""The proximal term's curvature while the equality is not met; after that it falls tenfold each iteration."""


CENTRING = 0.01
"""Smallest product of slack and dual variable that is aimed at, per unit of the equality's residual."""

CORRECTORS = 3
"""Most centrality correctors in an iteration: each costs a solve and may save a factorisation."""

REFINEMENTS = 20
"""Most conjugate gradient steps in a solve."""


class _Moves(NamedTuple):
    """The problem in its bounded form, each [p, k, n] with k = 1 (p = 2) or 2 (p = 1), but start [p, n].

    A move of no range becomes one in [0, 1] without sign or cost: it takes part in nothing and stays in the middle.
    """

    start: Tensor
    sign: Tensor
    cost: Tensor
    curvature: Tensor
    range: Tensor

    @classmethod
    def of(cls, problem: AffineBox, norm: Norm) -> "_Moves":
        _, _, t, lower, upper = problem
        if norm == 1:
            start = t.clamp(lower, upper)
            reach = torch.stack([upper - start, start - lower], 1)
            sign, cost, curvature = reach.new_tensor([[1.0], [-1.0]]), torch.ones_like(reach), 0.0
        else:
            start, reach = lower, (upper - lower)[:, None]
            sign, cost, curvature = reach.new_tensor([[1.0]]), (lower - t)[:, None], 1.0
        movable = (reach > 0).to(t.dtype)
        return cls(start, sign * movable, cost * movable, curvature * movable, torch.where(reach > 0, reach, 1.0))

    def select(self, which: Tensor) -> "_Moves":
        return _Moves(*(part[which] for part in self))

    def combine(self, w: Float[Tensor, "p k n"]) -> Float[Tensor, "p n"]:
        return (self.sign * w).sum(1)

    def spread(self, g: Float[Tensor, "p n"]) -> Float[Tensor, "p k n"]:
        return self.sign * g[:, None]


class _Iterate(NamedTuple):
    """A point, or a step: `slack` to both bounds (w, range - w) and their dual variables, [p, 2, k, n]; `y` [p, r]."""

    slack: Tensor
    duals: Tensor
    y: Tensor

    def select(self, which: Tensor) -> "_Iterate":
        return _Iterate(*(part[which] for part in self))

    def unless(self, rows: Bool[Tensor, " p"], other: "_Iterate") -> "_Iterate":
        """Itself, but the given rows from `other`."""
        return _Iterate(*(_where(rows, theirs, mine) for theirs, mine in zip(other, self, strict=True)))

    def moved(self, step: "_Iterate", primal: Tensor, dual: Tensor) -> "_Iterate":
        return _Iterate(
            self.slack + _wide(primal) * step.slack,
            self.duals + _wide(dual) * step.duals,
            self.y + dual[:, None] * step.y,
        )

    def products(self) -> Float[Tensor, "p 2 k n"]:
        return self.slack * self.duals

    def mean_product(self) -> Float[Tensor, " p"]:
        return self.products().flatten(1).mean(1)


def _wide(numbers: Float[Tensor, " p"]) -> Float[Tensor, "p 1 1 1"]:
    return numbers[:, None, None, None]


def solve_affine_box(
    A: Float[Tensor, "r n"],
    x: Float[Tensor, "p n"],
    t: Float[Tensor, "p n"],
    lower: Float[Tensor, "..."] | float = 0.0,
    upper: Float[Tensor, "..."] | float = 1.0,
    *,
    norm: Norm,
    tolerance: float = 1e-9,
    gap: float = 1e-7,
    max_iterations: int = 150,
) -> Solution:
    """Minimise ||z - t||_1 or 1/2 ||z - t||_2^2 over {z : A z = A x, lower <= z <= upper} for every row of t.

    Args:
        A: orthonormal rows; the accuracy of everything is that of their dtype (float64 for a certificate).
        x: points in the box; each makes its problem feasible.
        t: targets; they may lie outside the box.
        lower, upper: bounds, broadcast to t; equal ones fix an entry.
        norm: 1 or 2.
        tolerance: largest ||A (z - x)||_2 that counts as solved.
        gap: largest (primal - dual) / (1 + primal) that counts as solved.
        max_iterations: for each problem, and once more for one that is tried again in graded rows.

    Returns:
        The minimisers. The bounds hold exactly.
    """
    whole = AffineBox.broadcast(A, x, t, lower, upper)
    z = whole.t.clamp(whole.lower, whole.upper)  # the answer wherever it is feasible
    y = t.new_zeros(len(t), len(A))
    iterations = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    missed = places(~(whole.residual(z).norm(dim=1) <= tolerance))
    z[missed], y[missed], iterations[missed], solved = minimise(
        whole.select(missed), norm, tolerance, gap, max_iterations
    )
    status = Status.SOLVED if bool(solved.all()) else Status.ITERATION_LIMIT
    return Solution.certified(whole, z, y, norm, iterations, status)


Outcome = tuple[Float[Tensor, "p n"], Float[Tensor, "p r"], Int[Tensor, " p"], Bool[Tensor, " p"]]
"""The best z and y of each problem, how many iterations it took, and whether it was solved."""


def minimise(problem: AffineBox, norm: Norm, tolerance: float, gap: float, max_iterations: int) -> Outcome:
    """The method alone, for a solver that certifies by itself; arguments as in `solve_affine_box`."""
    rank, size = problem.A.shape
    at_once = side_by_side(problem.t.device, 3 * rank**2 + 70 * size)  # numbers of each, as measured
    places = torch.arange(len(problem.t), device=problem.t.device).split(at_once)
    first = min(max_iterations, FIRST_TRY)
    parts = [_minimise(problem.select(some), norm, tolerance, gap, first) for some in places]
    z, y, iterations, solved = (torch.cat(part) for part in zip(*parts, strict=True))
    for one in torch.nonzero(~solved):
        hard = problem.select(one)
        rotation, graded = _graded(hard, tolerance)
        # Half the tolerance: the other half is for what grading sets to zero.
        z[one], rotated, more, _ = _minimise(hard._replace(A=graded), norm, tolerance / 2, gap, max_iterations)
        y[one] = rotated @ rotation.mT
        iterations[one] += more
        solved[one] = (hard.residual(z[one]).norm(dim=1) <= tolerance) & (gap_of(hard, z[one], y[one], norm) <= gap)
    return z, y, iterations, solved


def _graded(problem: AffineBox, tolerance: float) -> tuple[Float[Tensor, "r r"], Float[Tensor, "r n"]]:
    """U and U^T A, whose rows, on the entries where x is off its bounds, are orthogonal and of decreasing size.

    The multipliers of a problem with hardly an interior are huge along combinations of rows that all but vanish there.
    In A these are sums that cancel, and rounding errors drown them; as rows of their own they are exact.
    """
    free = ((problem.x > problem.lower) & (problem.x < problem.upper))[0]
    U, sizes, _ = torch.linalg.svd(problem.A[:, free])
    graded = U.mT @ problem.A
    negligible = torch.ones(len(U), dtype=torch.bool, device=free.device)
    negligible[: len(sizes)] = sizes < 1e-4 * tolerance
    graded[negligible[:, None] & free] = 0.0
    return U, graded


def _minimise(problem: AffineBox, norm: Norm, tolerance: float, gap: float, max_iterations: int) -> Outcome:
    moves = _Moves.of(problem, norm)
    here = _first(problem, moves)
    proximal = torch.full_like(here.y[:, 0], PROXIMAL)
    z, y = problem.x.clone(), torch.zeros_like(here.y)
    best = torch.full_like(proximal, torch.inf)
    iterations = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    solved = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    unsolved = torch.arange(len(z), device=z.device)  # the problems that `problem`, `moves` and `here` hold
    for iteration in range(max_iterations + 1):
        point = (moves.start + moves.combine(here.slack[:, 0])).clamp(problem.lower, problem.upper)
        residual = problem.residual(point)
        size, distance = residual.norm(dim=1), gap_of(problem, point, here.y, norm)
        met = size <= tolerance
        done = met & (distance <= gap)
        # Of points that meet the equality the smallest gap is kept, before that the smallest residual.
        merit = torch.where(met, distance / (1 + distance), 1 + size)
        better = merit < best[unsolved]
        for kept, new in ((best, merit), (z, point), (y, here.y)):
            kept[unsolved] = _where(better, new, kept[unsolved])
        iterations[unsolved], solved[unsolved] = iteration, done
        rest = places(~done & merit.isfinite())
        if iteration == max_iterations or not len(rest):
            break
        proximal = torch.where(met, (proximal / 10).clamp_min(1e-8), PROXIMAL)
        if len(rest) < len(done):
            unsolved, residual, proximal = unsolved[rest], residual[rest], proximal[rest]
            problem, moves, here = problem.select(rest), moves.select(rest), here.select(rest)
        here = _advance(problem.A, moves, here, residual, proximal, norm, tolerance)
    return z, y, iterations, solved


def _first(problem: AffineBox, moves: _Moves) -> _Iterate:
    """Start near x, off the bounds, with y = 0 and dual variables that fit the costs and make products of about 1."""
    away = problem.x - moves.start
    w = moves.spread(away).clamp_min(0)
    w = torch.maximum(torch.minimum(w, 0.9 * moves.range), 0.1 * moves.range)
    slack = torch.stack([w, moves.range - w], 1)
    reduced = moves.cost + moves.curvature * w
    at_lower = torch.maximum(1 / slack[:, 0], reduced + 1 / slack[:, 1])
    return _Iterate(slack, torch.stack([at_lower, at_lower - reduced], 1), away.new_zeros(len(away), len(problem.A)))


def _advance(
    A: Tensor, moves: _Moves, here: _Iterate, residual: Tensor, proximal: Tensor, norm: Norm, tolerance: float
) -> _Iterate:
    """One predictor-corrector iteration."""
    newton = _Newton(A, moves, here, residual, proximal, tolerance)
    mean = here.mean_product()

    def lengths(step: _Iterate) -> tuple[Tensor, Tensor]:
        primal, dual = step_length(here.slack, step.slack), step_length(here.duals, step.duals)
        # With curvature the dual residual depends on w: only equal lengths shrink it.
        return (primal, dual) if norm == 1 else (torch.minimum(primal, dual),) * 2

    step = newton.step(-here.products())
    after = here.moved(step, *lengths(step)).mean_product()
    # Products far smaller than the equality's residual would leave no room to meet it.
    target = _wide(torch.maximum((after / mean) ** 3 * mean, CENTRING * residual.norm(dim=1)))
    aim = target - here.products() - step.slack * step.duals
    step = newton.step(aim)
    primal, dual = lengths(step)
    for _ in range(CORRECTORS):
        products = here.moved(step, (primal + 0.1).clamp_max(1), (dual + 0.1).clamp_max(1)).products()
        centred = aim + (products.clamp(0.1 * target, 10 * target) - products).maximum(-10 * target)
        trial = newton.step(centred)
        trial_primal, trial_dual = lengths(trial)
        longer = trial_primal + trial_dual >= primal + dual + 0.01
        if not bool(longer.any()):
            break
        step = step.unless(longer, trial)
        aim = _where(longer, centred, aim)
        primal, dual = torch.where(longer, trial_primal, primal), torch.where(longer, trial_dual, dual)
    return here.moved(step, SHORT_OF_THE_BOUND * primal, SHORT_OF_THE_BOUND * dual)


def _where(rows: Bool[Tensor, " p"], new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)


class _Newton:
    """The linear systems of one iteration, factorised once."""

    def __init__(
        self,
        A: Tensor,
        moves: _Moves,
        here: _Iterate,
        residual: Float[Tensor, "p r"],
        proximal: Float[Tensor, " p"],
        tolerance: float,
    ) -> None:
        self.A, self.moves, self.here, self.residual = A, moves, here, residual
        self.accuracy = 1e-4 * tolerance
        w, duals = here.slack[:, 0], here.duals
        slope = moves.cost + moves.curvature * w - moves.spread(here.y @ A)
        self.dual_residual = slope - duals[:, 0] + duals[:, 1]
        self.theta = 1 / (moves.curvature + proximal[:, None, None] + (duals / here.slack).sum(1))
        self.D = (self.theta * moves.sign**2).sum(1)
        self.factor = _factor(A, self.D)

    def step(self, aim: Float[Tensor, "p 2 k n"]) -> _Iterate:
        """The step that meets the equality and changes the products by `aim`, to first order."""
        moves, slack, duals = self.moves, self.here.slack, self.here.duals
        rhs = newton_rhs(aim, slack, self.dual_residual)
        dy, image = self._solve(-self.residual - moves.combine(self.theta * rhs) @ self.A.mT)
        dw = self.theta * (moves.spread(image) + rhs)
        change = torch.stack([dw, -dw], 1)
        return _Iterate(change, (aim - duals * change) / slack, dy)

    def _solve(self, right: Float[Tensor, "p r"]) -> tuple[Float[Tensor, "p r"], Float[Tensor, "p n"]]:
        """dy with A D A^T dy = right, and A^T dy.

        By conjugate gradients that the factor preconditions: one step of them, or a few in hard cases.
        """
        dy, _ = conjugate_gradients(
            lambda y: ((y @ self.A) * self.D) @ self.A.mT,
            right,
            relative=1e-8,  # counts what is small in `right` by small weights, as in graded rows
            absolute=self.accuracy,
            preconditioner=self._by_factor,
            max_iterations=REFINEMENTS,
            asked_every=2,  # it is rarely more than one
        )
        return dy, dy @ self.A

    def _by_factor(self, right: Float[Tensor, "p r"]) -> Float[Tensor, "p r"]:
        return torch.cholesky_solve(right[..., None], self.factor)[..., 0]


def _factor(A: Float[Tensor, "r n"], D: Float[Tensor, "p n"]) -> Float[Tensor, "p r r"]:
    """Cholesky factors of A D A^T, each with as small a shift of its diagonal as lets it exist in floating point."""
    half = len(A) // 2
    matrices = A.new_zeros(len(D), len(A), len(A))
    for matrix, weights in zip(matrices, D, strict=True):
        # Only what is not above the diagonal is read: three quarters of the products.
        weighted = A * weights
        matrix[:, :half] = weighted @ A[:half].mT
        matrix[half:, half:] = weighted[half:] @ A[half:].mT
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    shift = 1e-14 * diagonal
    for _ in range(8):
        diagonal += shift
        factor, failed = torch.linalg.cholesky_ex(matrices)
        if not bool(failed.any()):
            break
        shift = torch.where(failed[:, None] > 0, 100 * shift, 0.0)
    return factor
