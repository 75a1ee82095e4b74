"""Image files to 8-bit RGB pixels, and back. What cannot be converted faithfully is refused, never clipped."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import ImageFile

from nullspace_cli.engine.errors import ArtifactError, ImageError
from nullspace_cli.engine.files import containers, png, png_chunks
from nullspace_cli.engine.files.containers import Container, Encoded
from nullspace_cli.engine.files.exif import upright
from nullspace_cli.engine.files.image_opening import (
    MAX_PIXELS,
    damaged,
    jpeg_damage,
    jpeg_is_cut,
    opened,
    opened_again,
    several_frames,
)
from nullspace_cli.engine.files.metadata import Metadata, read_metadata
from nullspace_cli.engine.files.paths import reason_of
from nullspace_cli.engine.files.writing import FilesTogether


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image, upright, with what a writer at native size needs to put back.

    Attributes:
        pixels: RGB composited on white: what a model is shown.
        samples: what `pixels` was made of, as a PNG can hold it: grey or RGB, alpha last, hidden colours and all.
        metadata: what such samples can carry; it no longer asks for a rotation.
        reduced: what `encode_like` makes of a source that a PNG cannot hold, as "8-bit RGB, not CMYK"; else None.
        notices: what of the file was not read, or is doubtful, as "it holds several frames, ...".

    The arrays may share memory: write to none of them.
    """

    pixels: UInt8[NDArray[np.uint8], "H W 3"]
    samples: png.Samples
    path: Path
    source_mode: str
    format: str
    reduced: str | None = None
    metadata: Metadata = field(default_factory=Metadata)
    notices: tuple[str, ...] = ()

    def tell(self, notice: Callable[[str], None]) -> None:
        """Pass the notices on, with the file's name."""
        for text in self.notices:
            notice(f"{self.path}: {text}")

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def grey(self) -> bool:
        """Whether `encode_like` takes only pixels whose three channels are equal."""
        return self.samples.shape[2] <= 2

    @property
    def alpha(self) -> UInt8[NDArray[np.uint8], "H W"] | None:
        """255 is opaque; None if the file has no transparency."""
        return None if self.samples.shape[2] in (1, 3) else _levels(self.samples[..., -1])

    def range(self) -> tuple[UInt8[NDArray[np.uint8], "H W"], UInt8[NDArray[np.uint8], "H W"]]:
        """The darkest and the lightest level that `encode_like` can write, for all channels of a pixel; read-only.

        A colour c at alpha a is seen as 255 - round(a (255 - c) / 255), by which c reaches every level from 255 - a on.
        """
        white = np.broadcast_to(np.uint8(255), self.pixels.shape[:2])
        if self.alpha is None:
            return np.broadcast_to(np.uint8(0), white.shape), white
        return 255 - self.alpha, white


def read_picture(path: Path) -> Picture:
    """Decode the first frame of an image file, upright, as 8-bit RGB on white.

    16-bit grey is scaled by 255 / 65535 and rounded; of 16-bit colour the high bytes count, as in Pillow, within one
    level of that. Float images are taken as [0, 1]. Colour profiles are kept, never applied: models are trained
    without them.

    Raises:
        ImageError: the file is missing, damaged, too large, of another format, or its values have no known white.
    """
    try:
        with opened(path) as image:
            decoded = _decode(image, path)
        samples = _samples(decoded, path)
        return Picture(
            pixels=_seen(samples),
            samples=samples,
            path=path,
            source_mode=decoded.source_mode,
            format=decoded.format,
            reduced=_reduced(decoded, samples),
            metadata=_metadata(decoded, path, b"GRAY" if samples.shape[2] <= 2 else b"RGB "),
            notices=decoded.notices,
        )
    except MemoryError as error:
        raise ImageError(f"Cannot read {path}: it does not fit into the memory that is left. Scale it down.") from error


def picture_of(samples: png.Samples, name: str = "the image") -> Picture:
    """A picture that is no file: uint8 [H, W, c], grey, grey and alpha, RGB or RGBA as c is 1 to 4.

    Args:
        name: for messages.

    Raises:
        ImageError: it has no pixels, or more than are read from files.
    """
    height, width, channels = samples.shape
    if not 0 < height * width <= MAX_PIXELS:
        raise ImageError(f"Cannot read {name}: it is {width} x {height}. Expected at most {MAX_PIXELS} pixels.")
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    return Picture(_seen(samples), samples, Path(name), mode, "PNG")


