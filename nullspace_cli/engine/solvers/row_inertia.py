"""How many singular values of a map lie above a bound: the inertia of A A^T - t^2 or A^T A - t^2, by block LDL^T.

Rows of the branches' output grids, in the order in which they read the image, make A A^T block banded: rows that share
no pixel do not meet. Rows of pixels make A^T A so: those that no output reads both do not meet. Only those that the
present row still meets are held, and of the two matrices that is taken which takes less work. By Sylvester's law of
inertia the pivot blocks have together as many negative eigenvalues as the matrix less t^2; one that is off by no more
than rounding may be counted on either side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.solvers.image_map import ImageMap
from nullspace_cli.engine.solvers.readings import Reading, readings

LEAST = 1e-5
"""Singular values below this share of the largest are not told from zero: the squares are of the size of rounding."""


@dataclass(frozen=True)
class BandedRows:
    """A symmetric matrix, positive semidefinite, by rows of blocks of which each meets but some that follow.

    Attributes:
        sizes: of each row's blocks.
        stops: the first row that neither this one nor any before it meets.
        block: of rows i and j.
    """

    sizes: tuple[int, ...]
    stops: tuple[int, ...]
    block: Callable[[int, int], Float[Tensor, "m n"]]

    @property
    def work(self) -> float:
        """Multiplications that `count` takes, about."""
        rests = (sum(self.sizes[i + 1 : stop]) for i, stop in enumerate(self.stops))
        return sum(n * (n * n / 3 + n * rest + rest * rest) for n, rest in zip(self.sizes, rests, strict=True))

    def count(self, bound: float) -> int:
        """How many eigenvalues lie above a bound."""
        negative, entered, held = 0, 0, torch.zeros(0, 0, dtype=torch.float64)
        for i, (n, stop) in enumerate(zip(self.sizes, self.stops, strict=True)):
            for row in range(entered, stop):
                held = self._grown(held, i, row, bound)
            entered = max(entered, stop)
            found, solved = _eliminated(held[:n, :n], held[:n, n:])
            negative, held = negative + found, held[n:, n:] - held[:n, n:].mT @ solved
            # Symmetric, rounding is a change of the matrix and no more than that; else it grows from row to row.
            held = (held + held.mT) / 2
        return sum(self.sizes) - negative

    def _grown(self, held: Tensor, first: int, row: int, bound: float) -> Tensor:
        """With one more row and column of blocks, after those from `first` on."""
        beside = torch.cat([held.new_zeros(0, self.sizes[row]), *(self.block(i, row) for i in range(first, row))])
        own = self.block(row, row) - bound * torch.eye(self.sizes[row], dtype=held.dtype)
        return torch.cat([torch.cat([held, beside], 1), torch.cat([beside.mT, own], 1)])


def singular_values_above(image_map: ImageMap) -> BandedRows:
    """The one of A A^T and A^T A that takes less work: either has t^2 below as many eigenvalues as A has t.

    Args:
        image_map: on the CPU, in float64.
    """
    return min(output_rows(image_map), pixel_rows(image_map), key=lambda rows: rows.work)


class _OutputRow(NamedTuple):
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


def output_rows(image_map: ImageMap) -> BandedRows:
    """A A^T."""
    rows = []
    for branch in image_map.branches:
        down, across = readings(branch, image_map.input_size[1:])
        for reading in down:
            read = (reading != 0).any(0).nonzero()[:, 0]
            first, stop = (int(read[0]), int(read[-1]) + 1) if len(read) else (0, 0)
            rows.append(_OutputRow(torch.einsum("dcuv,up->dcvp", branch.kernel, reading), across, first, stop))
    rows.sort(key=lambda row: row.first)
    stops = _stops(
        [max(j for j, other in enumerate(rows) if j == i or other.first < row.stop) + 1 for i, row in enumerate(rows)]
    )

    def block(i: int, j: int) -> Float[Tensor, "outputs others"]:
        """First down the image, for each pair of places in the window, then across."""
        one, other = rows[i], rows[j]
        first, stop = max(one.first, other.first), min(one.stop, other.stop)
        if first >= stop:
            return one.kernel.new_zeros(one.outputs, other.outputs)
        down = torch.einsum("dcvp,ecwp->devw", one.kernel[..., first:stop], other.kernel[..., first:stop])
        across = torch.einsum("jvq,kwq->vwjk", one.across, other.across)
        return torch.einsum("devw,vwjk->djek", down, across).flatten(2).flatten(0, 1)

    return BandedRows(tuple(row.outputs for row in rows), stops, block)


def pixel_rows(image_map: ImageMap) -> BandedRows:
    """A^T A."""
    c, height, width = image_map.input_size
    parts = [(branch.kernel, *readings(branch, (height, width))) for branch in image_map.branches]
    stops = [p + 1 for p in range(height)]
    for _, down, _ in parts:
        for read in (down != 0).any(1):
            rows = read.nonzero()[:, 0].tolist()
            stops[min(rows, default=0)] = max(stops[min(rows, default=0)], max(rows, default=0) + 1)

    @cache
    def across_of(branch: int) -> Float[Tensor, "kw kw w w"]:
        across = parts[branch][2]
        return torch.einsum("jvq,jxr->vxqr", across, across)

    def block(p: int, other: int) -> Float[Tensor, "pixels others"]:
        """First down the image, for each pair of columns of the window, then across."""
        found = torch.zeros(c, width, c, width, dtype=torch.float64)
        for branch, (kernel, down, _) in enumerate(parts):
            both = torch.einsum("iu,iw->uw", down[..., p], down[..., other])
            if bool(both.any()):
                columns = torch.einsum("dcwv,dewx->cvex", torch.einsum("dcuv,uw->dcwv", kernel, both), kernel)
                found += torch.einsum("cvex,vxqr->cqer", columns, across_of(branch))
        return found.flatten(2).flatten(0, 1)

    return BandedRows((c * width,) * height, _stops(stops), block)


def _stops(own: list[int]) -> tuple[int, ...]:
    """Where rows end that one or any before it meets, from where those end that it meets itself."""
    return tuple(int(stop) for stop in torch.tensor(own).cummax(0).values)


def _eliminated(pivot: Float[Tensor, "n n"], beside: Float[Tensor, "n rest"]) -> tuple[int, Float[Tensor, "n rest"]]:
    """The pivot's negative eigenvalues, and its inverse times what is beside it."""
    factor, failed = torch.linalg.cholesky_ex(pivot)
    if not int(failed):
        return 0, torch.cholesky_solve(beside, factor)
    # Bunch and Kaufman's: of each pivot of two rows one eigenvalue is negative.
    packed, places, _ = torch.linalg.ldl_factor_ex(pivot)
    single = places > 0
    negative = int((packed.diagonal()[single] < 0).sum()) + int((~single).sum()) // 2
    return negative, torch.linalg.solve(pivot, beside)
