"""Bounds on the rank of a map of images that prove it where they meet, from small blocks of its matrix.

Cut the image into a grid of cells, and give every output to the cell of the last pixel down and across that it reads.
Outputs of cell (a, b) read no pixel of a later row or column of cells, so that A, its outputs and its pixels ordered by
cells, is block triangular, and

    sum of rank(A[outputs of a cell, pixels of the cell]) <= rank(A) <= min(outputs that read, pixels that are read).

The same holds from any other corner of the image. Outputs read alike wherever they lie, so that only few of the blocks
differ: those at the edges, and, where strides do not agree, those of one period.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap
from nullspace_cli.engine.solvers.readings import Reading, readings

ENOUGH = 0.6
"""Share of a stride that the next output after a cut must have for itself: with less its block would lack rank."""


class RankBounds(NamedTuple):
    """lower <= rank(A) <= upper.

    Attributes:
        least: no singular value of a block that counts for `lower` is below this; rounding could make less of zero.
    """

    lower: int
    upper: int
    least: float


@full_precision
def rank_bounds(image_map: ImageMap) -> RankBounds:
    """Bounds on the rank of A; from the corner that gives most. Tensors on the CPU, in float64."""
    found = [readings(branch, image_map.input_size[1:]) for branch in image_map.branches]
    upper = _upper_bound(image_map, found)
    best = RankBounds(0, upper, 0.0)
    for flips in product((False, True), repeat=2):
        axes = [
            _steps([pair[axis].flip(2) if flip else pair[axis] for pair in found]) for axis, flip in enumerate(flips)
        ]
        best = max(best, _lower_bound(image_map.branches, axes, upper))
        if best.lower == upper:
            break
    return best


class Step(NamedTuple):
    """The outputs, of each branch, and the pixels that one cell has along one axis."""

    readings: tuple[Reading, ...]

    @property
    def key(self) -> tuple[object, ...]:
        return tuple((*part.shape, part.contiguous().numpy().tobytes()) for part in self.readings)


def _upper_bound(image_map: ImageMap, found: Sequence[tuple[Reading, Reading]]) -> int:
    c, h, w = image_map.input_size
    outputs, read = 0, torch.zeros(h, w, dtype=torch.bool)
    for branch, (down, across) in zip(image_map.branches, found, strict=True):
        alive = [int((axis != 0).any(2).any(1).sum()) for axis in (down, across)]
        outputs += len(branch.kernel) * alive[0] * alive[1]
        read |= (down != 0).any(1).any(0)[:, None] & (across != 0).any(1).any(0)
    return min(outputs, c * int(read.sum()))


def _steps(axis: Sequence[Reading]) -> list[Step]:
    """One axis cut after pixels from which the next output, of every branch, has enough for itself."""
    pixels = torch.arange(1, axis[0].shape[2] + 1)
    ends = [((reading != 0).any(1) * pixels).amax(1) for reading in axis]
    cuts = sorted(
        {0, *(end for part in ends for end in part.tolist() if all(_leaves_enough(end, other) for other in ends))}
    )

    def within(start: int, stop: int) -> Step:
        chosen = ((part > start) & (part <= stop) for part in ends)
        return Step(tuple(reading[which][:, :, start:stop] for reading, which in zip(axis, chosen, strict=True)))

    return [within(start, stop) for start, stop in pairwise(cuts)]


def _leaves_enough(cut: int, ends: Tensor) -> bool:
    later = ends[ends > cut]
    if not len(later):
        return True
    stride = float((ends.max() - ends.min()) / max(1, len(ends) - 1))
    return float(later.min()) - cut >= ENOUGH * stride


def _lower_bound(branches: Sequence[Branch], axes: Sequence[Sequence[Step]], upper: int) -> RankBounds:
    (rows, row_counts), (cols, col_counts) = (_distinct(axis) for axis in axes)
    rank, smallest = 0, float("inf")
    for (row, down), (col, across) in product(zip(rows, row_counts, strict=True), zip(cols, col_counts, strict=True)):
        block = torch.cat([_block(*parts) for parts in zip(branches, row.readings, col.readings, strict=True)])
        if not block.numel():
            continue
        found, pivot = _rank(block)
        rank += found * down * across
        smallest = min(smallest, pivot)
    return RankBounds(rank, upper, smallest if rank else 0.0)


def _distinct(steps: Sequence[Step]) -> tuple[list[Step], list[int]]:
    counts = Counter(step.key for step in steps)
    by_key = {step.key: step for step in steps}
    return list(by_key.values()), [counts[key] for key in by_key]


def _block(branch: Branch, down: Reading, across: Reading) -> Float[Tensor, "outputs pixels"]:
    half = torch.einsum("dcuv,jvq->dcujq", branch.kernel, across)
    return torch.einsum("dcujq,iup->dijcpq", half, down).flatten(3).flatten(0, 2)


def _rank(block: Float[Tensor, "m n"]) -> tuple[int, float]:
    """How many singular values are proven to be none of zero's, and a bound that they are above.

    If the Cholesky factorisation of B B^T - t 1 goes through, the smallest eigenvalue of B B^T is above t less what
    rounding does, at most (n + m) m eps times the largest diagonal entry in the product and the factorisation together
    (Higham 2002, theorem 10.7 and section 3.5; Rump 2006). Where it does not, singular values: those computed are off
    by at most a modest multiple of max(m, n) eps times the largest.
    """
    short = block if block.shape[0] <= block.shape[1] else block.mT
    gram, (m, n) = short @ short.mT, short.shape
    rounding = 10 * max(m, n) * torch.finfo(gram.dtype).eps
    shift = 2 * m * rounding * float(gram.diagonal().max())
    if shift > 0 and int(torch.linalg.cholesky_ex(gram - shift * torch.eye(m, dtype=gram.dtype)).info) == 0:
        return m, (shift / 2) ** 0.5
    sigma = torch.linalg.svdvals(short)
    kept = sigma[sigma > rounding * sigma[0]]
    return len(kept), float(kept[-1]) if len(kept) else float("inf")
