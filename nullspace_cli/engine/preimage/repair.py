"""The last few wrong values of a picture's view: repaired one by one, or blended to the source until they are right."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from nullspace_cli.engine.preimage.integer_program import exact_levels
from nullspace_cli.engine.preimage.local_search import descend
from nullspace_cli.engine.preimage.neighbourhood import Neighbourhood, window_of
from nullspace_cli.engine.preimage.pillow_passes import Levels, Passes
from nullspace_cli.engine.preimage.problem import PreimageProblem, Rounded, halved
from nullspace_cli.engine.runtime.stages import stage

FEW = 50
"""Wrong values that are repaired one by one; more are better left to another try as a whole."""

STEPS = (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16)
"""Levels by which the local search changes a pixel; the larger the resize's kernel, the less one pixel does."""

PROGRAMS = (0, 8), (1, 16), (2, 32), (4, 64)
"""The pixels of how many values around a wrong one an integer program has, and how far it may move them."""

LARGEST = 300
"""Pixels of a program that is tried: larger ones take seconds, and a larger kernel leaves local search more room."""

IN_VAIN = 8
"""Programs of one kind without a solution, one after the other, after which those of the next are tried."""

MANY = 1000
"""Wrong values that are repaired one by one when nothing else is left to be tried."""

SWEEPS = 12
"""How often the source is restored under the wrong values alone."""

LAST_SWEEP = 40
"""How often it is for another reader's sake."""

KEPT = 0.95
"""Share of the changed pixels that another reader's sake must leave."""


class Repair:
    """Repairs wrong values of the views of one size of picture.

    Args:
        steps: levels by which it changes a pixel.
    """

    def __init__(self, passes: Passes, steps: Sequence[int] = STEPS) -> None:
        self._passes, self._steps = passes, steps

    def __call__(self, found: Rounded, problem: PreimageProblem) -> Rounded:
        """Each wrong value by itself, while they are few; the second time nearer to the source there."""
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
        """Each wrong value by itself, unless they are very many, and nothing else."""
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
        self, pixels: Levels, wrong: Bool[NDArray[np.bool_], "h c w"], problem: PreimageProblem
    ) -> Bool[NDArray[np.bool_], "h c w"]:
        """Repair wrong values one after another, in place; what is wrong then.

        By local search; what that leaves, where it is little, by integer programs of more and more pixels.
        """
        if not wrong.any():
            return wrong
        stage(f"repairing {wrong.sum()} values")
        for place in np.argwhere(wrong).tolist():
            levels, part = self._around(pixels, place, problem, 0)
            descend(part, self._steps)
            levels[:] = part.levels
        wrong = self._passes(pixels) != problem.wanted
        for further, reach in PROGRAMS:
            if not 0 < wrong.sum() <= MANY:
                break
            in_vain = 0
            for place in np.argwhere(wrong).tolist():
                levels, part = self._around(pixels, place, problem, further)
                exact = exact_levels(part, reach) if levels.size <= LARGEST else None
                in_vain = in_vain + 1 if exact is None else 0
                if exact is not None:
                    levels[:] = exact
                elif in_vain == IN_VAIN:
                    break
            wrong = self._passes(pixels) != problem.wanted
        return wrong

    def _around(
        self, pixels: Levels, place: Sequence[int], problem: PreimageProblem, further: int
    ) -> tuple[UInt8[NDArray[np.uint8], "K L"], Neighbourhood]:
        """The pixels under a value (i, channel, j) of the view and those `further` around it, and what they are to."""
        i, channel, j = place
        plane, under = pixels[:, channel], window_of(self._passes, i, j, further)
        part = Neighbourhood.of(self._passes, plane, under, problem.wanted[:, channel], problem.bounds_of(channel))
        return plane[under], part
