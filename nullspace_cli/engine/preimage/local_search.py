"""Wrong values of a picture's view, repaired by changing single pixels, the best first."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nullspace_cli.engine.preimage.neighbourhood import Neighbourhood, excess
from nullspace_cli.engine.preimage.pillow_passes import to_level

CANDIDATES = 400
"""Pixels that are tried for one change; a large kernel has more, much alike."""

MOST = 20
"""Pixels that are changed."""

LESS = 1e-9
"""By how much the cost must get less."""


def descend(part: Neighbourhood, steps: Sequence[int]) -> None:
    """Change single pixels by some levels, in place, as long as the cost gets less.

    Args:
        steps: by how many levels a pixel may be changed at once.
    """
    moves = [_Moves.of(part, change) for change in steps]
    for _ in range(MOST):
        cost, best = part.cost, None
        for change, (step, possible) in zip(steps, moves, strict=True):
            k, col = np.nonzero(possible)
            if not len(k):
                continue
            some = np.linspace(0, len(k) - 1, min(len(k), CANDIDATES)).astype(int)
            k, col = k[some], col[some]
            moved = part.A.T[k][:, :, None] * step[k, col][:, None]
            moved += part.V
            after = excess(moved, part.wanted).sum((1, 2))
            least = int(after.argmin())
            if after[least] < cost - LESS:
                cost, best = float(after[least]), (change, int(k[least]), int(col[least]))
        if best is None:
            return
        _move(part, *best)
        for change, move in zip(steps, moves, strict=True):  # a pixel's change is felt by its own row alone
            move.renew(part, change, slice(best[1], best[1] + 1))


class _Moves(NamedTuple):
    """What it does to change each of the pixels by the same levels.

    Attributes:
        step: to the first pass, rounded [K, L, n].
        possible: whether it does anything, and the pixel stays within its bounds [K, L].
    """

    step: NDArray[np.float64]
    possible: NDArray[np.bool_]

    @classmethod
    def of(cls, part: Neighbourhood, change: int) -> "_Moves":
        moves = cls(np.empty((*part.levels.shape, part.S.shape[1])), np.empty(part.levels.shape, bool))
        moves.renew(part, change, slice(None))
        return moves

    def renew(self, part: Neighbourhood, change: int, rows: slice) -> None:
        """Of some rows, whose pixels are others now."""
        S, there = part.S[rows], part.levels[rows] + change
        self.step[rows] = to_level(S[:, None] + change * part.B.T) - to_level(S)[:, None]
        self.possible[rows] = self.step[rows].any(2) & (there >= part.lower[rows]) & (there <= part.upper[rows])


def _move(part: Neighbourhood, change: int, k: int, col: int) -> None:
    part.V += np.outer(part.A[:, k], to_level(part.S[k] + change * part.B[:, col]) - to_level(part.S[k]))
    part.S[k] += change * part.B[:, col]
    part.levels[k, col] += change
