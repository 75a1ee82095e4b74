"""Pictures as a page holds them: encoded, of a size that a page can hold, each with what it is."""

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.files.pictures import encode_png
from nullspace_cli.engine.plots.parts import most_changed
from nullspace_cli.engine.transforms.eval_transform import in_rgb
from nullspace_cli.engine.watermark.result import Pixels, shown_noise

PART = 800
"""Longest side, in pixels, of what a page shows of a picture: each pixel as it is, and what is larger in part."""
THUMBNAIL, THUMBNAIL_QUALITY = 112, 80
"""Longest side of a thumbnail in pixels, twice what it is shown at; and of its JPEG."""


class Encoded(NamedTuple):
    """A picture in a file's bytes.

    Attributes:
        name: what it is, as "before".
        size: width and height.
        kind: "png" or "jpeg".
    """

    name: str
    size: tuple[int, int]
    kind: str
    data: bytes


class View(NamedTuple):
    """What is seen of an image at once: one picture, or two of one size to compare.

    Attributes:
        title: a word or two.
        caption: what is seen, in sentences.
    """

    title: str
    caption: str
    pictures: tuple[Encoded, ...]


def encoded(name: str, pixels: NDArray[np.uint8]) -> Encoded:
    """A picture without loss."""
    height, width, _ = pixels.shape
    return Encoded(name, (width, height), "png", encode_png(in_rgb(pixels)))


def thumbnail(pixels: NDArray[np.uint8]) -> Encoded:
    """A picture scaled down."""
    image = Image.fromarray(in_rgb(pixels))
    image.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=3.0)
    file = io.BytesIO()
    image.save(file, "jpeg", quality=THUMBNAIL_QUALITY)
    return Encoded("thumbnail", image.size, "jpeg", file.getvalue())


def compared(
    title: str, before: tuple[str, Pixels], after: tuple[str, Pixels], caption: str = ""
) -> tuple[View, tuple[slice, slice]]:
    """Two pictures of one size; of large ones the part that differs most. With the rows and columns that are shown."""
    (first, old), (second, new) = before, after
    height, width, _ = old.shape
    part = most_changed(old, new, (PART, PART))
    shown = old[part]
    if shown.shape == old.shape:
        said = f"All {width} × {height} pixels."
    else:
        top, left = part[0].start, part[1].start
        said = (
            f"{shown.shape[1]} × {shown.shape[0]} of {width} × {height} pixels, where most has changed: "
            f"from column {left}, row {top}."
        )
    pictures = encoded(first, shown), encoded(second, new[part])
    return View(title, " ".join(filter(None, (caption, said))), pictures), part


def amplified(title: str, change: NDArray[Any], unit: str = "level", caption: str = "") -> View:
    """A difference of pictures as one: mid-grey is no change, and the largest change is black or white."""
    largest = float(np.abs(change).max(initial=0))
    if largest:
        said = f"Mid-grey is no change. Drawn {127 / largest:.3g} times as strong: the largest is {largest:.3g} {unit}"
        said += "." if largest == 1 else "s."
    else:
        said = "Mid-grey is no change, and there is none."
    return View(title, " ".join(filter(None, (caption, said))), (encoded(title.lower(), shown_noise(change)),))