def check_picture(path: Path) -> None:
    """Read little more than the header of an image file, so that slow work does not start on one that will be refused.

    Raises:
        ImageError: the file is missing, empty, too large, of another format, or a PNG or JPEG that ends too early.
    """
    with opened(path) as image:
        kind = str(image.format)
    is_cut = {"PNG": png_chunks.is_cut, "JPEG": jpeg_is_cut, "MPO": jpeg_is_cut}.get(kind)
    if is_cut is None:
        return
    with path.open("rb") as file:
        if is_cut(file, path.stat().st_size):
            raise damaged(path, "it ends too early")


def why_no_result(path: Path) -> str | None:
    """Why a file that was to be written earlier is no whole image that everybody can open; None if it is one.

    It need not be as `read_picture` would take it: of a PNG others read no more than Pillow by itself does.
    """
    try:
        check_picture(path)
        with path.open("rb") as file:
            if png_chunks.as_pillow_takes_it(file, path.stat().st_size) is not file:
                raise damaged(path, "Pillow reads no texts and profiles of this size")
    except ImageError as error:
        return f"{error} It is left as it is: remove it, or use `overwrite=True`."
    return None


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG file with exactly the given pixels, uint8 [H, W, 3] or with alpha [H, W, 4], nothing else.

    Raises:
        ValueError: the array is not of that type and shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"expected uint8 [H, W, 3 or 4], got {pixels.dtype} {list(pixels.shape)}")
    return png.encode(pixels)


def encode_like(picture: Picture, pixels: UInt8[NDArray[np.uint8], "H W 3"], container: Container = "PNG") -> Encoded:
    """A file's bytes, like the picture in size, kind and metadata, of which `read_picture` gives exactly `pixels`.

    Where they are the picture's own, so are the samples, bit for bit. Elsewhere a sample of 16 bits follows by 257 for
    each level that its colour moves, as nearly as that level allows.

    Raises:
        ValueError: the array is not of that type and shape, leaves `picture.range()`, or has colours in a grey picture.
        ImageError: the format cannot hold the picture's samples.
    """
    if pixels.dtype != np.uint8 or pixels.shape != picture.pixels.shape:
        expected = list(picture.pixels.shape)
        raise ValueError(f"expected uint8 {expected}, got {pixels.dtype} {list(pixels.shape)}")
    colours = 1 if picture.grey else 3
    alpha, (lower, _) = picture.alpha, picture.range()
    samples = picture.samples.copy()
    for rows in _bands(picture.height):
        if (pixels[rows] < lower[rows, :, None]).any():
            raise ValueError("some pixels are darker than picture.range(): they are too transparent")
        if picture.grey and (pixels[rows] != pixels[rows, :, :1]).any():
            raise ValueError("the picture is grey: expected pixels with three equal channels")
        new, old, colour = (array[rows, :, :colours] for array in (pixels, picture.pixels, samples))
        levels = new if alpha is None else _off_white(new, alpha[rows])
        written = levels if samples.dtype == np.uint8 else _moved(colour, levels, rounded=_is_rounded(samples))
        np.copyto(colour, written, where=new != old)
    return containers.encode(samples, picture.metadata, container)


def encode_resized(source: Picture, pixels: UInt8[NDArray[np.uint8], "h w 3"], container: Container = "PNG") -> Encoded:
    """A file's bytes with exactly the given pixels, and what of the source's metadata is true at any size."""
    return containers.encode(pixels, source.metadata.of_another_size(), container)


def container_of(path: Path) -> Container:
    """The format that a picture is written in, by the file's ending.

    Raises:
        ArtifactError: it is that of no format that keeps every pixel.
    """
    container = containers.container_of(path)
    if container is None:
        endings = ", ".join(containers.ENDINGS)
        raise ArtifactError(f"Cannot write {path}: a lossy format would change the pixels. Expected {endings}.")
    return container


def write_picture(files: FilesTogether, path: Path, data: bytes, pixels: UInt8[NDArray[np.uint8], "H W 3"]) -> Picture:
    """Write a picture's file, and read it back before it gets its name.

    Returns:
        What was read back, every pixel of it as given.

    Raises:
        ArtifactError: the system would not write it; or what was written is not what should be there.
    """

    def write(temporary: Path) -> Picture:
        temporary.write_bytes(data)
        try:
            back = read_picture(temporary)
        except ImageError as error:
            raise ArtifactError(f"{path} was not written: it could not be read back ({error}).") from error
        if back.pixels.shape != pixels.shape or not (back.pixels == pixels).all():
            raise ArtifactError(f"{path} was not written: read back, its pixels are others. Use .png.")
        return replace(back, path=path)

    return files.write(path, write)


