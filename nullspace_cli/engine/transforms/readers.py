"""Readers: who else may read a picture, at a size and by a filter of their own, and what of it they are given."""

import re
from dataclasses import dataclass
from typing import Any

from jaxtyping import UInt8
from numpy.typing import NDArray

from nullspace_cli.engine.documents.shared import Interpolation
from nullspace_cli.engine.errors import UsageError, VitnullError
from nullspace_cli.engine.text import shortest
from nullspace_cli.engine.transforms.eval_transform import INTERPOLATIONS, EvalTransform, Geometry
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.transforms.tensor_resize import TensorResize

TENSOR_FILTERS: dict[str, tuple[Interpolation, TensorResize]] = {
    "torch-bilinear": ("bilinear", TensorResize("bilinear", antialias=True)),
    "torch-bicubic": ("bicubic", TensorResize("bicubic", antialias=True)),
    "torch-bilinear-aliased": ("bilinear", TensorResize("bilinear")),
    "torch-bicubic-aliased": ("bicubic", TensorResize("bicubic")),
    "torch-nearest": ("nearest", TensorResize("nearest")),
    "torch-nearest-exact": ("nearest", TensorResize("nearest-exact")),
}
"""Resizes of tensors by their names here, each with the name of Pillow's filter that comes nearest."""
FILTERS = (*INTERPOLATIONS, *TENSOR_FILTERS)
SQUASH = "squash"
FORM = (
    f"SIZE/FILTER/CROP_PCT, as 224/bicubic/0.875, or a model's name. SIZE is the crop's side in pixels, or "
    f"HEIGHTxWIDTH as 256x128; FILTER one of {', '.join(FILTERS)}; CROP_PCT the share of the resized image that the "
    f"crop takes, above 0 and at most 1, or {SQUASH}: resized to SIZE whatever the aspect ratio"
)
"""What a reader can be given as."""


@dataclass(frozen=True)
class Reader:
    """Whoever resizes and crops a picture before a network sees it.

    Attributes:
        name: a model's, or SIZE/FILTER/CROP_PCT: equal readers that are not models have equal names.
        transform: the resize and crop; of a model, also how it normalises what comes of them.
        tensor_resize: a resize of tensors in place of Pillow's; the transform's filter then counts for nothing.
    """

    name: str
    transform: EvalTransform
    tensor_resize: TensorResize | None = None

    @property
    def in_two_passes(self) -> bool:
        """Whether it resizes as Pillow does, in two passes that each round: `Passes` of its `operator` has the bits.

        Else `operator` is all of its resize, which rounds once.
        """
        return self.tensor_resize is None

    def geometry(self, width: int, height: int) -> Geometry:
        """Where an image's pixels go.

        Raises:
            ImageError: the image is too elongated to be resized.
        """
        return self.transform.geometry(width, height)

    def operator(self, width: int, height: int) -> ResizeOperator:
        """Its resize and crop of one image size as a linear operator, up to rounding.

        Raises:
            ImageError: the image is too elongated to be resized.
        """
        return ResizeOperator(self.transform, width, height, self.tensor_resize)

    def input_pixels(self, pixels: UInt8[NDArray[Any], "H W 3"]) -> UInt8[NDArray[Any], "h w c"]:
        """What it sees of an image, as 8-bit pixels.

        Raises:
            ImageError: the image is too elongated to be resized.
        """
        if self.tensor_resize is None:
            return self.transform.input_pixels(pixels)
        height, width, _ = pixels.shape
        resized = self.tensor_resize(self.transform.as_read(pixels), self.geometry(width, height).resized)
        return self.transform.crop(resized)


def is_spelled_out(text: str) -> bool:
    """Whether a reader is given by size, filter and crop, not as a model, in whose names a slash follows a colon."""
    return "/" in text and ":" not in text


def spelled_out(text: str) -> Reader:
    """The reader SIZE/FILTER/CROP_PCT.

    Raises:
        UsageError: the text is not of that form, or there is no such filter, size or crop.
    """
    parts = [part.strip() for part in text.lower().split("/")]
    if len(parts) != 3:
        raise _no_reader(text, f"it has {len(parts)} parts, and not 3")
    side, name, crop = parts
    height, width = _size(text, side)
    if name not in FILTERS:
        raise _no_reader(text, f"there is no filter {name!r}")
    share = 1.0 if crop == SQUASH else _share(text, crop)
    interpolation, tensor_resize = TENSOR_FILTERS.get(name, (name, None))
    size = f"{height}" if height == width else f"{height}x{width}"
    try:
        transform = EvalTransform(
            input_size=(3, height, width),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation=interpolation,  # type: ignore[arg-type]
            crop_pct=share,
            crop_mode="squash" if crop == SQUASH else "center",
        )
    except VitnullError as error:
        raise _no_reader(text, str(error)) from error
    return Reader(f"{size}/{name}/{SQUASH if crop == SQUASH else shortest(share)}", transform, tensor_resize)


def _size(text: str, side: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", side)
    if not found:
        raise _no_reader(text, f"{side!r} is no size")
    return int(found[1]), int(found[2] or found[1])


def _share(text: str, crop: str) -> float:
    try:
        share = float(crop)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise _no_reader(text, f"{crop!r} is no share")
    return share


def _no_reader(text: str, reason: str) -> UsageError:
    return UsageError(f"{text!r} names no reader: {reason}. Expected {FORM}.")
