"""Image files to 8-bit RGB pixels, as loaders or as people see them, and back to PNG."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from nullspace_cli.engine.errors import ArtifactError, ImageError
from nullspace_cli.engine.files import containers, png, png_chunks
from nullspace_cli.engine.files.addresses import is_address
from nullspace_cli.engine.files.containers import Container, Encoded
from nullspace_cli.engine.files.image_opening import (
    MAX_PIXELS,
    damaged,
    jpeg_is_cut,
    opened,
)
from nullspace_cli.engine.files.metadata import Metadata
from nullspace_cli.engine.files.orientation import UPRIGHT, Orientation
from nullspace_cli.engine.files.picture_decoding import Decoded, decode, metadata_of, reduction, samples_of
from nullspace_cli.engine.files.samples import (
    CLIPPED,
    bands,
    is_rounded,
    levels_of,
    mode_of,
    moved,
    off_white,
    opaque_of,
    seen_of,
)
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

    stored: "png.Samples | Decoded"
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
        return samples_of(self.stored, self.path) if isinstance(self.stored, Decoded) else self.stored

    @property
    def metadata(self) -> Metadata:
        """What such samples can carry."""
        return self.metadata_found.in_space(b"GRAY" if self.grey else b"RGB ")

    @property
    def reduced(self) -> str | None:
        """What `encode_like` makes of a source that a PNG cannot hold, as "8-bit RGB, not CMYK"; else None."""
        return reduction(self.source_mode, self.raw_mode, self.samples, shallow=self.shallow)

    @cached_property
    def pixels(self) -> UInt8[NDArray[np.uint8], "H W 3"]:
        """RGB: what a network is given.

        Raises:
            ImageError: as it is to be shown, its values have no known white.
        """
        return self.loaded if self.reading == "timm" else self._turned(seen_of(self.samples))

    @cached_property
    def levels(self) -> UInt8[NDArray[np.uint8], "H W 3"]:
        """RGB: what `encode_like` changes. They are `pixels`, but where deep grey is clipped to these: there scaled."""
        return opaque_of(self.samples) if self.reading == "timm" and self._clipped else self.pixels

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
        return None if self.samples.shape[2] in (1, 3) else self._turned(levels_of(self.samples[..., -1]))

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
        elif is_rounded(self.samples):
            opaque = self.samples >= CLIPPED
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
            decoded = decode(image, path)
        metadata = metadata_of(decoded, path)
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
    mode, metadata = mode_of(samples), _saying(orientation)
    return Picture(samples, opaque_of(samples), orientation, reading, Path(name), mode, mode, "PNG", metadata)


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
    for rows in bands(len(samples)):
        written = new[rows, :, :colours]
        changed, colour = written != old[rows, :, :colours], samples[rows, :, :colours]
        if alpha is not None:
            written = off_white(written, alpha[rows])
        if samples.dtype != np.uint8:
            least = 0 if shown else CLIPPED
            written = moved(colour, written, least if is_rounded(samples) else None)
        np.copyto(colour, written, where=changed)
    loaded, mode = opaque_of(samples, clipped=True), mode_of(samples)
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


def _wide(levels: NDArray[np.uint8] | np.uint8, shape: tuple[int, ...]) -> UInt8[NDArray[np.uint8], "h w 3"]:
    return np.broadcast_to(levels[..., None] if isinstance(levels, np.ndarray) else levels, shape)
