"""A picture as the JPEG that its watermark is made on: the source itself, or the plain encode of another picture."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.containers import with_texts
from nullspace_cli.engine.files.jpeg_coefficients import Luma, read_luma, why_no_coefficients, with_luma
from nullspace_cli.engine.files.jpeg_decoding import colour_offsets, decoded_luma
from nullspace_cli.engine.files.jpeg_segments import Segment, kept, said, segments_of
from nullspace_cli.engine.files.pictures import Picture, picture_of

MOST_SIDE = 65500
"""Pixels: libjpeg's own limit."""
QUALITY = 95
ComparedWith = Literal["source", "plain JPEG"]


@dataclass(frozen=True, eq=False)
class JpegPicture:
    """A JPEG to be marked.

    Attributes:
        picture: what it is decoded to; the source itself, where that is a JPEG whose coefficients can be kept.
        data: its bytes.
        luma: its luma coefficients.
        brightness: the same decoded, as they are stored.
        offsets: red, green and blue less that; None of a greyscale JPEG.
        says: the segments about the picture, without pictures of it.
        lost: what of them the result goes without, in words.
        compared_with: what a result is compared with.
    """

    picture: Picture
    data: bytes
    luma: Luma
    brightness: UInt8[NDArray[np.uint8], "h w"]
    offsets: Int[NDArray[np.int16], "3 h w"] | None
    says: list[Segment]
    lost: tuple[str, ...]
    compared_with: ComparedWith

    def written(self, coefficients: Int[NDArray[np.integer], "n m 8 8"]) -> bytes:
        """The same JPEG with other luma coefficients."""
        return with_luma(self.data, coefficients, self.says)


def why_no_jpeg(picture: Picture) -> str | None:
    """Why a picture cannot be written as a JPEG, to follow "Cannot write x: "; None if it can."""
    if picture.alpha is not None and (picture.alpha < 255).any():
        return "a JPEG has no transparency, and the source has. Use .png, .webp or .tif."
    if max(picture.width, picture.height) > MOST_SIDE:
        return f"a JPEG has no more than {MOST_SIDE} pixels a side, and this is {picture.width} x {picture.height}."
    return None


def jpeg_of(picture: Picture, quality: int = QUALITY) -> JpegPicture:
    """The JPEG to mark.

    Args:
        quality: of the plain encode (4:4:4), where the source is no JPEG whose coefficients can be kept.

    Raises:
        ImageError: it cannot be written as a JPEG, or this Pillow decodes JPEGs in a way that is not known here.
    """
    if reason := why_no_jpeg(picture):
        raise ImageError(f"Cannot write a JPEG: {reason}")
    if picture.format == "JPEG" and picture.path.exists():
        data = picture.path.read_bytes()
        if why_no_coefficients(data) is None:
            says, lost = kept(data, picture.metadata_found)
            if found := _understood(picture, data, says, lost, "source"):
                return found
    data, says, lost = _plain_encode(picture, quality)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    samples = pixels[..., None] if pixels.ndim == 2 else pixels
    plain = picture_of(samples, str(picture.path), picture.reading, picture.orientation)
    if found := _understood(plain, data, says, lost, "plain JPEG"):
        return found
    raise ImageError(
        f"Cannot write {picture.path} as a JPEG: Pillow's decoder here is not libjpeg-turbo's accurate one: what "
        f"it makes of coefficients is unknown. Write .png, or install Pillow's own wheels."
    )


def decoded(data: bytes) -> UInt8[NDArray[np.uint8], "h w 3"]:
    """The pixels of a JPEG as loaders give them."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _understood(
    picture: Picture, data: bytes, says: list[Segment], lost: tuple[str, ...], compared_with: ComparedWith
) -> JpegPicture | None:
    """None where the decoder makes something else of the coefficients: of planes that are red, green and blue."""
    luma = read_luma(data)
    n, m = luma.coefficients.shape[:2]
    image = Image.open(io.BytesIO(data))
    grey = image.mode == "L"
    if not grey:
        image.draft("YCbCr", image.size)
    try:
        planes = np.asarray(image)
    except OSError:  # libjpeg turns no other planes into luma and chroma
        return None
    height, width = planes.shape[:2]
    blocks = decoded_luma(luma.coefficients, luma.table).transpose(0, 2, 1, 3)
    brightness = np.ascontiguousarray(blocks.reshape(8 * n, 8 * m)[:height, :width])
    offsets = None if grey else colour_offsets(planes[..., 1], planes[..., 2])
    colours = brightness[None] if offsets is None else (brightness + offsets).clip(0, 255)
    stored = picture.read_as("timm").pixels
    if stored.shape[:2] != brightness.shape or not np.array_equal(np.moveaxis(stored, 2, 0)[: len(colours)], colours):
        return None
    return JpegPicture(picture, data, luma, brightness, offsets, says, lost, compared_with)


def _plain_encode(picture: Picture, quality: int) -> tuple[bytes, list[Segment], tuple[str, ...]]:
    """The picture as Pillow encodes it, without another word; and what is to be said of it."""
    shown = picture.orientation.stored(picture.read_as("shown").pixels)
    buffer, metadata = io.BytesIO(), picture.metadata
    image = Image.fromarray(np.ascontiguousarray(shown[..., 0] if picture.grey else shown))
    dpi = {"dpi": metadata.dpi} if metadata.dpi else {}
    image.save(buffer, "JPEG", quality=quality, subsampling=0, **dpi)
    data = buffer.getvalue()
    own = [segment for segment in segments_of(data)[0] if segment.says]
    metadata, without = with_texts(metadata)
    says, lost = said(metadata)
    return data, own + says, (*metadata.lost, *without, *lost)
