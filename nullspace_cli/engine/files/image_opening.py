"""Image files opened by Pillow, strictly: what is damaged, cut off, too large or of another format is refused."""

import errno
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from nullspace_cli.engine.errors import ImageError, VitnullError, first_line
from nullspace_cli.engine.files.paths import NO_FILE, why_unreadable
from nullspace_cli.engine.runtime.process import WITHOUT_WARNINGS, Shared

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before they are decoded: a few bytes of file can claim any size. As RGB this many
are 256 MiB, Pillow's own threshold for a decompression bomb."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


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
        with WITHOUT_WARNINGS, _STRICTLY, path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
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
        raise ImageError(
            f"Cannot read {path}: it is not a PNG, JPEG, WebP, BMP, TIFF or GIF image. Convert it to PNG first."
        ) from error
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # Pillow's own, or a place before the file's start
            raise damaged(path, first_line(error)) from error
        raise ImageError(f"Cannot read {path}: {error.strerror}. Check the disk, or give another file.") from error
    except Exception as error:
        raise damaged(path, first_line(error)) from error


def damaged(path: Path, reason: str) -> ImageError:
    return ImageError(f"Cannot read {path}: the image is damaged or truncated ({reason}). Download or export it again.")


def png_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether a PNG's file ends within the data of a chunk; a missing end mark alone is no loss."""
    kind, end = b"", 8
    while kind != b"IEND" and end + 8 <= size:
        file.seek(end)
        length, kind = struct.unpack(">I4s", file.read(8))
        end += 8 + length
        if end > size:
            return True
        end += 4  # the checksum
    return False


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
