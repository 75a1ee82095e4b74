"""A linear map of whole images without its matrix: convolutions with strides, side by side, each perhaps of a resize.

That is what the first layers of a network are once their biases are left out. Every map that gives the same when the
image moves by its stride is such a convolution: unfolds, fixed transforms, groups and dilation are kernels too.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Resize:
    """A separable resize of an image [c, h, w] to [c, H, W]: rows x cols^T, channel by channel."""

    rows: Float[Tensor, "H h"]
    cols: Float[Tensor, "W w"]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Resize":
        """The same with its matrices elsewhere, or of another precision."""
        return Resize(self.rows.to(device, dtype), self.cols.to(device, dtype))


@dataclass(frozen=True)
class Branch:
    """One convolution that reads the image.

    Attributes:
        kernel: [d, c, kh, kw].
        stride: (down, across), in pixels.
        padding: rows and columns of zeros (top, bottom, left, right); negative numbers are left unread.
        resize: what is done to the image first.
    """

    kernel: Float[Tensor, "d c kh kw"]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    resize: Resize | None = None

    def output_size(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(d, oh, ow) for images of `size` (height, width)."""
        d, _, kh, kw = self.kernel.shape
        top, bottom, left, right = self.padding
        height, width = self.read_size(size)
        return d, (height + top + bottom - kh) // self.stride[0] + 1, (width + left + right - kw) // self.stride[1] + 1

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d oh ow"]:
        if self.resize:
            images = self.resize.rows @ images @ self.resize.cols.mT
        top, bottom, left, right = self.padding
        return F.conv2d(F.pad(images, (left, right, top, bottom)), self.kernel, stride=self.stride)

    def adjoint(self, outputs: Float[Tensor, "b d oh ow"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """The transpose of `forward` for images of `size` (height, width)."""
        resize, (top, bottom, left, right) = self.resize, self.padding
        height, width = self.read_size(size)
        read = F.conv_transpose2d(outputs, self.kernel, stride=self.stride)
        # What a stride leaves over at the far edges is read by nothing.
        below, beside = height + top + bottom - read.shape[2], width + left + right - read.shape[3]
        images = F.pad(read, (-left, beside - right, -top, below - bottom))
        return resize.rows.mT @ images @ resize.cols if resize else images

    def read_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what the kernel reads, before padding, of images of `size`."""
        return (len(self.resize.rows), len(self.resize.cols)) if self.resize else size


@dataclass(frozen=True)
class ImageMap:
    """A [outputs, inputs]: the branches' outputs, one after another, of an image of one size.

    Attributes:
        input_size: (c, h, w).
    """

    branches: tuple[Branch, ...]
    input_size: tuple[int, int, int]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "ImageMap":
        """The same map with its tensors elsewhere, or of another precision, and no gradients."""
        branches = (
            replace(
                branch,
                kernel=branch.kernel.detach().to(device, dtype),
                resize=branch.resize and branch.resize.to(device, dtype),
            )
            for branch in self.branches
        )
        return ImageMap(tuple(branches), self.input_size)

    @property
    def output_sizes(self) -> tuple[tuple[int, int, int], ...]:
        """(d, oh, ow) of each branch."""
        return tuple(branch.output_size(self.input_size[1:]) for branch in self.branches)

    @property
    def inputs(self) -> int:
        c, h, w = self.input_size
        return c * h * w

    @property
    def outputs(self) -> int:
        return sum(d * h * w for d, h, w in self.output_sizes)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b outputs"]:
        return torch.cat([branch.forward(images).flatten(1) for branch in self.branches], 1)

    def adjoint(self, outputs: Float[Tensor, "b outputs"]) -> Float[Tensor, "b c h w"]:
        sizes = self.output_sizes
        parts = outputs.split([d * h * w for d, h, w in sizes], 1)
        images = [
            branch.adjoint(part.unflatten(1, size), self.input_size[1:])
            for branch, part, size in zip(self.branches, parts, sizes, strict=True)
        ]
        return torch.stack(images).sum(0)
