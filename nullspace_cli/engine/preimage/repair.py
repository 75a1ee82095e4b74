"""The last few wrong values of a picture's view: repaired one by one, or blended to the source until they are right."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from nullspace_cli.engine.preimage.pillow_passes import Levels, Passes, to_level
from nullspace_cli.engine.preimage.problem import PreimageProblem, Rounded, halved
from nullspace_cli.engine.runtime.stages import stage

FEW = 50
"""Wrong values that are repaired one by one; more are better left to another try as a whole."""

STEPS = (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16)
"""Levels by which the local search changes a pixel; the larger the resize's kernel, the less one pixel does."""


MANY = 500
"""Wrong values that are repaired one by one when nothing else is left to be tried."""

SWEEPS = 12
"""How often the source is restored under the wrong values alone."""

LAST_SWEEP = 40
"""How often it is for another reader's sake."""

KEPT = 0.95
"""Share of the changed pixels that another reader's sake must leave."""

CANDIDATES = 400
"""Pixels that the local search tries for one change; a large kernel has more, much alike."""

KICKS, KICKED = 12, 4
"""How often some pixels are changed by chance where the last search is stuck, and how many."""

DONE = 1e-9
"""Levels that count as none."""


class Repair:
    """Local search around wrong values of the views of one size of picture.

    Args:
        steps: levels by which it changes a pixel.
    """

    def __init__(self, passes: Passes, steps: Sequence[int] = STEPS) -> None:
        self._passes, self._steps = passes, steps

    def __call__(self, found: Rounded, problem: PreimageProblem) -> Rounded:
        """Local search around each wrong value, while they are few; the second time nearer to the source there."""
        for blended in (False, True):
            if not 0 < found.wrong.sum() <= FEW:
                break
            pixels, wrong = found.pixels.copy(), found.wrong
            if blended:
                if problem.source is None:
                    break
                pixels = self.blended(pixels, problem.source, wrong)
                wrong = self._passes(pixels) != problem.wanted
            wrong = self._repair_each(pixels, wrong, problem)
            if wrong.sum() < found.wrong.sum():
                found = found._replace(pixels=pixels, wrong=wrong)
        return found

    def touched_up(self, found: Rounded, problem: PreimageProblem) -> Rounded:
        """Local search around each wrong value, unless they are very many, and nothing else."""
        if not 0 < found.wrong.sum() <= MANY:
            return found
        pixels = found.pixels.copy()
        wrong = self._repair_each(pixels, found.wrong, problem)
        return Rounded(pixels, wrong) if wrong.sum() < found.wrong.sum() else found

    def restored(self, found: Rounded, problem: PreimageProblem) -> Rounded:
        """The source's own pixels under what cannot be repaired, and under what that makes wrong, until nothing is.

        Then under what is astray, as far as that is few and costs little of the picture.
        """
        right = self._given_back(self.touched_up(found, problem), problem)
        astray = problem.astray(right.pixels).sum()
        if not 0 < astray <= MANY:
            return right
        other = self._given_back(right, problem, astray=True)
        less = problem.astray(other.pixels).sum() < astray and not other.wrong.any()
        kept = (other.pixels != problem.source).sum() >= KEPT * (right.pixels != problem.source).sum()
        return other if less and kept else right

    def _given_back(self, found: Rounded, problem: PreimageProblem, *, astray: bool = False) -> Rounded:
        """The source's pixels under what is wrong, or `astray` as well; the best that was come by.

        A value all of whose pixels are the source's is right; what else it touches is repaired with the pixels around.
        Where that goes on and on, because each pixel is read by many values, ever more around is restored at once.
        """
        assert problem.source is not None
        pixels, wrong, fewest = found.pixels.copy(), found.wrong, np.inf
        rows, columns = self._passes.row_windows, self._passes.col_windows
        bounds = (problem.lower, problem.upper)
        lower, upper = (np.array(np.broadcast_to(bound, pixels.shape), np.uint8) for bound in bounds)
        sweep = 0
        while True:
            amiss = wrong | problem.astray(pixels) if astray else wrong
            if amiss.sum() < fewest:
                found, fewest = found._replace(pixels=pixels.copy(), wrong=wrong), amiss.sum()
            if not fewest or (astray and sweep == LAST_SWEEP):
                return found
            near = amiss.any(1)
            if sweep >= SWEEPS and not astray:
                near = maximum_filter(near, 2 ** (sweep - SWEEPS + 1) + 1)
            for i, j in np.argwhere(near):
                part = (rows[i], slice(None), columns[j])
                pixels[part] = lower[part] = upper[part] = problem.source[part]
            wrong = self._passes(pixels) != problem.wanted
            bounded = replace(problem, lower=lower, upper=upper)
            if wrong.sum() <= MANY:
                wrong = self._repair_each(pixels, wrong, bounded)
            if wrong.sum() <= FEW:
                wrong = self._repair_each(pixels, wrong, bounded, KICKS)
            sweep += 1

    def blended(
        self, target: Levels, source: Levels, wrong: Bool[NDArray[np.bool_], "h c w"], *, wholly: bool = False
    ) -> Levels:
        """The target half as far from the source under the wrong values, in all channels; or `wholly` the source."""
        rows, columns = self._passes.row_windows, self._passes.col_windows
        target = target.copy()
        for i, j in np.argwhere(wrong.any(1)):
            part = (rows[i], slice(None), columns[j])
            target[part] = source[part] if wholly else halved(source[part], target[part])
        return target

    def _repair_each(
        self, pixels: Levels, wrong: Bool[NDArray[np.bool_], "h c w"], problem: PreimageProblem, kicks: int = 0
    ) -> Bool[NDArray[np.bool_], "h c w"]:
        """Repair wrong values one after another, in place; what is wrong then."""
        if not wrong.any():
            return wrong
        stage(f"repairing {wrong.sum()} values")
        for i, channel, j in np.argwhere(wrong).tolist():
            self._repair(pixels[:, channel], i, j, problem.wanted[:, channel], problem.bounds_of(channel), kicks)
        return self._passes(pixels) != problem.wanted

    def _repair(
        self,
        plane: UInt8[NDArray[np.uint8], "H W"],
        i: int,
        j: int,
        wanted: UInt8[NDArray[np.uint8], "h w"],
        bounds: tuple[NDArray[np.uint8] | int, NDArray[np.uint8] | int],
        kicks: int,
        steps: int = 20,
    ) -> None:
        """Change single pixels under view value (i, j), by some levels, as long as its neighbourhood gains.

        Args:
            kicks: how often some are changed by chance where that is stuck.
        """
        under = (self._passes.row_windows[i], self._passes.col_windows[j])
        (rows_hit, A), (cols_hit, B) = (
            _touched(matrix, window)
            for matrix, window in zip((self._passes.rows, self._passes.cols), under, strict=True)
        )
        lower, upper = (bound if isinstance(bound, int) else bound[under].astype(int) for bound in bounds)
        around = _reach(self._passes.rows[rows_hit])
        sums = plane[around] @ self._passes.cols[cols_hit].T
        part = _Part(
            plane[under].astype(int),
            lower,
            upper,
            A,
            B,
            self._passes.rows[rows_hit, around] @ to_level(sums),
            sums[under[0].start - around.start : under[0].stop - around.start],
            wanted[rows_hit, cols_hit],
        )
        part.descend(self._steps, steps)
        rng = np.random.default_rng((i, j))
        for _ in range(kicks):
            if part.cost < DONE:
                break
            trial = part.copy()
            trial.kick(rng)
            trial.descend(self._steps, steps)
            if trial.cost < part.cost:
                part = trial
        plane[under] = part.levels


