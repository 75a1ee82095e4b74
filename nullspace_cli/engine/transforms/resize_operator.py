"""timm's eval transform as a linear operator with an adjoint: sparse resize matrices, crop and padding."""

import copy
import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nullspace_cli.engine.transforms.eval_transform import EvalTransform, overlap, per_channel
from nullspace_cli.engine.transforms.tensor_resize import TensorResize

Resize = str | TensorResize
"""One of PIL's filters by its name, or a resize of tensors."""

WIDEST = 6
"""Of the kernels, Lanczos': in positions of the finer of image and result."""


class ResizeOperator:
    """The eval transform of one image size, up to its rounding to 8 bits, as an affine operator on pixels in [0, 1].

    View(x) = rows x cols^T + fill for each channel: `rows` [h, H] and `cols` [w, W] are sparse (COO) with PIL's resize
    coefficients, to the precision of float32, cut to the crop; `fill` [c, h, w] is the padding's colour, zero inside
    the image. All are float64 on the CPU until `to` is called. Normalisation is left to the transform.

    Args:
        tensor_resize: whose coefficients to take in place of those of PIL's filter.

    Raises:
        ImageError: the image is too elongated to be resized.
    """

    def __init__(
        self, transform: EvalTransform, width: int, height: int, tensor_resize: TensorResize | None = None
    ) -> None:
        self.transform = transform
        self.geometry = geometry = transform.geometry(width, height)
        (resized_width, resized_height), (crop_height, crop_width) = geometry.resized, geometry.crop
        resize = tensor_resize or transform.interpolation
        rows = _resampling(resize, height, resized_height, geometry.top, crop_height)
        cols = _resampling(resize, width, resized_width, geometry.left, crop_width)
        self.rows: Float[Tensor, "h H"] = rows
        self.cols: Float[Tensor, "w W"] = cols
        self.fill: Float[Tensor, "c h w"] = per_channel(geometry.fill, rows).repeat(1, crop_height, crop_width) / 255
        (_, target_rows), (_, target_columns) = geometry.overlaps
        self.fill[:, target_rows, target_columns] = 0

    def apply(self, images: Float[Tensor, "*batch c H W"]) -> Float[Tensor, "*batch c h w"]:
        """What the model sees of images in [0, 1], before rounding; differentiable."""
        return _multiply(self.cols, _multiply(self.rows, images, -2), -1) + self.fill

    def adjoint(self, views: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c H W"]:
        """rows^T y cols: the transpose of the linear part of `apply`, <apply(x) - fill, y> = <x, adjoint(y)>."""
        return _multiply(self.cols.t(), _multiply(self.rows.t(), views, -2), -1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "ResizeOperator":
        """The same view for tensors of another device or precision."""
        other = copy.copy(self)
        other.rows = self.rows.to(device=device, dtype=dtype)
        other.cols = self.cols.to(device=device, dtype=dtype)
        other.fill = self.fill.to(device=device, dtype=dtype)
        return other


def _multiply(matrix: Tensor, images: Tensor, axis: int) -> Tensor:
    """A sparse matrix times one axis of a dense tensor."""
    vectors = images.movedim(axis, 0)
    product: Tensor = torch.sparse.mm(matrix, vectors.flatten(1))
    return product.reshape(len(matrix), *vectors.shape[1:]).movedim(0, axis)


def _resampling(resize: Resize, size: int, resized: int, start: int, crop: int) -> Float64[Tensor, "crop size"]:
    """The resize of one axis from `size` to `resized`, then a crop from `start`, as a sparse matrix."""
    inside, target = overlap(start, crop, resized)
    row, tap, weight = _coefficients(resize, size, resized)
    kept = slice(*np.searchsorted(row, (inside.start, inside.stop)))
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([row[kept] - inside.start + target.start, tap[kept]])),
        torch.from_numpy(weight[kept]),
        (crop, size),
        is_coalesced=True,
        check_invariants=True,
    )


@lru_cache(maxsize=32)
def _coefficients(
    resize: Resize, size: int, resized: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """What a resize multiplies with, as it says itself: by resizing combs of ones, which are not rounded.

    The teeth of a comb stand so far apart that no position of the result reads two of them.

    Returns:
        The result's positions, in order; the image's positions that each reads, in order; and how much of them. For
        each position of the result that sums to 1.
    """
    scale = size / resized
    apart = math.ceil(WIDEST * max(1.0, scale)) + 2
    combs = np.zeros((apart, size), np.float32)
    combs[np.arange(size) % apart, np.arange(size)] = 1
    read = _resize_rows(combs, resized, resize)
    comb, row = read.nonzero()
    centre = (row + 0.5) * scale - 0.5
    tap = comb + apart * np.rint((centre - comb) / apart).astype(np.intp)
    order = np.lexsort((tap, row))
    weight = read[comb, row].astype(np.float64)[order]
    row, tap = row[order], tap[order]
    return row, tap, weight / np.bincount(row, weight)[row]


def _resize_rows(rows: Float32[NDArray[np.float32], "k size"], width: int, resize: Resize) -> NDArray[np.float32]:
    if isinstance(resize, TensorResize):
        return resize.resample(torch.from_numpy(rows)[None], (width, len(rows)))[0].numpy()
    return np.asarray(Image.fromarray(rows).resize((width, len(rows)), Image.Resampling[resize.upper()]))
