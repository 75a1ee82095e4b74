"""Whole numbers near the least of a quadratic: a beam search down the triangle of its factor, for many at once.

With H = U^T U the quadratic t^T H t + 2 g^T t is, but for a constant, a sum of squares of which each has one number
more than the one before. Numbers are chosen one after another, each by what is left for the later ones to make up for;
at each the best few beginnings are kept. With one of them this is Babai's nearest plane, known as successive
cancellation too; with K it is the K-best sphere decoder.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray


def closest_vectors(
    H: Float[NDArray[np.float64], "N n n"], g: Float[NDArray[np.float64], "N n"], beam: int, count: int = 1
) -> Int[NDArray[np.int32], "N K n"]:
    """Whole vectors t for which t^T H t + 2 g^T t is small, the best one first.

    Args:
        H: positive definite. The numbers are chosen in their order, so that the coarsest should come first.
        beam: how many beginnings are kept.
        count: how many ends are, if that is more: K of them, unless n is so small that there are fewer.
    """
    N, n = g.shape
    later_first = slice(None, None, -1)
    factor = np.linalg.cholesky(H[:, later_first, later_first])
    scale = np.einsum("nii->ni", factor)
    weights = (scale**2).astype(np.float32)
    upper = (factor / scale[:, None]).swapaxes(1, 2).astype(np.float32)
    best = -np.linalg.solve(H[:, later_first, later_first], g[:, later_first, None])[..., 0]
    off = np.zeros((N, 1, n), np.float32)
    cost = np.zeros((N, 1), np.float32)
    for i in range(n - 1, -1, -1):
        pull = (off[:, :, i + 1 :] @ upper[:, i, i + 1 :, None])[..., 0]
        centre = best[:, None, i] - pull
        both = np.floor(centre)[:, :, None] + np.arange(2)
        costs = (cost[:, :, None] + weights[:, i, None, None] * (both - centre[:, :, None]) ** 2).reshape(N, -1)
        most = max(beam, count >> i)  # which doubles at each of the last numbers
        if costs.shape[1] > most:
            chosen = np.argpartition(costs, most - 1, axis=1)[:, :most]
        else:
            chosen = np.broadcast_to(np.arange(costs.shape[1]), costs.shape)
        kept = np.empty((N, chosen.shape[1], n), np.float32)
        kept[:, :, i + 1 :] = np.take_along_axis(off[:, :, i + 1 :], (chosen // 2)[:, :, None], 1)
        kept[:, :, i] = np.take_along_axis(both.reshape(N, -1), chosen, 1) - best[:, None, i]
        off, cost = kept, np.take_along_axis(costs, chosen, 1).astype(np.float32)
    order = cost.argsort(1)
    found = np.rint(np.take_along_axis(off, order[:, :, None], 1) + best[:, None])
    return found[:, :, later_first].astype(np.int32)
