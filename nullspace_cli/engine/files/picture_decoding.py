"""What Pillow makes of an image file, and samples of that, as a PNG can hold them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import ImageFile

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files import png
from nullspace_cli.engine.files.image_opening import jpeg_damage, opened_again, several_frames
from nullspace_cli.engine.files.metadata import Metadata, read_metadata
from nullspace_cli.engine.files.orientation import Orientation, orientation_of
from nullspace_cli.engine.files.paths import reason_of
from nullspace_cli.engine.files.samples import DEEP, levels_of

_PHOTOMETRIC = 262  # TIFF's PhotometricInterpretation; 0 is WhiteIsZero
_YCBCR = 6
_BITS = 258  # TIFF's BitsPerSample
_PLANAR = 284  # TIFF's PlanarConfiguration; 2 is one plane after the other
"""The largest value of 16-bit grey that timm's loader tells from white."""
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""Of 16-bit colour Pillow keeps the high bytes. Told the other byte order, it takes the low ones for them."""
_WHITE = {"I": DEEP, "I;12": 4095, "F": 1}
"""The value of white in greyscale images that are deeper than 8 bits."""
_SPREAD = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the samples of shallow greyscale by, to fill 8 bits. (It does so with 1 bit itself.)"""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What Pillow makes of a file's first frame: nothing here is our own arithmetic.

    Attributes:
        loaded: converted to RGB without further ado.
        orientation: how it is turned to be seen.
        values: grey [H, W], or with c channels [H, W, c]; 8 bits, but for `deep` grey.
        low: the low bytes of 16-bit colour, of which `values` are the high ones.
        source_mode, raw_mode: Pillow's names for the pixels, and for the samples as they lie in the file.
        deep: whether it is grey with more than 8 bits.
        mixed_up: whether Pillow has mixed up the bytes of samples.
        white_is_zero: whether deep grey is inverted.
        shallow: whether it has 16 bits, of which Pillow decodes 8.
        info: the metadata, as Pillow found it.
        segments: of a JPEG.
        notices: see `Picture`.
    """

    loaded: UInt8[NDArray[np.uint8], "h w 3"]
    orientation: Orientation
    values: NDArray[Any]
    low: NDArray[np.uint8] | None
    source_mode: str
    raw_mode: str
    format: str
    deep: bool
    mixed_up: bool
    white_is_zero: bool
    shallow: bool
    info: Mapping[Any, Any]
    segments: Sequence[tuple[str, bytes]]
    notices: tuple[str, ...]


def decode(image: ImageFile.ImageFile, path: Path) -> Decoded:
    source_mode, raw_mode, shallow = image.mode, _raw_mode(image), _is_shallow(image)
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == _YCBCR and (raw_mode, image.tile[0].codec_name) == ("RGBX", "raw"):
        raise ImageError(
            f"Cannot read {path}: it is a TIFF of YCbCr, which Pillow {PIL.__version__} cannot decode. "
            "Convert it to PNG, or install Pillow 13 or later."
        )
    image.load()
    orientation = orientation_of(image)
    loaded = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    planar = tags.get(_PLANAR) == 2
    deep = image.mode.startswith(("I", "F"))
    name, _, depth = raw_mode.partition(";")
    low = None
    if deep:
        values = np.asarray(image)
    elif name in ("RGB", "RGBX", "RGBA") and depth in _OTHER_BYTE and not planar and not shallow:
        values = loaded if image.mode == "RGB" else np.asarray(image)
        low = _decoded_as(path, f"{name};{_OTHER_BYTE[depth]}")
    elif raw_mode == "LA;16B":
        values = _decoded_as(path, "RGBA")  # four bytes a pixel, whatever they are called
    else:
        if raw_mode in _SPREAD and "transparency" in image.info:
            image.info["transparency"] *= _SPREAD[raw_mode]  # from the file's depth to that of the decoded samples
        elif image.mode == "1" and image.info.get("transparency"):
            image.info["transparency"] = 255  # before Pillow 13 it is 1
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        if image.has_transparency_data:
            mode += "A"
        values = loaded if mode == "RGB" else np.array(image if image.mode == mode else image.convert(mode))
    return Decoded(
        loaded=loaded,
        orientation=orientation,
        values=values,
        low=low,
        source_mode=source_mode,
        raw_mode=raw_mode,
        format="JPEG" if image.format == "MPO" else str(image.format),  # a phone's JPEG with more views behind it
        deep=deep,
        mixed_up=planar and raw_mode == "R" and np.max(tags.get(_BITS, 8)) > 8,
        white_is_zero=tags.get(_PHOTOMETRIC) == 0,
        shallow=shallow,
        info=dict(image.info),
        segments=getattr(image, "applist", ()),
        notices=_notices(image, path),
    )


def _notices(image: ImageFile.ImageFile, path: Path) -> tuple[str, ...]:
    notices = []
    if several_frames(image):
        notices.append("it holds several frames, of which the first is read")
    if image.format in ("JPEG", "MPO") and (damage := jpeg_damage(path)):
        notices.append(f"it is damaged, and part of it may be another picture than it was ({damage})")
    return tuple(notices)


def _is_shallow(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow decodes 8 of 16 bits of a format of which it tells us no more."""
    if image.format in ("PNG", "TIFF") or image.mode[0] in "IF" or not image.tile:
        return False
    if image.tile[0].codec_name == "SGI16":
        return True
    arguments = image.tile[0].args
    # Of a PPM the second one is the value of white.
    largest = arguments[1] if image.format == "PPM" and isinstance(arguments, tuple) and len(arguments) > 1 else 0
    return _raw_mode(image).endswith(tuple(_OTHER_BYTE)) or (isinstance(largest, int) and largest > 255)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's name for the samples as they lie in the file: their depth, which `mode` no longer tells."""
    if not image.tile:  # WebP
        return image.mode
    arguments = image.tile[0].args
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def samples_of(decoded: Decoded, path: Path) -> png.Samples:
    """A decoded image's samples as a PNG can hold them; with 8 bits where Pillow decodes no more."""
    if decoded.mixed_up:
        raise ImageError(f"Cannot read {path}: its channels of 16 bits lie one after the other. Save it as PNG first.")
    if decoded.deep:
        # Pillow inverts such files itself, except those that it cannot convert either: 16-bit integers and floats.
        return _deep_grey(decoded, path)
    if decoded.low is not None:
        samples = decoded.values.astype(np.uint16)
        samples <<= 8
        samples |= decoded.low
        return _with_transparent_colour(samples, decoded.info.get("transparency"))
    if decoded.raw_mode == "LA;16B":
        return decoded.values.view(">u2").astype(np.uint16)
    return decoded.values[..., None] if decoded.values.ndim == 2 else decoded.values


