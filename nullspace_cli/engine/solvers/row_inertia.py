"""How many eigenvalues of A A^T lie below a bound: the inertia of A A^T - bound, by a block LDL^T factorisation.

Rows of the branches' output grids, in the order in which they read the image, make A A^T block banded: rows that share
no pixel do not meet. Only those that the present row still meets are held. By Sylvester's law of inertia the pivot
blocks have together as many negative eigenvalues as A A^T - bound.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.solvers.image_map import ImageMap
from nullspace_cli.engine.solvers.polyphase import norm_bound
from nullspace_cli.engine.solvers.readings import Reading, readings

LEAST = 1e-5
"""Singular values below this share of the largest are not told from zero: A A^T has their squares, and rounding."""


class Below(NamedTuple):
    """Eigenvalues of A A^T below (threshold times the largest singular value, or a little more)^2: how many."""

    number: int
    threshold: float


class Row(NamedTuple):
    """A row of outputs of one branch.

    Attributes:
        kernel: what its outputs read of each row of pixels.
        first, stop: the rows of pixels that are read.
    """

    kernel: Float[Tensor, "d c kw h"]
    across: Reading
    first: int
    stop: int

    @property
    def outputs(self) -> int:
        return len(self.kernel) * len(self.across)


def count_below(image_map: ImageMap, rtol: float) -> Below:
    """The singular values of A up to max(rtol, LEAST) times the largest, counted with those that A A^T has too many.

    Args:
        image_map: on the CPU, in float64.
    """
    threshold = max(rtol, LEAST)
    bound = (threshold * norm_bound(image_map)) ** 2
    rows = _rows(image_map)
    negative, entered, held = 0, 0, torch.zeros(0, 0, dtype=torch.float64)
    for i, row in enumerate(rows):
        while entered < len(rows) and (entered == i or rows[entered].first < row.stop):
            held = _grown(held, rows[i:entered], rows[entered], bound)
            entered += 1
        pivot, beside, rest = (
            held[: row.outputs, : row.outputs],
            held[: row.outputs, row.outputs :],
            held[row.outputs :, row.outputs :],
        )
        found, solved = _eliminated(pivot, beside)
        negative, held = negative + found, rest - beside.mT @ solved
    return Below(negative, threshold)


def _rows(image_map: ImageMap) -> list[Row]:
    rows = []
    for branch in image_map.branches:
        down, across = readings(branch, image_map.input_size[1:])
        for reading in down:
            read = (reading != 0).any(0).nonzero()[:, 0]
            first, stop = (int(read[0]), int(read[-1]) + 1) if len(read) else (0, 0)
            rows.append(Row(torch.einsum("dcuv,up->dcvp", branch.kernel, reading), across, first, stop))
    return sorted(rows, key=lambda row: row.first)


def _grown(held: Tensor, others: list[Row], row: Row, bound: float) -> Tensor:
    """With one more row and column of blocks."""
    beside = torch.cat([torch.zeros(0, row.outputs, dtype=held.dtype), *(_gram(other, row) for other in others)])
    own = _gram(row, row) - bound * torch.eye(row.outputs, dtype=held.dtype)
    return torch.cat([torch.cat([held, beside], 1), torch.cat([beside.mT, own], 1)])


def _gram(one: Row, other: Row) -> Float[Tensor, "outputs others"]:
    """The products of two rows' outputs: first down the image, for each pair of places in the window, then across."""
    first, stop = max(one.first, other.first), min(one.stop, other.stop)
    if first >= stop:
        return one.kernel.new_zeros(one.outputs, other.outputs)
    down = torch.einsum("dcvp,ecwp->devw", one.kernel[..., first:stop], other.kernel[..., first:stop])
    across = torch.einsum("jvq,kwq->vwjk", one.across, other.across)
    gram = torch.einsum("devw,vwjk->djek", down, across)
    return gram.flatten(2).flatten(0, 1)


def _eliminated(pivot: Float[Tensor, "n n"], beside: Float[Tensor, "n rest"]) -> tuple[int, Float[Tensor, "n rest"]]:
    """The pivot's negative eigenvalues, and its inverse times what is beside it."""
    factor, failed = torch.linalg.cholesky_ex(pivot)
    if not int(failed):
        return 0, torch.cholesky_solve(beside, factor)
    # Bunch and Kaufman's: of each pivot of two rows one eigenvalue is negative.
    packed, places, _ = torch.linalg.ldl_factor_ex(pivot)
    single = places > 0
    negative = int((packed.diagonal()[single] < 0).sum()) + int((~single).sum()) // 2
    return negative, torch.linalg.ldl_solve(packed, places, beside)
