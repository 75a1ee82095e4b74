"""Rounding rows with error feedback, in the metric of whatever reads them.

Integers q near real rows z, for which ||F (q - z)||^2 = (q - z) (G + damping) (q - z)^T stays small, F triangular:
decided from the last entry to the first, each is the integer nearest to z_k less what the later ones' errors ask of it,
sum_j F_kj e_j / F_kk. That is Babai's nearest plane (1986), as `error_feedback` is for a single R; here the metric's
band is all that counts, however many resizes it is made of. What a bound takes from one entry is an error like the
others, and the entries before make up for it.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


class MetricFeedback:
    """Rounds rows in one metric.

    Args:
        gram: G, banded.
        damping: the weight of moving an entry away from z.
    """

    def __init__(self, gram: Float[NDArray[np.float64], "W W"], damping: float) -> None:
        factor = np.linalg.cholesky(gram + damping * np.eye(len(gram))).T
        band = max((int(np.flatnonzero(row)[-1]) - k for k, row in enumerate(gram) if row.any()), default=0)
        ratios = factor / factor.diagonal()[:, None]
        padded = np.pad(ratios, ((0, 0), (0, band)))
        self._taps = np.stack([padded[k, k + 1 : k + 1 + band] for k in range(len(gram))]).astype(np.float32)

    def __call__(
        self, z: Float[NDArray[np.float32], "W n"], lower: NDArray[np.generic], upper: NDArray[np.generic]
    ) -> Float[NDArray[np.float32], "W n"]:
        """Round n rows, which are given as columns, to whole numbers within whole bounds [W, n]."""
        (length, count), band = z.shape, self._taps.shape[1]
        q, errors = np.empty_like(z), np.zeros((length + band, count), np.float32)
        for k in range(length - 1, -1, -1):
            asked = z[k] - self._taps[k] @ errors[k + 1 : k + 1 + band]
            q[k] = np.rint(asked).clip(lower[k], upper[k])
            errors[k] = q[k] - z[k]
        return q
