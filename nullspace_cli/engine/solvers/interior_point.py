"""The nearest point of an affine set and a box, p = 1 or p = 2: the paper's watermark problem (eq. 7), hard cases too.

For each problem   minimise ||z - t||_1 or 1/2 ||z - t||_2^2   subject to   A z = A x,  l <= z <= u.

Both are written as one: z is a start plus signed, bounded, non-negative moves w. For p = 2 there is one move, up from
l. For p = 1 there are two, up and down from t clipped to the box (which changes the objective by a constant only):

    minimise   <c, w> + q/2 ||w||^2   subject to   A sum_k sign_k w_k = A (x - start),  0 <= w <= range.

That is solved by Mehrotra's predictor-corrector method (1992) with Gondzio's centrality correctors (1996). Each
iteration inverts A D A^T [r, r], with positive weights D, once for every problem.

As A has orthonormal rows, A D A^T = b I + A (D - b) A^T for any b. Entries that are settled, at t or at a bound, have
small weights: they count with their mean weight b, and only the others are multiplied out. The first iterations, of
whose digits few are needed, are done in single precision. The inverse that is so found sets and corrects what a step
aims at; the step itself is solved for by conjugate gradients that it preconditions, so that its errors leave no trace.

Where x lies on many bounds, there may be no feasible point off them, or hardly one. The optimum then has few free
entries and huge multipliers, and A D A^T comes close to singular. Conjugate gradients keep the method exact there; a
proximal term, which vanishes as the iterates settle, bounds D while the equality is not met (Altman and Gondzio 1999).
The few problems that do not end even so are tried again by themselves, with the rows of A rotated (`_graded`).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.device_waits import places
from nullspace_cli.engine.solvers.mehrotra import SHORT_OF_THE_BOUND, step_length
from nullspace_cli.engine.solvers.side_by_side import side_by_side
from nullspace_cli.engine.solvers.solution import AffineBox, Norm, Solution, Status, gap_of

FIRST_TRY = 30
"""Iterations before a problem is tried again by itself, in graded rows; most take 5 to 25."""

ROUGH = 1e-2
"""Once a problem has a gap this small, single precision is left for double."""

SETTLED = 2.0
"""Largest weight that counts as settled, in units of the lower half's mean, until that has made a problem hard."""

PROXIMAL = 1e-3
"""The proximal term's curvature while the equality is not met; after that it falls tenfold each iteration."""

CENTRING = 0.01
"""Smallest product of slack and dual variable that is aimed at, per unit of the equality's residual."""

CORRECTORS = 4
"""Most centrality correctors in an iteration: each costs a product with the inverse and may save an inverse."""

REFINEMENTS = 6
"""Most conjugate gradient steps in an iteration; a problem that needs more has all its weights multiplied out."""

MORE_REFINEMENTS = 20
"""The same in graded rows."""


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

    def to(self, dtype: torch.dtype) -> "_Moves":
        return _Moves(*(part.to(dtype) for part in self))

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

    def to(self, dtype: torch.dtype) -> "_Iterate":
        return _Iterate(*(part.to(dtype) for part in self))

    def plus(self, step: "_Iterate") -> "_Iterate":
        return _Iterate(*(ours + theirs for ours, theirs in zip(self, step, strict=True)))

    def put(self, rows: Int[Tensor, " k"], other: "_Iterate") -> None:
        """Take the given rows from `other`."""
        for mine, theirs in zip(self, other, strict=True):
            mine[rows] = theirs[rows]

    def moved(self, step: "_Iterate", primal: Tensor, dual: Tensor) -> "_Iterate":
        return _Iterate(
            torch.addcmul(self.slack, _wide(primal), step.slack),
            torch.addcmul(self.duals, _wide(dual), step.duals),
            torch.addcmul(self.y, dual[:, None], step.y),
        )

    def products(self) -> Float[Tensor, "p 2 k n"]:
        return self.slack * self.duals


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
    at_once = side_by_side(problem.t.device, 4 * rank**2 + 80 * size)  # numbers of each
    places = torch.arange(len(problem.t), device=problem.t.device).split(at_once)
    first = min(max_iterations, FIRST_TRY)
    parts = [_minimise(problem.select(some), norm, tolerance, gap, first) for some in places]
    z, y, iterations, solved = (torch.cat(part) for part in zip(*parts, strict=True))
    for one in torch.nonzero(~solved):
        hard = problem.select(one)
        rotation, graded = _graded(hard, tolerance)
        # Half the tolerance: the other half is for what grading sets to zero.
        z[one], rotated, more, _ = _minimise(
            hard._replace(A=graded), norm, tolerance / 2, gap, max_iterations, carefully=True
        )
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


