"""timm's eval transform as a linear operator with an adjoint: sparse resize matrices, crop and padding."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.transforms.eval_transform import EvalTransform, overlap, per_channel


class ResizeOperator:
    """The eval transform of one image size, up to its rounding to 8 bits, as an affine operator on pixels in [0, 1].

    View(x) = rows x cols^T + fill for each channel: `rows` [h, H] and `cols` [w, W] are sparse (COO) with PIL's resize
    coefficients, cut to the crop; `fill` [3, h, w] is the padding's colour, zero inside the image. All are float64 on
    the CPU until `to` is called. Normalisation is left to the transform.

    Raises:
        ImageError: the image is too elongated to be resized.
    """

    def __init__(self, transform: EvalTransform, width: int, height: int) -> None:
        self.transform = transform
        self.geometry = geometry = transform.geometry(width, height)
        (resized_width, resized_height), (crop_height, crop_width) = geometry.resized, geometry.crop
        rows = _resampling(transform.interpolation, height, resized_height, geometry.top, crop_height)
        cols = _resampling(transform.interpolation, width, resized_width, geometry.left, crop_width)
        self.rows: Float[Tensor, "h H"] = rows
        self.cols: Float[Tensor, "w W"] = cols
        self.fill: Float[Tensor, "3 h w"] = per_channel(geometry.fill, rows).repeat(1, crop_height, crop_width) / 255
        _, target_rows = overlap(geometry.top, crop_height, resized_height)
        _, target_columns = overlap(geometry.left, crop_width, resized_width)
        self.fill[:, target_rows, target_columns] = 0

    def apply(self, images: Float[Tensor, "*batch 3 H W"]) -> Float[Tensor, "*batch 3 h w"]:
        """What the model sees of images in [0, 1], before rounding; differentiable."""
        return _multiply(self.cols, _multiply(self.rows, images, -2), -1) + self.fill

    def adjoint(self, views: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 H W"]:
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


def _resampling(interpolation: str, size: int, resized: int, start: int, crop: int) -> Float64[Tensor, "crop size"]:
    """PIL's resize of one axis from `size` to `resized`, then a crop from `start`, as a sparse matrix.

    The coefficients are those of Pillow's `precompute_coeffs` (src/libImaging/Resample.c): the kernel, stretched by the
    scale when it shrinks the image, sampled at pixel centres, cut at the image's edge, and made to sum to 1.
    """
    inside, target = overlap(start, crop, resized)
    scale = size / resized
    if resized == size:  # PIL skips the pass
        first, weights = np.arange(size)[inside], np.ones((inside.stop - inside.start, 1))
    elif interpolation == "nearest":
        # PIL adds up the positions one by one, and their rounding errors decide ties.
        positions = np.cumsum(np.r_[scale / 2, np.full(resized - 1, scale)])
        first, weights = positions[inside].astype(np.int64), np.ones((inside.stop - inside.start, 1))
    else:
        kernel, support = KERNELS[interpolation]
        stretch = max(scale, 1.0)
        support *= stretch
        centre = (np.arange(resized)[inside] + 0.5) * scale
        first = np.maximum(centre - support + 0.5, 0).astype(np.int64)
        last = np.minimum(centre + support + 0.5, size).astype(np.int64)
        taps = first[:, None] + np.arange((last - first).max())
        weights = kernel((taps - centre[:, None] + 0.5) * (1 / stretch)) * (taps < last[:, None])
        weights /= weights.sum(axis=1, keepdims=True)
    row, tap = weights.nonzero()
    indices = np.stack([row + target.start, first[row] + tap])
    return torch.sparse_coo_tensor(
        torch.from_numpy(indices),
        torch.from_numpy(weights[row, tap]),
        (crop, size),
        is_coalesced=True,
        check_invariants=True,
    )


def _box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - abs(x), 0)


def _hamming(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)) * (abs(x) < 1)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sinc(x) * np.sinc(x / 3) * ((x >= -3) & (x < 3))


KERNELS: Mapping[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""PIL's resampling kernels by timm's names: the function, and how far from 0 it reaches."""
