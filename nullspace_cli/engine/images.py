"""Image files to 8-bit RGB pixels, and back to PNG. What cannot be converted faithfully is refused, never clipped."""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from nullspace_cli.engine.errors import ImageError

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before they are decoded: a few bytes of file can claim any size. As RGB this many
are 256 MiB, Pillow's own threshold for a decompression bomb."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

_DECODE_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders let escape when a file's bytes are damaged."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image, upright, with what a writer at native size needs to put back.

    `pixels` is uint8 [H, W, 3], RGB, composited on white; `alpha` is uint8 [H, W], or None if the file has no
    transparency. `exif` no longer asks for a rotation, `icc_profile` is one that RGB pixels can carry, `dpi` is (x, y).
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    path: Path
    source_mode: str
    format: str
    icc_profile: bytes | None
    exif: bytes | None
    dpi: tuple[float, float] | None

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def read_picture(path: Path) -> Picture:
    """Decode the first frame of an image file, upright, as 8-bit RGB on white.

    16-bit grey is scaled by 255 / 65535 and rounded; of 16-bit colour Pillow keeps the high bytes, within one level of
    that. Float images are taken as [0, 1]. Colour profiles are kept, never applied: models are trained without them.

    Raises:
        ImageError: the file is missing, damaged, too large, of another format, or its values have no known white.
    """
    with _opened(path) as image:
        source_mode, raw_mode = image.mode, _raw_mode(image)
        # Pillow inverts such files itself, except those that it cannot convert either: 16-bit integers and floats.
        white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
        upright = _upright(image)
        _match_transparent_colour(upright, raw_mode, path)
        if source_mode.startswith(("I", "F")):
            rgb, alpha = _from_deep_grey(upright, _WHITE.get(raw_mode, _WHITE[source_mode[0]]), path)
            rgb = 255 - rgb if white_is_zero else rgb
        elif upright.has_transparency_data:
            rgba = np.array(upright.convert("RGBA"))
            rgb, alpha = rgba[..., :3], rgba[..., 3]
        else:
            rgb, alpha = np.array(upright.convert("RGB")), None
        return Picture(
            pixels=rgb if alpha is None else _on_white(rgb, alpha),
            alpha=alpha,
            path=path,
            source_mode=source_mode,
            format="JPEG" if image.format == "MPO" else str(image.format),  # a phone's JPEG with more views behind it
            icc_profile=_rgb_profile(upright.info),
            exif=upright.info.get("exif"),
            dpi=_dpi(upright.info),
        )


def check_picture(path: Path) -> None:
    """Read no more than the header of an image file, so that slow work does not start on one that will be refused.

    Raises:
        ImageError: the file is missing, empty, too large, or of another format.
    """
    with _opened(path):
        pass


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG file with exactly the given pixels, uint8 [H, W, 3] or with alpha [H, W, 4], nothing else.

    Raises:
        ValueError: the array is not of that type and shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"expected uint8 [H, W, 3 or 4], got {pixels.dtype} {list(pixels.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


_PHOTOMETRIC = 262  # TIFF's PhotometricInterpretation; 0 is WhiteIsZero

_WHITE = {"I": 65535, "I;12": 4095, "F": 1}
"""The value of white in greyscale images that are deeper than 8 bits."""

_SPREAD = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the samples of shallow greyscale by, to fill 8 bits. (It does so with 1 bit itself.)"""


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image whose header is acceptable; what goes wrong then or while it is decoded becomes an ImageError."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise ImageError(f"Cannot read {path}: it is {kind}. Give the name of an image file.")
    try:
        with _strict_pillow(), path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height}")
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"Cannot read {path}: there is no such file. Check the name.") from error
    except PermissionError as error:
        raise ImageError(f"Cannot read {path}: permission denied. Make it readable, or give another file.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"Cannot read {path}: it claims to have more than {MAX_PIXELS} pixels. Scale it down first."
        ) from error
    except UnidentifiedImageError as error:
        if path.stat().st_size == 0:
            raise ImageError(f"Cannot read {path}: the file is empty. Download or export it again.") from error
        raise ImageError(
            f"Cannot read {path}: it is not a PNG, JPEG, WebP, BMP, TIFF or GIF image. Convert it to PNG first."
        ) from error
    except _DECODE_ERRORS as error:
        raise ImageError(
            f"Cannot read {path}: the image is damaged or truncated ({error}). Download or export it again."
        ) from error


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow without warnings, and without its global permission to fill what is missing of a file with grey."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            # They are about metadata that is not used here, and about sizes, which are checked against MAX_PIXELS.
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's name for the samples as they lie in the file: their depth, which `mode` no longer tells."""
    if not image.tile:  # WebP
        return image.mode
    arguments = image.tile[0].args
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    """The image turned as its EXIF orientation says; metadata that cannot be parsed is dropped, not the image."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, struct.error):
        image.info.pop("exif", None)
        return image


def _match_transparent_colour(image: Image.Image, raw_mode: str, path: Path) -> None:
    """Bring a PNG's transparent colour, which is at the file's depth, to that of the decoded samples."""
    if "transparency" not in image.info:
        return
    if raw_mode == "RGB;16B":
        raise ImageError(
            f"Cannot read {path}: a single transparent colour in 16-bit RGB would be confused with its neighbours. "
            "Save it with an alpha channel, or with 8 bits."
        )
    if raw_mode in _SPREAD:
        image.info["transparency"] *= _SPREAD[raw_mode]


def _from_deep_grey(image: Image.Image, white: int, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Samples of [0, white] to 8-bit RGB and alpha, rounded to the nearest level."""
    grey = np.asarray(image)
    # Not finite is also not in the range: comparisons with NaN are false.
    if not bool(((grey >= 0) & (grey <= white)).all()):
        raise ImageError(
            f"Cannot read {path}: its values ({image.mode}) go from {grey.min():g} to {grey.max():g}, and which of "
            f"them is white is unknown; expected 0 to {white}. Scale it and save it with 8 or 16 bits."
        )
    levels = np.rint(grey.astype(np.float32) / white * 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    alpha = None if transparent is None else np.where(grey == transparent, 0, 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2), alpha


def _on_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """round((a c + (255 - a) 255) / 255), exactly; opaque pixels stay as they are."""
    a = alpha[..., None].astype(np.uint16)
    # 255 is odd, so there are no ties and adding 127 rounds; the largest sum, 65152, still fits 16 bits.
    return ((a * rgb + (255 - a) * 255 + 127) // 255).astype(np.uint8)


def _rgb_profile(info: Mapping[Any, Any]) -> bytes | None:
    """The ICC profile, unless it describes another colour space (CMYK, grey, Lab) that RGB pixels are not in."""
    profile: bytes | None = info.get("icc_profile")
    return profile if profile and profile[16:20] == b"RGB " else None


def _dpi(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    x, y = (float(value) for value in info.get("dpi", (0, 0)))
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None