_PHOTOMETRIC = 262  # TIFF's PhotometricInterpretation; 0 is WhiteIsZero
_BITS = 258  # TIFF's BitsPerSample
_PLANAR = 284  # TIFF's PlanarConfiguration; 2 is one plane after the other
_DEEP = 65535
"""White in 16 bits."""
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""Of 16-bit colour Pillow keeps the high bytes. Told the other byte order, it takes the low ones for them."""
_WHITE = {"I": _DEEP, "I;12": 4095, "F": 1}
"""The value of white in greyscale images that are deeper than 8 bits."""
_SPREAD = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the samples of shallow greyscale by, to fill 8 bits. (It does so with 1 bit itself.)"""


@dataclass(frozen=True, eq=False)
class _Decoded:
    """What Pillow makes of a file's first frame, upright: nothing here is our own arithmetic.

    Attributes:
        values: grey [H, W], or with c channels [H, W, c]; 8 bits, but for `deep` grey.
        low: the low bytes of 16-bit colour, of which `values` are the high ones.
        source_mode, raw_mode: Pillow's names for the pixels, and for the samples as they lie in the file.
        deep: whether it is grey with more than 8 bits.
        mixed_up: whether Pillow has mixed up the bytes of samples.
        white_is_zero: whether deep grey is inverted.
        reduced: whether it has 16 bits, of which Pillow decodes 8.
        info: the metadata, as Pillow found it, and has it after the turn.
        stated: the same before it.
        segments: of a JPEG.
        notices: see `Picture`.
    """

    values: NDArray[Any]
    low: NDArray[np.uint8] | None
    source_mode: str
    raw_mode: str
    format: str
    deep: bool
    mixed_up: bool
    white_is_zero: bool
    reduced: bool
    info: Mapping[Any, Any]
    stated: Mapping[Any, Any]
    segments: Sequence[tuple[str, bytes]]
    notices: tuple[str, ...]