def _minimise(
    problem: AffineBox, norm: Norm, tolerance: float, gap: float, max_iterations: int, *, carefully: bool = False
) -> Outcome:
    moves = _Moves.of(problem, norm)
    here, spent = _first(problem, moves), 0
    if not carefully and problem.A.dtype == torch.float64:
        here, spent = _approach(problem, moves, here, norm, max_iterations)
    care = _Care(1e-8, 1e-4 * tolerance, MORE_REFINEMENTS if carefully else REFINEMENTS)
    columns = problem.A.mT.contiguous()
    proximal = torch.full_like(here.y[:, 0], PROXIMAL)
    z, y = problem.x.clone(), torch.zeros_like(here.y)
    settled = torch.full_like(proximal, 0.0 if carefully else SETTLED)
    best = torch.full_like(proximal, torch.inf)
    iterations = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    solved = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    unsolved = torch.arange(len(z), device=z.device)  # the problems that `problem`, `moves` and `here` hold
    for iteration in range(spent, max_iterations + 1):
        point, residual, distance = _state(problem, moves, here, norm)
        size = residual.norm(dim=1)
        met = size <= tolerance
        done = met & (distance <= gap)
        # Of points that meet the equality the smallest gap is kept, before that the smallest residual.
        merit = torch.where(met, distance / (1 + distance), 1 + size)
        better = merit < best[unsolved]
        for kept, new in ((best, merit), (z, point), (y, here.y)):
            kept[unsolved] = torch.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, kept[unsolved])
        iterations[unsolved], solved[unsolved] = iteration, done
        rest = places(~done & merit.isfinite())
        if iteration == max_iterations or not len(rest):
            break
        proximal = torch.where(met, (proximal / 10).clamp_min(1e-8), PROXIMAL)
        if len(rest) < len(done):
            unsolved, residual, proximal, settled = unsolved[rest], residual[rest], proximal[rest], settled[rest]
            problem, moves, here = problem.select(rest), moves.select(rest), here.select(rest)
        here, settled, _ = _advance(columns, moves, here, residual, proximal, settled, norm, care)
    return z, y, iterations, solved


def _approach(
    problem: AffineBox, moves: _Moves, here: _Iterate, norm: Norm, max_iterations: int
) -> tuple[_Iterate, int]:
    """The way to a gap of `ROUGH`, or to where single precision ends, and how many iterations it took."""
    single, light = AffineBox(*(part.float() for part in problem)), moves.to(torch.float32)
    columns = single.A.mT.contiguous()
    care = _Care(relative=1e-3, absolute=torch.inf, steps=REFINEMENTS)
    there, iterations = here.to(torch.float32), 0
    proximal = torch.full_like(there.y[:, 0], PROXIMAL)
    settled = torch.full_like(proximal, SETTLED)
    while iterations < max_iterations:
        _, residual, distance = _state(single, light, there, norm)
        if not bool((distance > ROUGH).all()):
            break
        after, settled, sound = _advance(columns, light, there, residual, proximal, settled, norm, care)
        if not sound:
            break
        there, iterations = after, iterations + 1
    there = there.to(here.y.dtype)
    # The smaller slack of each move is exact, the other is what it leaves of the range.
    up, down = there.slack.unbind(1)
    slack = torch.stack(
        [torch.where(up < down, up, moves.range - down), torch.where(up < down, moves.range - up, down)], 1
    )
    return there._replace(slack=slack), iterations


