"""Wrong values of a picture's view, repaired by changing single pixels, the best first."""

from collections.abc import Sequence

import numpy as np

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
    for _ in range(MOST):
        cost, best = part.cost, None
        for change in steps:
            step = to_level(part.S[:, None] + change * part.B.T) - to_level(part.S)[:, None]  # [K, L, n]: of J
            there = part.levels + change
            k, col = np.nonzero(step.any(2) & (there >= part.lower) & (there <= part.upper))
            if not len(k):
                continue
            some = np.linspace(0, len(k) - 1, min(len(k), CANDIDATES)).astype(int)
            k, col = k[some], col[some]
            moved = part.V + np.einsum("mn,np->nmp", part.A[:, k], step[k, col])
            after = excess(moved, part.wanted).sum((1, 2))
            least = int(after.argmin())
            if after[least] < cost - LESS:
                cost, best = float(after[least]), (change, int(k[least]), int(col[least]))
        if best is None:
            return
        _move(part, *best)


def _move(part: Neighbourhood, change: int, k: int, col: int) -> None:
    part.V += np.outer(part.A[:, k], to_level(part.S[k] + change * part.B[:, col]) - to_level(part.S[k]))
    part.S[k] += change * part.B[:, col]
    part.levels[k, col] += change
