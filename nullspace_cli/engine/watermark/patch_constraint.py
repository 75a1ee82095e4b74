"""What of a model's input its patch embedding reads: a constraint on views, patch by patch."""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.solvers.resize_projection import SeparableResize
from nullspace_cli.engine.transforms.eval_transform import Geometry


class PatchConstraint:
    """C: the patch embedding of the view, by an orthonormal basis of its row space.

    Attributes:
        rows: the basis [rank, n], float32.
        grid: how many patches lie below and beside each other, in their order.

    Args:
        geometry: where the view lies on the model's input; padding does not change.
        transposed: as `Passes.transposed`.
    """

    def __init__(self, space: PatchSpace, geometry: Geometry, transposed: bool, device: torch.device) -> None:
        self._cut, self._glue = space.patch_map.patchify, space.patch_map.unpatchify
        self.rows = space.row_space.to(device, torch.float32)
        (_, rows), (_, columns) = geometry.overlaps
        self._kept = rows, columns
        self._transposed, self._shape = transposed, space.patch_map.kernel("pixel").shape[1:]
        self._to_image, self._to_view = ((1, 2, 0), (2, 0, 1)) if transposed else ((1, 0, 2), (1, 0, 2))
        self.grid = geometry.crop[0] // self._shape[1], geometry.crop[1] // self._shape[2]
        self._blank = torch.zeros(space.patch_map.in_chans, *geometry.crop, device=device)

    def to(self, device: torch.device | str) -> "PatchConstraint":
        """The same on another device."""
        other = copy.copy(self)
        other.rows, other._blank = self.rows.to(device), self._blank.to(device)
        return other

    def reduce(self, view: Float[Tensor, "h c w"]) -> Float[Tensor, "m rank"]:
        return self.patches(view) @ self.rows.mT

    def spread(self, values: Float[Tensor, "m rank"]) -> Float[Tensor, "h c w"]:
        return self.view(values @ self.rows)

    def patches(self, view: Float[Tensor, "h c w"]) -> Float[Tensor, "m n"]:
        """The view's values patch by patch, 0 for padding."""
        image = self._blank.to(view, copy=True)
        image[:, *self._kept] = view.permute(self._to_image)
        return self._cut(image)

    def view(self, patches: Float[Tensor, "m n"]) -> Float[Tensor, "h c w"]:
        """The inverse of `patches`."""
        return self._glue(patches, self._blank.to(patches))[:, *self._kept].permute(self._to_view).contiguous()

    def within(self, marked: Bool[Tensor, " m"]) -> Bool[Tensor, "h c w"]:
        """The values of the view that lie in marked patches."""
        return self.view(marked[:, None].float().expand(-1, self.rows.shape[1])) > 0

    def mean_gram(self, resize: SeparableResize) -> Float[Tensor, "rank rank"]:
        """C R R^T C^T of one patch, in the mean over all: the resize's axes taken each for itself."""
        axes = (resize.rows, resize.cols)
        down, across = (
            _mean_block(axis @ axis.mT, kept, size, side)
            for axis, kept, size, side in zip(
                axes[::-1] if self._transposed else axes,
                self._kept,
                self._blank.shape[1:],
                self._shape[1:],
                strict=True,
            )
        )
        rows = self.rows.view(-1, *self._shape)
        return torch.einsum("dcij,ik,jl->dckl", rows, down, across).flatten(1) @ self.rows.mT


def _mean_block(gram: Float[Tensor, "k k"], kept: slice, size: int, side: int) -> Float[Tensor, "s s"]:
    """The mean over an axis' patches of their blocks of its Gram matrix, 0 for padding."""
    whole = gram.new_zeros(size, size)
    whole[kept, kept] = gram
    count = size // side
    blocks = whole[: count * side, : count * side].view(count, side, count, side)
    return blocks.diagonal(dim1=0, dim2=2).mean(2)