def _decode(image: ImageFile.ImageFile, path: Path) -> _Decoded:
    source_mode, raw_mode, shallow = image.mode, _raw_mode(image), _is_shallow(image)
    stated = dict(image.info)
    upright(image)
    tags = getattr(image, "tag_v2", {})
    planar = tags.get(_PLANAR) == 2
    deep = image.mode.startswith(("I", "F"))
    name, _, depth = raw_mode.partition(";")
    low = None
    if deep:
        values = np.asarray(image)
    elif name in ("RGB", "RGBX", "RGBA") and depth in _OTHER_BYTE and not planar and not shallow:
        values, low = np.asarray(image), _decoded_as(path, f"{name};{_OTHER_BYTE[depth]}")
    elif raw_mode == "LA;16B":
        values = _decoded_as(path, "RGBA")  # four bytes a pixel, whatever they are called
    else:
        if raw_mode in _SPREAD and "transparency" in image.info:
            image.info["transparency"] *= _SPREAD[raw_mode]  # from the file's depth to that of the decoded samples
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        if image.has_transparency_data:
            mode += "A"
        values = np.array(image if image.mode == mode else image.convert(mode))
    return _Decoded(
        values=values,
        low=low,
        source_mode=source_mode,
        raw_mode=raw_mode,
        format="JPEG" if image.format == "MPO" else str(image.format),  # a phone's JPEG with more views behind it
        deep=deep,
        mixed_up=planar and raw_mode == "R" and np.max(tags.get(_BITS, 8)) > 8,
        white_is_zero=tags.get(_PHOTOMETRIC) == 0,
        reduced=shallow,
        info=dict(image.info),
        stated=stated,
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


def _samples(decoded: _Decoded, path: Path) -> png.Samples:
    """An upright image's samples as a PNG can hold them; with 8 bits where Pillow decodes no more."""
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
        return np.asarray(upright(image))


def _with_transparent_colour(samples: png.Samples, colour: tuple[int, int, int] | None) -> png.Samples:
    """16-bit RGB, or RGBA if one colour is transparent."""
    if colour is None:
        return samples
    alpha = np.where((samples == np.array(colour, np.uint16)).all(axis=2), 0, _DEEP)
    return np.dstack([samples, alpha.astype(np.uint16)])


def _deep_grey(decoded: _Decoded, path: Path) -> png.Samples:
    """Greyscale of [0, white] as 16 bits, floats as 8; with 8 bits and alpha where one value is transparent."""
    grey, mode = decoded.values, decoded.source_mode
    white = _WHITE.get(decoded.raw_mode, _WHITE[mode[0]])
    # Not finite is also not in the range: comparisons with NaN are false.
    if not bool(((grey >= 0) & (grey <= white)).all()):
        raise ImageError(
            f"Cannot read {path}: its values ({mode}) go from {grey.min():g} to {grey.max():g}, and which of "
            f"them is white is unknown; expected 0 to {white}. Scale it and save it with 8 or 16 bits."
        )
    kind, top = (np.uint8, 255) if mode == "F" else (np.uint16, _DEEP)
    scaled = grey if white == top else np.rint(grey * np.float32(top / white))
    samples = scaled.astype(kind)[..., None]
    if decoded.white_is_zero:
        samples = top - samples
    transparent = decoded.info.get("transparency")
    if transparent is None:
        return samples
    alpha = np.where(grey == transparent, 0, 255).astype(np.uint8)  # 16-bit grey with alpha would not be rounded
    return np.dstack([_levels(samples, rounded=True), alpha])


def _is_rounded(samples: png.Samples) -> bool:
    """Whether their 8-bit levels are the nearest, as of 16-bit grey alone, or the high bytes, as Pillow has them."""
    return samples.dtype == np.uint16 and samples.shape[2] == 1


def _levels(samples: NDArray[Any], *, rounded: bool = False) -> NDArray[np.uint8]:
    """The 8-bit levels of samples: those of 16 bits by their high bytes, or rounded, v 255 / 65535."""
    if samples.dtype == np.uint8:
        return samples
    if not rounded:
        return (samples >> 8).astype(np.uint8)
    # 257 is odd, so there are no ties and adding 128 rounds; the minimum keeps the sum in 16 bits and the level at 255.
    return ((np.minimum(samples, _DEEP - 128) + 128) // 257).astype(np.uint8)


def _moved(samples: NDArray[Any], levels: NDArray[np.uint8], *, rounded: bool) -> NDArray[np.uint16]:
    """The samples of the given levels that lie nearest to v + 257 times the change of level."""
    new = levels.astype(np.int32)
    target = samples + 257 * (new - _levels(samples, rounded=rounded))
    first, last = (0, _DEEP) if rounded else (256 * new, 256 * new + 255)
    return np.clip(target, first, last).astype(np.uint16)


def _seen(samples: png.Samples) -> UInt8[NDArray[np.uint8], "H W 3"]:
    """What is shown of samples: their 8-bit levels, RGB on white."""
    levels = _levels(samples, rounded=_is_rounded(samples))
    channels = levels.shape[2]
    if channels in (2, 4):
        levels = _on_white(levels[..., :-1], levels[..., -1])
    return np.repeat(levels, 3, axis=2) if channels <= 2 else levels


def _on_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """round((a c + (255 - a) 255) / 255), exactly; opaque pixels stay as they are."""
    seen = np.empty_like(colour, order="C")
    for rows in _bands(len(colour)):
        a = alpha[rows, :, None].astype(np.uint16)
        # 255 is odd, so there are no ties and adding 127 rounds; the largest sum, 65152, still fits 16 bits.
        seen[rows] = (a * colour[rows] + (255 - a) * 255 + 127) // 255
    return seen


def _off_white(seen: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A colour that `_on_white` turns into what is seen, for 255 - a <= seen: 255 - round(255 (255 - seen) / a).

    Rounding puts a (255 - c) / 255 less than half a level off 255 - seen, so that the next rounding restores it.
    """
    a = np.maximum(alpha, 1)[..., None].astype(np.uint16)  # below it only white is seen, of any colour
    return (255 - (255 * (255 - seen.astype(np.uint16)) + a // 2) // a).astype(np.uint8)


def _bands(height: int) -> Iterator[slice]:
    """All rows, some at a time, so that wider numbers are needed of a part of an image only."""
    return (slice(top, top + 256) for top in range(0, height, 256))


def _reduced(decoded: _Decoded, samples: png.Samples) -> str | None:
    """What a PNG of these samples is, and what it is not."""
    lost, mode, raw_mode = "", decoded.source_mode, decoded.raw_mode
    if samples.dtype == np.uint8 and (mode[0] in "IF" or raw_mode.endswith(tuple(_OTHER_BYTE)) or decoded.reduced):
        lost = "floating-point" if mode == "F" else "16-bit"
    if mode in ("CMYK", "LAB", "YCbCr"):
        lost = f"{lost} {mode}".lstrip()
    return f"8-bit {'grey' if samples.shape[2] <= 2 else 'RGB'}, not {lost}" if lost else None


def _metadata(decoded: _Decoded, path: Path, space: bytes) -> Metadata:
    """What the file says besides its pixels. These have been turned, and nobody should turn them again."""
    try:
        with path.open("rb") as file:
            found = read_metadata(decoded.format, file, path.stat().st_size, decoded.stated, decoded.segments)
    except OSError as error:
        raise ImageError(f"Cannot read {path}: {reason_of(error)}. Check the disk, or give another file.") from error
    return found.with_orientation(1).in_space(space)
