"""The same nullspace by fewer and orthonormal kernels: what a map of images reads, told once.

What one matrix does to all outputs at one place changes no nullspace, as long as it can be undone. So branches that
step alike become one, and kernels become an orthonormal basis of what they span: those that are zero, or that others
give already, vanish by the same cut-off as a patch embedding's dimensions.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.nullspace.decomposition import count_rank
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap, Resize


@full_precision
def independent_kernels(image_map: ImageMap, rtol: float) -> ImageMap:
    """A map with the nullspace of `image_map`, in float64.

    Args:
        rtol: share of a branch's largest singular value, of its kernels as a matrix [d, c kh kw], up to which one
            counts as zero.

    Raises:
        ModelError: all kernels are zero.
    """
    size = image_map.input_size[1:]
    found = []
    for alike in _alike(image_map.to(dtype=torch.float64).branches, size):
        merged = _merged(alike, size)
        _, sigma, rows = torch.linalg.svd(merged.kernel.flatten(1), full_matrices=False)
        if rank := count_rank(sigma, rtol):
            kernel = rows[:rank].reshape(rank, *merged.kernel.shape[1:])
            found.append(Branch(kernel, merged.stride, merged.padding, merged.resize))
    if not found:
        raise reads_nothing()
    return ImageMap(tuple(found), image_map.input_size)


def reads_nothing() -> ModelError:
    return ModelError("The first layer reads nothing: all its kernels are 0. Check the weights.")


def _alike(branches: Sequence[Branch], size: tuple[int, int]) -> list[list[Branch]]:
    """Those whose outputs lie on one grid: of one stride, number and resize."""
    groups: list[list[Branch]] = []
    for branch in branches:
        for group in groups:
            same_steps = (
                group[0].stride == branch.stride and group[0].output_size(size)[1:] == branch.output_size(size)[1:]
            )
            if same_steps and _equal(group[0].resize, branch.resize):
                group.append(branch)
                break
        else:
            groups.append([branch])
    return groups


def _equal(one: Resize | None, other: Resize | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.rows, other.rows) and torch.equal(one.cols, other.cols)


def _merged(branches: Sequence[Branch], size: tuple[int, int]) -> Branch:
    """Branches on one grid as one: their kernels in a window that holds all of them."""
    first = branches[0]
    (height, width), (_, oh, ow) = first.read_size(size), first.output_size(size)
    top, left = (max(branch.padding[side] for branch in branches) for side in (0, 2))
    kh, kw = (
        max(branch.kernel.shape[axis] - branch.padding[side] for branch in branches) + before
        for axis, side, before in ((2, 0, top), (3, 2, left))
    )
    kernels = []
    for branch in branches:
        above, beside = top - branch.padding[0], left - branch.padding[2]
        below, beyond = kh - above - branch.kernel.shape[2], kw - beside - branch.kernel.shape[3]
        kernels.append(F.pad(branch.kernel, (beside, beyond, above, below)))
    # As much below and beyond as the last outputs read.
    bottom, right = (oh - 1) * first.stride[0] + kh - top - height, (ow - 1) * first.stride[1] + kw - left - width
    return Branch(torch.cat(kernels), first.stride, (top, bottom, left, right), first.resize)
