"""Image files opened by Pillow, strictly: what is damaged, cut off, too large or of another format is refused."""

import errno
import functools
import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from nullspace_cli.engine.errors import ImageError, VitnullError, first_line
from nullspace_cli.engine.files.paths import NO_FILE, why_unreadable
from nullspace_cli.engine.files.png_chunks import SIGNATURE, as_pillow_takes_it
from nullspace_cli.engine.runtime.process import WITHOUT_WARNINGS, Shared

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before they are decoded: a few bytes of file can claim any size. As RGB this many
are 256 MiB, Pillow's own threshold for a decompression bomb."""
_PACKED = (".tar", ".parquet", ".arrow", ".zip", ".gz", ".tgz")
"""Endings of what holds images, or may, and is none."""
_USUAL = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
_NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
"""Of Pillow's: the first runs another program on the file, of the others it knows the header alone."""


class _Plugin(NamedTuple):
    """A format that Pillow reads with another package's help."""

    name: str
    package: str
    module: str
    suffixes: tuple[str, ...]


_PLUGINS = {
    "HEIC": _Plugin("HEIC", "pillow-heif", "pillow_heif", (".heic", ".heif", ".hif")),
    "JPEG XL": _Plugin("JPEG XL", "pillow-jxl-plugin", "pillow_jxl", (".jxl",)),
}
_START = 64
"""Bytes by which formats are told apart."""
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"})


@functools.cache
def image_suffixes() -> frozenset[str]:
    """What names of images end with, in small letters: of all formats that Pillow reads, by itself or with a plugin."""
    Image.init()
    read = {suffix for suffix, name in Image.EXTENSION.items() if _is_read(name)}
    return frozenset(read.union(*(plugin.suffixes for plugin in _PLUGINS.values())))


def _is_read(name: str) -> bool:
    return name not in _NOT_READ and (name in Image.OPEN or name == "MPO")


def _formats(path: Path) -> list[str]:
    """The formats that a file may be of. Some start like anything: these only where the name says so."""
    Image.init()
    own = Image.EXTENSION.get(path.suffix.lower())
    others = (name for name in Image.ID if name not in _USUAL)
    known = [name for name in (*_USUAL, *others) if name in Image.OPEN and _is_read(name)]
    return [name for name in known if Image.OPEN[name][1] is not None or name == own]


def _plugin_of(start: bytes) -> _Plugin | None:
    """The plugin for a file that starts so; None if Pillow itself knows such files, or nobody does."""
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return _PLUGINS["JPEG XL"]
    if start[4:8] != b"ftyp":
        return None
    end = min(len(start), int.from_bytes(start[:4], "big"))
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, end, 4))}
    if brands & _HEIC_BRANDS and not brands & {b"avif", b"avis"}:
        return _PLUGINS["HEIC"]
    return None


def _use_plugin(path: Path, start: bytes) -> None:
    """Let Pillow read formats of others, as far as their plugins are installed.

    Raises:
        ImageError: the file is of one that is not.
    """
    plugin = _plugin_of(start)
    if plugin is None:
        return
    try:
        module = importlib.import_module(plugin.module)
    except ImportError:
        raise ImageError(
            f"Cannot read {path}: it is a {plugin.name} image, for which Pillow needs a plugin. "
            f"Install it (pip install {plugin.package}), or convert the image to PNG."
        ) from None
    if hasattr(module, "register_heif_opener"):
        module.register_heif_opener()


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow without its log, and without its global permission to fill what is missing of a file with grey."""
    filling, log = ImageFile.LOAD_TRUNCATED_IMAGES, logging.getLogger("PIL")
    level = log.level
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    log.setLevel(logging.CRITICAL)  # what it logs it raises as well, and we report
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = filling
        log.setLevel(level)


_STRICTLY = Shared(_strict_pillow)


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image whose header is acceptable.

    Whatever is raised then or in the block becomes an ImageError: the block is for Pillow's own decoding, which lets
    anything escape where a file's bytes are damaged. What is made of the pixels comes after it.
    """
    why = why_unreadable(path)
    if why == NO_FILE:
        raise ImageError(f"Cannot read {path}: {why}. Check the name.")
    if why:
        raise ImageError(f"Cannot read {path}: {why}. Give the name of an image file.")
    try:
        # Warnings are about metadata that is not used here, and about sizes, which are checked against MAX_PIXELS.
        with WITHOUT_WARNINGS, _STRICTLY, opened_again(path) as image:
            if min(image.size) < 1:
                raise ValueError(f"it claims to be {image.width} x {image.height}")
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height}")
            yield image
    except (MemoryError, VitnullError):
        raise
    except PermissionError as error:
        raise ImageError(f"Cannot read {path}: permission denied. Make it readable, or give another file.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"Cannot read {path}: it claims to have more than {MAX_PIXELS} pixels. Scale it down first."
        ) from error
    except UnidentifiedImageError as error:
        if path.stat().st_size == 0:
            raise ImageError(f"Cannot read {path}: the file is empty. Download or export it again.") from error
        if path.suffix in _PACKED:
            raise ImageError(
                f"Cannot read {path}: it holds many files, and is wanted as one image. Unpack it, and name images."
            ) from error
        raise ImageError(
            f"Cannot read {path}: it is not a PNG, JPEG, WebP, TIFF or other image that Pillow knows. Convert it to "
            "PNG first."
        ) from error
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # Pillow's own, or a place before the file's start
            raise damaged(path, first_line(error)) from error
        raise ImageError(f"Cannot read {path}: {error.strerror}. Check the disk, or give another file.") from error
    except Exception as error:
        raise damaged(path, first_line(error)) from error


def damaged(path: Path, reason: str) -> ImageError:
    return ImageError(f"Cannot read {path}: the image is damaged or truncated ({reason}). Download or export it again.")


@contextmanager
def opened_again(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image as `opened` opens it, without its checks: within that block alone."""
    with path.open("rb") as file:
        start = file.read(_START)
        _use_plugin(path, start)
        size = path.stat().st_size
        stream = as_pillow_takes_it(file, size) if start.startswith(SIGNATURE) else file
        with Image.open(stream, formats=_formats(path)) as image:
            yield image


def several_frames(image: ImageFile.ImageFile) -> bool:
    """Whether a file holds more pictures than the one that was decoded; not if that is what it shows, as of layers."""
    if image.format == "PSD":
        return False
    try:
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        return pages > 1 or bool(getattr(image, "is_animated", False))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow's, of frames behind the one that is read
        return True


def jpeg_damage(path: Path) -> str | None:
    """What the decoder has to say of a JPEG's data, which Pillow keeps to itself; None if nothing.

    It goes on where the data are broken, and only the end of a file is missed. Only the means of 8 x 8 pixels are
    decoded here, which takes a tenth of the time.
    """
    try:
        simplejpeg.decode_jpeg(
            path.read_bytes(), "GRAY", fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=8
        )
    except ValueError as error:
        return None if "color conversion" in str(error) else first_line(error)
    return None


def jpeg_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether a JPEG has no end mark behind its first scan, where only a mark can hold these bytes.

    Phones put a film or further pictures behind it; a thumbnail, with an end mark of its own, lies before the scan.
    """
    scan = 2
    while True:
        file.seek(scan)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return False  # bytes between the segments, which decoders skip: not worth following
        if head[1] == 0xDA:
            break
        scan += 1 if head[1] == 0xFF else 2 + int.from_bytes(head[2:], "big")
    for start in (max(scan, size - 65536), scan):  # mostly it is at the end
        file.seek(start)
        if b"\xff\xd9" in file.read():
            return False
    return True
