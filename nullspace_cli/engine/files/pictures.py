"""Image files to 8-bit RGB pixels, as loaders or as people see them, and back to PNG."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import ImageFile

from nullspace_cli.engine.errors import ArtifactError, ImageError
from nullspace_cli.engine.files import containers, png, png_chunks
from nullspace_cli.engine.files.addresses import is_address
from nullspace_cli.engine.files.containers import Container, Encoded
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
from nullspace_cli.engine.files.orientation import UPRIGHT, Orientation, orientation_of
from nullspace_cli.engine.files.paths import reason_of
from nullspace_cli.engine.files.two_readings import Reading
from nullspace_cli.engine.files.writing import FilesTogether


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image, with what a writer at native size needs to put back. Its arrays may share memory: write to none.

    Attributes:
        stored: its samples, or what they are made of when they are asked for.
        loaded: what timm's loader gives.
        orientation: how what is stored is to be turned to be seen.
        reading: which of both readings `pixels` and all that is said of them follow.
        source_mode, raw_mode: Pillow's names for the pixels, and for the samples as they lie in the file.
        metadata_found: what the file says besides its pixels.
        shallow: whether the file has 16 bits, of which Pillow decodes 8.
        notices: what of the file was not read, or is doubtful, as "it holds several frames, ...".
    """

    stored: "png.Samples | _Decoded"
    loaded: UInt8[NDArray[np.uint8], "h w 3"]
    orientation: Orientation
    reading: Reading
    path: Path
    source_mode: str
    raw_mode: str
    format: str
    metadata_found: Metadata = field(default_factory=Metadata)
    shallow: bool = False
    notices: tuple[str, ...] = ()

    def tell(self, notice: Callable[[str], None]) -> None:
        """Pass the notices on, with the file's name."""
        for text in self.notices:
            notice(f"{self.path}: {text}")

    @cached_property
    def samples(self) -> png.Samples:
        """As they are stored, as a PNG can hold them: grey or RGB, alpha last, hidden colours and all.

        Raises:
            ImageError: its values have no known white.
        """
        return _samples(self.stored, self.path) if isinstance(self.stored, _Decoded) else self.stored

    @property
    def metadata(self) -> Metadata:
        """What such samples can carry."""
        return self.metadata_found.in_space(b"GRAY" if self.grey else b"RGB ")

    @property
    def reduced(self) -> str | None:
        """What `encode_like` makes of a source that a PNG cannot hold, as "8-bit RGB, not CMYK"; else None."""
        return _reduced(self.source_mode, self.raw_mode, self.samples, shallow=self.shallow)

    @cached_property
    def pixels(self) -> UInt8[NDArray[np.uint8], "H W 3"]:
        """RGB: what a network is given.

        Raises:
            ImageError: as it is to be shown, its values have no known white.
        """
        return self.loaded if self.reading == "timm" else self._turned(_seen(self.samples))

    @cached_property
    def levels(self) -> UInt8[NDArray[np.uint8], "H W 3"]:
        """RGB: what `encode_like` changes. They are `pixels`, but where deep grey is clipped to these: there scaled."""
        return _opaque(self.samples) if self.reading == "timm" and self._clipped else self.pixels

    @property
    def turn(self) -> Orientation:
        """How `pixels` are to be turned to be seen upright."""
        return self.orientation if self.reading == "timm" else UPRIGHT

    @property
    def width(self) -> int:
        return self._size[1]

    @property
    def height(self) -> int:
        return self._size[0]

    @property
    def grey(self) -> bool:
        """Whether `encode_like` takes only pixels whose three channels are equal."""
        return self.samples.shape[2] <= 2

    @property
    def alpha(self) -> UInt8[NDArray[np.uint8], "H W"] | None:
        """255 is opaque; None if the file has no transparency."""
        return None if self.samples.shape[2] in (1, 3) else self._turned(_levels(self.samples[..., -1]))

    @property
    def difference(self) -> str | None:
        """Why a viewer shows another picture than timm's loader gives, as a clause; None where it does not."""
        if self.orientation != UPRIGHT:
            return f"is stored another way up (EXIF orientation {self.orientation.value})"
        if self._clipped:
            return "has values of more than 8 bits, which timm's loader clips at 255"
        if self.alpha is not None and bool((self.alpha < 255).any()):
            return "is partly transparent, which timm's loader ignores"
        return None

    def read_as(self, reading: Reading) -> "Picture":
        """The same, by another reading."""
        return self if reading == self.reading else replace(self, reading=reading)

    def range(self) -> tuple[UInt8[NDArray[np.uint8], "H W 3"], UInt8[NDArray[np.uint8], "H W 3"]] | None:
        """The darkest and the lightest level that `encode_like` can write, read-only; None where any can be.

        By timm's reading, a colour that is not opaque stays, and deep grey stays on its side of what is clipped. As it
        is shown, a colour c at alpha a is seen as 255 - round(a (255 - c) / 255), by which c reaches every level from
        255 - a on.
        """
        shape, alpha = self.levels.shape, self.alpha
        if self.reading == "shown":
            return None if alpha is None else (_wide(255 - alpha, shape), _wide(np.uint8(255), shape))
        if alpha is not None:
            opaque = alpha[..., None] == 255
        elif _is_rounded(self.samples):
            opaque = self.samples >= _CLIPPED
        else:
            return None
        least = np.uint8(1 if alpha is None else 0)
        return np.where(opaque, least, self.levels), np.where(opaque, np.uint8(255), self.levels)

    @property
    def _clipped(self) -> bool:
        """Whether timm's loader clips values that have more than 8 bits."""
        return self.source_mode[0] in "IF"

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.loaded.shape[:2]
        turned = self.reading == "shown" and self.orientation.transposed
        return (width, height) if turned else (height, width)

    def _turned(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As the reading has it."""
        return stored if self.reading == "timm" else self.orientation.upright(stored)


def read_picture(path: Path, reading: Reading = "timm") -> Picture:
    """Decode the first frame of an image file.

    As it is shown, 16-bit grey is scaled by 255 / 65535 and rounded, and floats are taken as [0, 1]; timm's loader
    clips both at 255. Of 16-bit colour the high bytes count, as in Pillow, within one level of that. Colour profiles
    are kept, never applied: models are trained without them.

    Raises:
        ImageError: the file is missing, damaged, too large or of another format.
    """
    try:
        with opened(path) as image:
            decoded = _decode(image, path)
        metadata = _metadata(decoded, path)
    except MemoryError as error:
        raise ImageError(f"Cannot read {path}: it does not fit into the memory that is left. Scale it down.") from error
    return Picture(
        stored=decoded,
        loaded=decoded.loaded,
        orientation=decoded.orientation,
        reading=reading,
        path=path,
        source_mode=decoded.source_mode,
        raw_mode=decoded.raw_mode,
        format=decoded.format,
        metadata_found=metadata,
        shallow=decoded.shallow,
        notices=decoded.notices,
    )


def picture_of(
    samples: png.Samples, name: str = "the image", reading: Reading = "timm", orientation: Orientation = UPRIGHT
) -> Picture:
    """A picture that is no file: uint8 [H, W, c], grey, grey and alpha, RGB or RGBA as c is 1 to 4.

    Args:
        name: for messages.
        orientation: how they are turned to be seen.

    Raises:
        ImageError: it has no pixels, or more than are read from files.
    """
    height, width, _ = samples.shape
    if not 0 < height * width <= MAX_PIXELS:
        raise ImageError(f"Cannot read {name}: it is {width} x {height}. Expected at most {MAX_PIXELS} pixels.")
    mode, metadata = _mode_of(samples), _saying(orientation)
    return Picture(samples, _opaque(samples), orientation, reading, Path(name), mode, mode, "PNG", metadata)


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

    It need not be as `read_picture` would take it: of a PNG others read no more than Pillow by itself does. What has an
    address was whole when it appeared there.
    """
    if is_address(path):
        return None
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


def with_levels(picture: Picture, pixels: UInt8[NDArray[np.uint8], "H W 3"]) -> Picture:
    """The picture with other levels: what `read_picture` gives of the file that `encode_like` makes.

    Where they are the picture's own, so are the samples, bit for bit. Elsewhere a sample of 16 bits follows by 257 for
    each level that its colour moves, as nearly as that level allows.

    Raises:
        ValueError: the array is not of that type and shape, leaves `picture.range()`, or has colours in a grey picture.
    """
    if pixels.dtype != np.uint8 or pixels.shape != picture.levels.shape:
        expected = list(picture.levels.shape)
        raise ValueError(f"expected uint8 {expected}, got {pixels.dtype} {list(pixels.shape)}")
    if picture.grey and (pixels != pixels[..., :1]).any():
        raise ValueError("the picture is grey: expected pixels with three equal channels")
    bounds, shown = picture.range(), picture.reading == "shown"
    if bounds and ((pixels < bounds[0]) | (pixels > bounds[1])).any():
        raise ValueError("some pixels leave picture.range()")
    colours = 1 if picture.grey else 3
    alpha = picture.read_as("timm").alpha if shown else None
    new, old = (picture.orientation.stored(array) if shown else array for array in (pixels, picture.levels))
    samples = picture.samples.copy()
    for rows in _bands(len(samples)):
        written = new[rows, :, :colours]
        changed, colour = written != old[rows, :, :colours], samples[rows, :, :colours]
        if alpha is not None:
            written = _off_white(written, alpha[rows])
        if samples.dtype != np.uint8:
            least = 0 if shown else _CLIPPED
            written = _moved(colour, written, least if _is_rounded(samples) else None)
        np.copyto(colour, written, where=changed)
    loaded, mode = _opaque(samples, clipped=True), _mode_of(samples)
    return replace(picture, stored=samples, loaded=loaded, source_mode=mode, raw_mode=mode, shallow=False)


def encode_like(picture: Picture, pixels: UInt8[NDArray[np.uint8], "H W 3"], container: Container = "PNG") -> Encoded:
    """A file's bytes, like the picture in size, kind and metadata, of which `read_picture` gives exactly `pixels`.

    Raises:
        ValueError: as of `with_levels`.
        ImageError: the format cannot hold the picture's samples.
    """
    if reason := why_not(picture, container, native=True):
        raise ImageError(f"Cannot write a {container}: {reason}")
    return containers.encode(with_levels(picture, pixels).samples, picture.metadata, container)


def why_not(source: Picture, container: Container, *, native: bool) -> str | None:
    """Why a format cannot hold what is made of a picture, to follow "Cannot write x: "; None if it can."""
    if container == "TIFF" and source.turn != UPRIGHT:
        return (
            f"{source.path} is stored another way up, and loaders turn a TIFF that says so: theirs would be another "
            f"picture. Use .png or .webp."
        )
    return containers.why_not(source.samples, container) if native else None


def encode_resized(source: Picture, pixels: UInt8[NDArray[np.uint8], "h w 3"], container: Container = "PNG") -> Encoded:
    """A file's bytes with exactly the given pixels, and what of the source's metadata is true at any size."""
    metadata = source.metadata.with_orientation(source.turn.value)
    return containers.encode(pixels, metadata.of_another_size(), container)


def encode_turned(
    pixels: UInt8[NDArray[np.uint8], "h w 3"], turn: Orientation, container: Container = "PNG"
) -> Encoded:
    """A file's bytes with exactly the given pixels, and how they are to be turned to be seen; nothing else."""
    return containers.encode(pixels, _saying(turn), container)


def _saying(turn: Orientation) -> Metadata:
    return Metadata().with_orientation(turn.value)


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


def write_picture(
    files: FilesTogether, path: Path, data: bytes, pixels: UInt8[NDArray[np.uint8], "H W 3"], reading: Reading
) -> Picture:
    """Write a picture's file, and read it back before it gets its name.

    Returns:
        What was read back, every level of it as given.

    Raises:
        ArtifactError: the system would not write it; or what was written is not what should be there.
    """

    def write(temporary: Path) -> Picture:
        temporary.write_bytes(data)
        try:
            back = read_picture(temporary, reading)
            same = np.array_equal(back.levels, pixels)
        except ImageError as error:
            raise ArtifactError(f"{path} was not written: it could not be read back ({error}).") from error
        if not same:
            raise ArtifactError(f"{path} was not written: read back, its pixels are others. Use .png.")
        return replace(back, path=path)

    return files.write(path, write)


def read_again(source: Picture, pixels: UInt8[NDArray[np.uint8], "H W 3"], *, native: bool) -> Picture:
    """What `read_picture` gives, by the source's reading, of the file that would be written; without a file."""
    return with_levels(source, pixels) if native else picture_of(pixels, str(source.path), source.reading, source.turn)


_PHOTOMETRIC = 262  # TIFF's PhotometricInterpretation; 0 is WhiteIsZero
_YCBCR = 6
_BITS = 258  # TIFF's BitsPerSample
_PLANAR = 284  # TIFF's PlanarConfiguration; 2 is one plane after the other
_DEEP = 65535
"""White in 16 bits."""
_CLIPPED = 255
"""The largest value of 16-bit grey that timm's loader tells from white."""
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""Of 16-bit colour Pillow keeps the high bytes. Told the other byte order, it takes the low ones for them."""
_WHITE = {"I": _DEEP, "I;12": 4095, "F": 1}
"""The value of white in greyscale images that are deeper than 8 bits."""
_SPREAD = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the samples of shallow greyscale by, to fill 8 bits. (It does so with 1 bit itself.)"""


@dataclass(frozen=True, eq=False)
class _Decoded:
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


def _decode(image: ImageFile.ImageFile, path: Path) -> _Decoded:
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
    return _Decoded(
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


def _samples(decoded: _Decoded, path: Path) -> png.Samples:
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


def _moved(samples: NDArray[Any], levels: NDArray[np.uint8], least: int | None) -> NDArray[np.uint16]:
    """The samples of the given levels that lie nearest to v + 257 times the change of level.

    Args:
        least: of samples whose levels are rounded, the smallest that may be; None where levels are the high bytes.
    """
    new = levels.astype(np.int32)
    target = samples + 257 * (new - _levels(samples, rounded=least is not None))
    first, last = (256 * new, 256 * new + 255) if least is None else (least, _DEEP)
    return np.clip(target, first, last).astype(np.uint16)


def _seen(samples: png.Samples) -> UInt8[NDArray[np.uint8], "H W 3"]:
    """What is shown of samples: their 8-bit levels, RGB on white."""
    levels = _levels(samples, rounded=_is_rounded(samples))
    channels = levels.shape[2]
    if channels in (2, 4):
        levels = _on_white(levels[..., :-1], levels[..., -1])
    return np.repeat(levels, 3, axis=2) if channels <= 2 else levels


def _opaque(samples: png.Samples, *, clipped: bool = False) -> UInt8[NDArray[np.uint8], "h w 3"]:
    """The 8-bit levels of samples as RGB without alpha.

    Args:
        clipped: as timm's loader has 16-bit grey, and not scaled.
    """
    channels, rounded = samples.shape[2], _is_rounded(samples)
    colour = samples[..., : channels - 1 if channels in (2, 4) else channels]
    levels = np.minimum(colour, _CLIPPED).astype(np.uint8) if clipped and rounded else _levels(colour, rounded=rounded)
    return np.repeat(levels, 3, axis=2) if channels <= 2 else levels


def _mode_of(samples: png.Samples) -> str:
    """Pillow's, of a PNG with these samples."""
    return "I;16" if _is_rounded(samples) else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[2]]


def _wide(levels: NDArray[np.uint8] | np.uint8, shape: tuple[int, ...]) -> UInt8[NDArray[np.uint8], "h w 3"]:
    return np.broadcast_to(levels[..., None] if isinstance(levels, np.ndarray) else levels, shape)


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


def _reduced(source_mode: str, raw_mode: str, samples: png.Samples, *, shallow: bool) -> str | None:
    """What a PNG of these samples is, and what it is not."""
    lost = ""
    if samples.dtype == np.uint8 and (source_mode[0] in "IF" or raw_mode.endswith(tuple(_OTHER_BYTE)) or shallow):
        lost = "floating-point" if source_mode == "F" else "16-bit"
    if source_mode in ("CMYK", "LAB", "YCbCr"):
        lost = f"{lost} {source_mode}".lstrip()
    return f"8-bit {'grey' if samples.shape[2] <= 2 else 'RGB'}, not {lost}" if lost else None


def _metadata(decoded: _Decoded, path: Path) -> Metadata:
    """What the file says besides its pixels; EXIF and XMP agree on how these are to be turned."""
    try:
        with path.open("rb") as file:
            found = read_metadata(decoded.format, file, path.stat().st_size, decoded.info, decoded.segments)
    except OSError as error:
        raise ImageError(f"Cannot read {path}: {reason_of(error)}. Check the disk, or give another file.") from error
    return found.with_orientation(decoded.orientation.value)
