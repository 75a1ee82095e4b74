"""Row space and nullspace of a matrix, by reflections and a small SVD."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def count_rank(singular_values: Float[Tensor, " k"], rtol: float) -> int:
    """How many singular values exceed ``rtol`` times the largest: the one home of the rank cut-off."""
    return int((singular_values > rtol * singular_values.max()).sum())


def largest_left_out(singular_values: Float[Tensor, "*channels k"], rtol: float) -> float:
    """The largest of those that do not, of one matrix or of several; 0 where there are none."""
    left = singular_values[singular_values <= rtol * singular_values.amax(-1, keepdim=True)]
    return float(left.max()) if left.numel() else 0.0


def split_space(
    A: Float[Tensor, "d n"], rtol: float
) -> tuple[Float[Tensor, "rank n"], Float[Tensor, "nullity n"], Float[Tensor, " k"]]:
    """Orthonormal bases of the row space and of the nullspace of A, with its singular values.

    ``scipy.linalg.null_space(A, rcond=rtol).T`` is an equivalent nullspace, by a full SVD of A. Here A^T = Q R by
    Householder reflections first, so that only the small triangle R sees an SVD: R = U S V^T makes the leading columns
    of Q U the row space, its trailing ones (where A lacks rank) and the rest of Q the nullspace.
    """
    d, n = A.shape
    k = min(d, n)
    packed, tau = torch.geqrf(A.mT)
    U, sigma, _ = torch.linalg.svd(packed[:k].triu(), full_matrices=False)
    rank = count_rank(sigma, rtol)
    leading, complement = _apply_reflectors(packed[:, :k], tau, U)
    null = torch.cat([leading[rank:], complement]) if rank < k else complement
    return leading[:rank], null, sigma


def _apply_reflectors(
    packed: Float[Tensor, "n k"], tau: Float[Tensor, " k"], U: Float[Tensor, "k k"]
) -> tuple[Float[Tensor, "k n"], Float[Tensor, "rest n"]]:
    """As rows: Q [[U], [0]], and the last n - k columns of Q, for Q a product of reflectors packed by `torch.geqrf`.

    In compact form Q = I - Y T Y^T with T^-1 = triu(Y^T Y, 1) + diag(1 / tau) (the "UT transform" of Joffrain et al.
    2006): two matrix products in place of n - k columns' worth of reflections.
    """
    n, k = packed.shape
    if bool((tau == 0).any()):  # a reflector that is the identity has no 1 / tau; LAPACK's own routine copes
        Q = torch.linalg.householder_product(F.pad(packed, (0, n - k)), tau)
        return (Q[:, :k] @ U).mT.contiguous(), Q[:, k:].mT.contiguous()
    Y = packed.tril(-1)
    Y.diagonal().fill_(1.0)
    minus_T_inverse = -((Y.mT @ Y).triu(1) + torch.diag(1 / tau))

    def minus_t_yt(rows_of_Y: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(minus_T_inverse, rows_of_Y.mT, upper=True)

    leading = (minus_t_yt(Y[:k]) @ U).mT @ Y.mT
    leading[:, :k] += U.mT
    complement = minus_t_yt(Y[k:]).mT @ Y.mT
    complement.diagonal(k).add_(1.0)  # the identity's last n - k columns
    return leading, complement
