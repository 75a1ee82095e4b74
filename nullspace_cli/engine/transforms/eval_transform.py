"""timm's eval transform (resize, crop, normalise): the same bits without importing timm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nullspace_cli.engine.documents.shared import MAX_RESIZED, CropMode, DataConfig, Interpolation
from nullspace_cli.engine.errors import ImageError, ModelError

INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
CROP_MODES: tuple[CropMode, ...] = get_args(CropMode)


@dataclass(frozen=True)
class Geometry:
    """What becomes of one size of image, in pixels: resized, then cropped, or padded where it is smaller than the crop.

    `source` and `resized` are (width, height) as in PIL, `crop` is (height, width) as in tensors. `top` and `left` are
    the crop's corner on the resized image; a negative one counts the rows or columns of padding, of colour `fill`.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    crop: tuple[int, int]
    fill: tuple[int, ...]

    @property
    def overlaps(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The rows, then the columns that the crop takes: each as a slice of the resized image, and of the crop."""
        width, height = self.resized
        return overlap(self.top, self.crop[0], height), overlap(self.left, self.crop[1], width)


@dataclass(frozen=True)
class EvalTransform:
    """The eval transform that a timm data config describes; called on pixels it returns what the model is given.

    `input_size` is (c, h, w), `mean` and `std` hold c numbers; pictures can be given where c is 3, or 1 for a model
    that reads them in grey. `crop_mode` says how the resize aims at 1 / `crop_pct` times the crop's size: "center"
    covers it, "squash" gives up the aspect ratio to match it, "border" fits into it and pads with the mean colour.

    Raises:
        ModelError: a value is not one that timm's transform takes.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        DataConfig.read(lists, "The model's data config", ModelError, "Correct its config.")

    @classmethod
    def from_data_config(cls, config: Mapping[str, Any]) -> "EvalTransform":
        """The transform of a data config as `timm.data.resolve_model_data_config` returns it.

        Raises:
            ModelError: a key is missing or unknown (it might change the transform), or its value makes no sense.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(config.keys() - known):
            raise ModelError(f"The data config has {', '.join(unknown)}; expected only {', '.join(sorted(known))}.")
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value  # a config that has been through JSON
            for key, value in config.items()
            if value is not None  # None is timm's word for its default
        }
        if missing := sorted({"input_size", "mean", "std", "interpolation"} - settings.keys()):
            raise ModelError(f"The data config lacks {', '.join(missing)}. Use timm's resolve_model_data_config.")
        return cls(**settings)

    def squashed(self) -> "EvalTransform":
        """The transform of the paper's experiments in place of the model's: to the input's size, bilinear, no crop."""
        return replace(self, interpolation="bilinear", crop_pct=1.0, crop_mode="squash")

    def __call__(self, pixels: UInt8[NDArray[Any], "H W 3"]) -> Float32[Tensor, "c h w"]:
        """The model's normalised input for an image, the very bits of timm's own transform.

        Raises:
            ImageError: the image is too elongated to be resized.
        """
        return self.normalize(self.input_pixels(pixels))

    def require_pictures(self) -> None:
        """See that the model reads pictures: RGB, or grey.

        Raises:
            ModelError: it reads another number of channels.
        """
        if self.input_size[0] not in (1, 3):
            raise ModelError(
                f"The model reads {self.input_size[0]} channels; pictures have 3, or 1 in grey. Use a model of either "
                f"kind, or the library, which takes tensors."
            )

    def geometry(self, width: int, height: int) -> Geometry:
        """Where an image's pixels go.

        Raises:
            ImageError: resized, an image that elongated would be empty or would not fit into memory.
            ModelError: as `require_pictures`.
        """
        self.require_pictures()
        resized = self._resized(width, height)
        if min(resized) < 1 or math.prod(resized) > MAX_RESIZED:
            raise ImageError(
                f"An image of {width} x {height} is too elongated for this model: it would be resized to "
                f"{resized[0]} x {resized[1]}. Crop it first."
            )
        crop = self.input_size[1:]
        return Geometry(
            source=(width, height),
            resized=resized,
            top=_centred(crop[0], resized[1]),
            left=_centred(crop[1], resized[0]),
            crop=crop,
            fill=self._fill,
        )

    def seen_part(self, width: int, height: int, *, native: bool) -> tuple[slice, slice]:
        """The rows and columns that reach the crop: of an image of this size (native), or of what it is resized to."""
        geometry = self.geometry(width, height)
        spans = []
        for (kept, _), resized, size in zip(geometry.overlaps, geometry.resized[::-1], (height, width), strict=True):
            ratio = size / resized if native else 1.0
            spans.append(slice(int(kept.start * ratio), math.ceil(kept.stop * ratio)))
        return spans[0], spans[1]

    def as_read(self, pixels: UInt8[NDArray[Any], "H W 3"]) -> UInt8[NDArray[Any], "H W c"]:
        """The channels that the model reads: all three, or Pillow's grey of them, as timm's loader makes it."""
        return pixels if self.input_size[0] == 3 else in_grey(pixels)

    def resize(self, pixels: UInt8[NDArray[Any], "H W 3"]) -> UInt8[NDArray[Any], "h1 w1 c"]:
        """The first step alone, with PIL's rounding to 8 bits after each of its two passes.

        Raises:
            ImageError: the image is too elongated to be resized.
        """
        height, width, _ = pixels.shape
        resized = self.geometry(width, height).resized
        if self.input_size[0] == 1:
            return self.resample(in_grey(pixels)[..., 0], resized)[..., None]
        return self.resample(pixels, resized)

    def resample(self, pixels: UInt8[NDArray[Any], "H W *c"], size: tuple[int, int]) -> UInt8[NDArray[Any], "h1 w1 *c"]:
        """PIL's resize to any (width, height) by the transform's filter; also of one pass alone, or of one channel."""
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling[self.interpolation.upper()]))

    def crop(self, pixels: UInt8[NDArray[Any], "h1 w1 c"]) -> UInt8[NDArray[Any], "h w c"]:
        """The second step alone: the centre of an image that has been resized, padded where it is too small."""
        (height, width), (crop_height, crop_width) = pixels.shape[:2], self.input_size[1:]
        rows, target_rows = overlap(_centred(crop_height, height), crop_height, height)
        columns, target_columns = overlap(_centred(crop_width, width), crop_width, width)
        cropped = np.full((crop_height, crop_width, pixels.shape[2]), self._fill, dtype=np.uint8)
        cropped[target_rows, target_columns] = pixels[rows, columns]
        return cropped

    def input_pixels(self, pixels: UInt8[NDArray[Any], "H W 3"]) -> UInt8[NDArray[Any], "h w c"]:
        """What the model sees of an image, as 8-bit pixels.

        Raises:
            ImageError: the image is too elongated to be resized.
        """
        return self.crop(self.resize(pixels))

    def normalize(
        self, pixels: Shaped[NDArray[Any], "*batch h w c"] | Shaped[Tensor, "*batch h w c"]
    ) -> Float32[Tensor, "*batch c h w"]:
        """(pixels / 255 - mean) / std, in torchvision's order of float32 operations; floats are in [0, 1] already."""
        if not isinstance(pixels, Tensor):
            pixels = torch.from_numpy(pixels.copy())  # torch takes no negative strides and warns of read-only memory
        images = pixels.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format)
        # Divided by a tensor: by a number a card multiplies with its reciprocal, which is off by a bit.
        return self.to_normalized(images / images.new_full((), 255) if pixels.dtype == torch.uint8 else images)

    def to_normalized(self, images: Float[Tensor, "*batch c H W"]) -> Float[Tensor, "*batch c H W"]:
        """Images in [0, 1] to the model's normalised space: (x - mean) / std."""
        return (images - per_channel(self.mean, images)) / per_channel(self.std, images)

    def to_pixels(self, images: Float[Tensor, "*batch c H W"]) -> Float[Tensor, "*batch c H W"]:
        """Normalised images back to [0, 1]: x std + mean."""
        return images * per_channel(self.std, images) + per_channel(self.mean, images)

    def delta_to_normalized(self, delta: Float[Tensor, "*batch c H W"]) -> Float[Tensor, "*batch c H W"]:
        """A difference of images in [0, 1] as a difference of normalised images: the mean cancels."""
        return delta / per_channel(self.std, delta)

    def delta_to_pixels(self, delta: Float[Tensor, "*batch c H W"]) -> Float[Tensor, "*batch c H W"]:
        """A difference of normalised images as a difference of images in [0, 1]: the mean cancels."""
        return delta * per_channel(self.std, delta)

    @property
    def _fill(self) -> tuple[int, ...]:
        """The colour of the padding."""
        return tuple(round(255 * value) if self.crop_mode == "border" else 0 for value in self.mean)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize. Each mode rounds in its own way, in timm as here."""
        target_height, target_width = (math.floor(side / self.crop_pct) for side in self.input_size[1:])
        if self.crop_mode == "squash":
            return target_width, target_height
        if self.crop_mode == "center" and target_width == target_height:
            if width <= height:
                return target_width, int(target_width * height / width)
            return int(target_height * width / height), target_height
        ratios = (height / target_height, width / target_width)
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return round(width / ratio), round(height / ratio)


GREY_SHARES = tuple(share / 65536 for share in (19595, 38470, 7471))
"""Of red, green and blue in Pillow's grey, before it is rounded. They sum to 1: as all three move, so does the grey."""