def _decoded_as(path: Path, raw_mode: str) -> UInt8[NDArray[np.uint8], "H W c"]:
    """The file decoded once more, its bytes taken for those of another raw mode of the same width."""
    with opened_again(path) as image:
        image.tile = [
            tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
            for tile in image.tile
        ]
        return np.asarray(image)


def _with_transparent_colour(samples: png.Samples, colour: tuple[int, int, int] | None) -> png.Samples:
    """16-bit RGB, or RGBA if one colour is transparent."""
    if colour is None:
        return samples
    alpha = np.where((samples == np.array(colour, np.uint16)).all(axis=2), 0, DEEP)
    return np.dstack([samples, alpha.astype(np.uint16)])


def _deep_grey(decoded: Decoded, path: Path) -> png.Samples:
    """Greyscale of [0, white] as 16 bits, floats as 8; with 8 bits and alpha where one value is transparent."""
    grey, mode = decoded.values, decoded.source_mode
    white = _WHITE.get(decoded.raw_mode, _WHITE[mode[0]])
    # Not finite is also not in the range: comparisons with NaN are false.
    if not bool(((grey >= 0) & (grey <= white)).all()):
        raise ImageError(
            f"Cannot read {path}: its values ({mode}) go from {grey.min():g} to {grey.max():g}, and which of "
            f"them is white is unknown; expected 0 to {white}. Scale it and save it with 8 or 16 bits."
        )
    kind, top = (np.uint8, 255) if mode == "F" else (np.uint16, DEEP)
    scaled = grey if white == top else np.rint(grey * np.float32(top / white))
    samples = scaled.astype(kind)[..., None]
    if decoded.white_is_zero:
        samples = top - samples
    transparent = decoded.info.get("transparency")
    if transparent is None:
        return samples
    alpha = np.where(grey == transparent, 0, 255).astype(np.uint8)  # 16-bit grey with alpha would not be rounded
    return np.dstack([levels_of(samples, rounded=True), alpha])


def reduction(source_mode: str, raw_mode: str, samples: png.Samples, *, shallow: bool) -> str | None:
    """What a PNG of these samples is, and what it is not."""
    lost = ""
    if samples.dtype == np.uint8 and (source_mode[0] in "IF" or raw_mode.endswith(tuple(_OTHER_BYTE)) or shallow):
        lost = "floating-point" if source_mode == "F" else "16-bit"
    if source_mode in ("CMYK", "LAB", "YCbCr"):
        lost = f"{lost} {source_mode}".lstrip()
    return f"8-bit {'grey' if samples.shape[2] <= 2 else 'RGB'}, not {lost}" if lost else None


def metadata_of(decoded: Decoded, path: Path) -> Metadata:
    """What the file says besides its pixels; EXIF and XMP agree on how these are to be turned."""
    try:
        with path.open("rb") as file:
            found = read_metadata(decoded.format, file, path.stat().st_size, decoded.info, decoded.segments)
    except OSError as error:
        raise ImageError(f"Cannot read {path}: {reason_of(error)}. Check the disk, or give another file.") from error
    return found.with_orientation(decoded.orientation.value)
