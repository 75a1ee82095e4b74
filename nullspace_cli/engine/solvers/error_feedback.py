"""Rounding with optimal error feedback: one pass of a resize, entry by entry along its axis.

Integers q_1 ... q_K are chosen one after another, near real z_1 ... z_K, so that R q stays near R z. Let e be the error
R (q - z) so far. What the decisions still to come can mend is a linear-quadratic control problem,

    V_k(e) = min_d  damping d^2 + V_{k+1}(e + r_k d),      V_{K+1}(e) = ||e||^2,      r_k the column of R,

whose solution V_k(e) = e^T P_k e, d_k = -(r_k^T P_{k+1} e) / (damping + r_k^T P_{k+1} r_k) comes from a Riccati
recursion that knows nothing of the data. Rounding z_k + d_k is Babai's nearest plane for the metric R^T R + damping,
the order that optimal-brain quantisation uses too, at the cost of a filter's few taps an entry, not of a factor's row.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


class Tap(NamedTuple):
    """What entry k does: it reaches outputs `first` to `last` with `weights`, and heeds their errors by `gain`."""

    first: int
    last: int
    weights: Float[NDArray[np.float32], " taps"]
    gain: Float[NDArray[np.float32], " taps"]


def feedback_taps(R: Float[NDArray[np.floating], "k K"], damping: float = 0.05) -> list[Tap]:
    """The Riccati recursion for a banded R, from the last entry to the first.

    Args:
        damping: the weight of moving an entry away from z, against that of an error of R q.
    """
    outputs, entries = R.shape
    P = np.eye(outputs)
    taps: list[Tap] = []
    for k in range(entries - 1, -1, -1):
        used = np.nonzero(R[:, k])[0]
        if not len(used):  # nothing sees this entry
            nothing = np.zeros(0, np.float32)
            taps.append(Tap(0, 0, nothing, nothing))
            continue
        first, last = int(used[0]), int(used[-1]) + 1
        r = np.asarray(R[first:last, k], np.float64)
        Pr = P[first:last, first:last] @ r
        size = damping + r @ Pr
        taps.append(Tap(first, last, r.astype(np.float32), (-Pr / size).astype(np.float32)))
        P[first:last, first:last] -= np.outer(Pr, Pr) / size
    return taps[::-1]


def round_along(
    taps: list[Tap],
    z: Float[NDArray[np.float32], "K n"],
    error: Float[NDArray[np.float32], "k n"],
    lower: NDArray[np.generic] | float = 0,
    upper: NDArray[np.generic] | float = 255,
) -> Float[NDArray[np.float32], "K n"]:
    """Round n columns at once, whole numbers within the bounds.

    Args:
        error: how far R z is from what R q shall be; not changed.
        lower, upper: whole numbers, one for all or [K, n].
    """
    q, e = np.empty_like(z), error.copy()
    low, high = (
        np.broadcast_to(bound if isinstance(bound, np.ndarray) else z.dtype.type(bound), z.shape)
        for bound in (lower, upper)
    )
    for k, (first, last, weights, gain) in enumerate(taps):
        band, row = e[first:last], q[k]
        np.add(z[k], gain @ band, out=row)
        np.minimum(np.maximum(row, low[k], out=row), high[k], out=row)
        np.rint(row, out=row)
        band += weights[:, None] * (row - z[k])
    return q