def in_grey(pixels: UInt8[NDArray[Any], "H W 3"]) -> UInt8[NDArray[Any], "H W 1"]:
    """Pillow's grey of colours; of three equal channels that is their value."""
    return np.array(Image.fromarray(pixels).convert("L"))[..., None]


def in_rgb(pixels: UInt8[NDArray[Any], "h w c"]) -> UInt8[NDArray[Any], "h w 3"]:
    """What a model is shown as a picture: as it is, or grey in three equal channels."""
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def from_8_bits(pixels: UInt8[NDArray[Any], "h w c"]) -> Float[Tensor, "c h w"]:
    """8-bit pixels in [0, 1], float64."""
    return torch.from_numpy(np.moveaxis(pixels, 2, 0).copy()).double() / 255


def to_8_bits(image: Float[Tensor, "c h w"]) -> UInt8[NDArray[Any], "h w c"]:
    """[0, 1] as 8-bit pixels; what lies outside is clipped."""
    pixels: NDArray[Any] = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels


def per_channel(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "c 1 1"]:
    if not like.is_floating_point():
        raise TypeError(f"expected images as floats in [0, 1], got {like.dtype}")  # whose means would all be 0
    # Filled there: what is copied to a card from here is waited for.
    return torch.cat([torch.full((1, 1, 1), value, dtype=like.dtype, device=like.device) for value in values])


def _centred(crop: int, size: int) -> int:
    """Where a centred crop begins; padding, when the crop is the larger, puts the odd pixel at the end."""
    return -((crop - size) // 2) if crop > size else round((size - crop) / 2)


def overlap(start: int, crop: int, size: int) -> tuple[slice, slice]:
    """The part of an axis that a crop takes: as a slice of the axis, and as a slice of the crop."""
    first, last = max(start, 0), min(start + crop, size)
    return slice(first, last), slice(first - start, last - start)