def _state(problem: AffineBox, moves: _Moves, here: _Iterate, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """The point z in the box, its residual A (z - x) and its gap."""
    point = (moves.start + moves.combine(here.slack[:, 0])).clamp(problem.lower, problem.upper)
    return point, problem.residual(point), gap_of(problem, point, here.y, norm)


def _first(problem: AffineBox, moves: _Moves) -> _Iterate:
    """Start near x, off the bounds, with y = 0 and dual variables that fit the costs and make products of about 1."""
    away = problem.x - moves.start
    w = moves.spread(away).clamp_min(0)
    w = torch.maximum(torch.minimum(w, 0.9 * moves.range), 0.1 * moves.range)
    slack = torch.stack([w, moves.range - w], 1)
    reduced = moves.cost + moves.curvature * w
    at_lower = torch.maximum(1 / slack[:, 0], reduced + 1 / slack[:, 1])
    return _Iterate(slack, torch.stack([at_lower, at_lower - reduced], 1), away.new_zeros(len(away), len(problem.A)))


class _Care(NamedTuple):
    """How exactly Newton's systems are solved.

    Attributes:
        relative: as of `conjugate_gradients`; counts what is small in the system by small weights, as in graded rows.
        absolute: likewise.
        steps: most of them.
    """

    relative: float
    absolute: float
    steps: int


def _advance(
    columns: Float[Tensor, "n r"],
    moves: _Moves,
    here: _Iterate,
    residual: Float[Tensor, "p r"],
    proximal: Float[Tensor, " p"],
    settled: Float[Tensor, " p"],
    norm: Norm,
    care: _Care,
) -> tuple[_Iterate, Tensor, bool]:
    """One predictor-corrector iteration, the next one's `settled`, and whether the precision was enough."""
    newton = _Newton(columns, moves, here, residual, proximal, settled, care)
    products = here.products()
    mean = products.flatten(1).mean(1)

    def lengths(step: _Iterate) -> tuple[Tensor, Tensor]:
        primal, dual = step_length(here.slack, step.slack), step_length(here.duals, step.duals)
        # With curvature the dual residual depends on w: only equal lengths shrink it.
        return (primal, dual) if norm == 1 else (torch.minimum(primal, dual),) * 2

    step = newton.about(-products)
    second_order = step.slack * step.duals
    after = here.moved(step, *lengths(step)).products().flatten(1).mean(1)
    # Products far smaller than the equality's residual would leave no room to meet it.
    target = _wide(torch.maximum((after / mean) ** 3 * mean, CENTRING * residual.norm(dim=1)))
    aim = target - products - second_order
    step = newton.about(aim)
    primal, dual = lengths(step)
    for _ in range(CORRECTORS):
        products = here.moved(step, (primal + 0.1).clamp_max(1), (dual + 0.1).clamp_max(1)).products()
        near = torch.maximum(torch.minimum(products, 10 * target), 0.1 * target)
        centred = aim + (near - products).maximum(-10 * target)
        trial = newton.about(centred)
        trial_primal, trial_dual = lengths(trial)
        longer = places(trial_primal + trial_dual >= primal + dual + 0.01)
        if not len(longer):
            break
        step.put(longer, trial)
        for kept, new in ((aim, centred), (primal, trial_primal), (dual, trial_dual)):
            kept[longer] = new[longer]
    step = newton.exactly(aim, step.y)
    primal, dual = lengths(step)
    there = here.moved(step, SHORT_OF_THE_BOUND * primal, SHORT_OF_THE_BOUND * dual)
    return there, torch.where(newton.hard, 0.0, settled), newton.sound


class _Newton:
    """The linear systems of one iteration, inverted once."""

    def __init__(
        self,
        columns: Float[Tensor, "n r"],
        moves: _Moves,
        here: _Iterate,
        residual: Float[Tensor, "p r"],
        proximal: Float[Tensor, " p"],
        settled: Float[Tensor, " p"],
        care: _Care,
    ) -> None:
        self.columns, self.moves, self.residual, self.care = columns, moves, residual, care
        self.per_slack = 1 / here.slack
        self.per_step = here.duals * self.per_slack
        slope = moves.cost + moves.curvature * here.slack[:, 0] - moves.spread(here.y @ columns.mT)
        self.dual_residual = slope - here.duals[:, 0] + here.duals[:, 1]
        self.theta = 1 / (moves.curvature + proximal[:, None, None] + self.per_step.sum(1))
        self.D = (self.theta * moves.sign**2).sum(1)
        self.inverse, self.sound = _inverse(columns, self.D, settled)

    def about(self, aim: Float[Tensor, "p 2 k n"]) -> _Iterate:
        """About the step that meets the equality and changes the products by `aim`, to first order."""
        right, rhs, aimed = self._system(aim)
        return self._step(self._by_inverse(right), rhs, aimed)

    def exactly(self, aim: Float[Tensor, "p 2 k n"], dy: Float[Tensor, "p r"]) -> _Iterate:
        """That step, from about its dy."""
        right, rhs, aimed = self._system(aim)
        missing, self.hard = conjugate_gradients(
            self._times,
            right - self._times(dy),
            relative=self.care.relative,
            absolute=self.care.absolute,
            preconditioner=self._by_inverse,
            max_iterations=self.care.steps,
            asked_every=2,
        )
        return self._step(dy + missing, rhs, aimed)

    def _system(self, aim: Tensor) -> tuple[Float[Tensor, "p r"], Float[Tensor, "p k n"], Tensor]:
        aimed = aim * self.per_slack
        rhs = aimed[:, 0] - aimed[:, 1] - self.dual_residual
        return -self.residual - self.moves.combine(self.theta * rhs) @ self.columns, rhs, aimed

    def _step(self, dy: Float[Tensor, "p r"], rhs: Float[Tensor, "p k n"], aimed: Tensor) -> _Iterate:
        dw = self.theta * (self.moves.spread(dy @ self.columns.mT) + rhs)
        change = torch.stack([dw, -dw], 1)
        return _Iterate(change, aimed - self.per_step * change, dy)

    def _times(self, y: Float[Tensor, "p r"]) -> Float[Tensor, "p r"]:
        """A D A^T y."""
        return ((y @ self.columns.mT) * self.D) @ self.columns

    def _by_inverse(self, right: Float[Tensor, "p r"]) -> Float[Tensor, "p r"]:
        return (self.inverse @ right[..., None])[..., 0]


def _inverse(
    columns: Float[Tensor, "n r"], D: Float[Tensor, "p n"], settled: Float[Tensor, " p"]
) -> tuple[Float[Tensor, "p r r"], bool]:
    """About (A D A^T)^-1 of each, and whether it exists in floating point without a shift of the diagonal to speak of.

    Weights of at most `settled` times the lower half's mean count with their mean, if they are more than half of all.
    """
    n, r = columns.shape
    half = r // 2
    middle = D.median(1, keepdim=True)[0]
    lower = (middle >= D).to(D.dtype)
    most = settled[:, None] * (D * lower).sum(1, keepdim=True) / lower.sum(1, keepdim=True)
    light = most >= D
    light &= light.sum(1, keepdim=True) > n / 2
    mean = (D * light).sum(1) / light.sum(1).clamp_min(1)
    heavy, counts = torch.nonzero(~light)[:, 1], (n - light.sum(1)).tolist()
    weights = (D - mean[:, None])[~light][:, None]
    matrices = columns.new_zeros(len(D), r, r)
    for matrix, some, weight in zip(matrices, heavy.split(counts), weights.split(counts), strict=True):
        used = columns if len(some) == n else columns[some]
        weighted = used * weight
        # Only what is not above the diagonal is read: three quarters of the products.
        matrix[:, :half] = weighted.mT @ used[:, :half]
        matrix[half:, half:] = weighted[:, half:].mT @ used[:, half:]
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    diagonal += mean[:, None]
    shift = 50 * torch.finfo(D.dtype).eps * diagonal
    sound = True
    for _ in range(8):
        diagonal += shift
        factor, failed = torch.linalg.cholesky_ex(matrices)
        if not bool(failed.any()):
            break
        sound, shift = False, torch.where(failed[:, None] > 0, 100 * shift, 0.0)
    else:  # the diagonal's, where there is none
        alone = torch.diag_embed(diagonal.clamp_min(torch.finfo(D.dtype).tiny).sqrt())
        factor = torch.where(failed[:, None, None] > 0, alone, factor)
    return torch.cholesky_inverse(factor), sound