@dataclass
class _Part:
    """The pixels under one value of the view, `levels` [K, L], and all values that read any of them.

    Attributes:
        A, B: coefficients of these values for the rows [m, K] and the columns [n, L].
        V: the values [m, n]; S: what the first pass makes of the rows, before it is rounded [K, n].
        wanted: what the values are to be [m, n].
    """

    levels: NDArray[np.int64]
    lower: NDArray[np.int64] | int
    upper: NDArray[np.int64] | int
    A: NDArray[np.float64]
    B: NDArray[np.float64]
    V: NDArray[np.float64]
    S: NDArray[np.float64]
    wanted: NDArray[np.uint8]

    @property
    def cost(self) -> float:
        return float(_excess(self.V, self.wanted).sum())

    def copy(self) -> "_Part":
        return replace(self, levels=self.levels.copy(), V=self.V.copy(), S=self.S.copy())

    def descend(self, steps: Sequence[int], most: int) -> None:
        """Change single pixels, the best first, as long as the cost gets less."""
        for _ in range(most):
            cost, best = self.cost, None
            for change in steps:
                step = to_level(self.S[:, None] + change * self.B.T) - to_level(self.S)[:, None]  # [K, L, n]: of J
                there = self.levels + change
                k, col = np.nonzero(step.any(2) & (there >= self.lower) & (there <= self.upper))
                if not len(k):
                    continue
                some = np.linspace(0, len(k) - 1, min(len(k), CANDIDATES)).astype(int)
                k, col = k[some], col[some]
                moved = self.V + np.einsum("mn,np->nmp", self.A[:, k], step[k, col])
                after = _excess(moved, self.wanted).sum((1, 2))
                least = int(after.argmin())
                if after[least] < cost - DONE:
                    cost, best = float(after[least]), (change, int(k[least]), int(col[least]))
            if best is None:
                return
            self._move(*best)

    def kick(self, rng: np.random.Generator) -> None:
        """Change a few pixels by chance, out of where no single one helps."""
        for _ in range(KICKED):
            k, col = (int(rng.integers(length)) for length in self.levels.shape)
            low, high = (bound if isinstance(bound, int) else int(bound[k, col]) for bound in (self.lower, self.upper))
            change = int(np.clip(self.levels[k, col] + rng.integers(-2, 3), low, high)) - int(self.levels[k, col])
            self._move(change, k, col)

    def _move(self, change: int, k: int, col: int) -> None:
        self.V += np.outer(self.A[:, k], to_level(self.S[k] + change * self.B[:, col]) - to_level(self.S[k]))
        self.S[k] += change * self.B[:, col]
        self.levels[k, col] += change


def _reach(matrix: Float[NDArray[np.float64], "k K"]) -> slice:
    """The range of the entries that any of the outputs reads."""
    used = np.nonzero((matrix != 0).any(0))[0]
    return slice(int(used[0]), int(used[-1]) + 1)


def _touched(
    matrix: Float[NDArray[np.float64], "k K"], window: slice
) -> tuple[slice, Float[NDArray[np.float64], "m n"]]:
    """The outputs that read any entry of a window, and their coefficients there."""
    outputs = _reach(matrix[:, window].T)
    return outputs, matrix[outputs, window]


def _excess(value: NDArray[np.float64], level: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far values lie outside their rounding cells, or nearly so."""
    return np.maximum(np.abs(value.clip(0, 255) - level) - 0.49, 0)
