"""torchvision's resize of tensors, which is PyTorch's `interpolate`: in float32, rounded once at the end."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TensorResize:
    """What `torchvision.transforms.Resize` does to an 8-bit tensor, without importing torchvision.

    `torchvision.transforms.v2.Resize` does the same to floats; to 8-bit tensors it does it in whole numbers, which
    comes out a level off at most, but for bicubic without antialias: that clips between two passes, at edges by more.

    Without `antialias` each value of the result is made of the nearest 1, 4 or 16 pixels alone, however many there are
    for each: as OpenCV's `resize` and TensorFlow's `tf.image.resize` do unless told otherwise.
    """

    mode: Literal["nearest", "nearest-exact", "bilinear", "bicubic"]
    antialias: bool = False

    def __call__(self, pixels: UInt8[NDArray[Any], "H W c"], size: tuple[int, int]) -> UInt8[NDArray[Any], "h1 w1 c"]:
        """The pixels resized to (width, height); bicubic may overshoot, which is clipped."""
        images = torch.from_numpy(np.moveaxis(pixels, -1, 0).copy()).to(torch.float32)
        levels = self.resample(images, size).clamp(0, 255).round().to(torch.uint8)
        return np.ascontiguousarray(np.moveaxis(levels.numpy(), 0, -1))

    def resample(self, images: Float32[Tensor, "c H W"], size: tuple[int, int]) -> Float32[Tensor, "c h1 w1"]:
        """The same before rounding and clipping: a linear map of each channel."""
        if size == (images.shape[2], images.shape[1]):
            return images
        corners = False if self.mode in ("bilinear", "bicubic") else None
        resized = F.interpolate(
            images[None], size[::-1], mode=self.mode, align_corners=corners, antialias=self.antialias
        )
        return resized[0]
