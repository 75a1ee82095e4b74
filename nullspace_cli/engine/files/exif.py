"""EXIF: the orientation and the thumbnail, changed where they lie, so that makers' notes keep their places."""

import io
import struct

from nullspace_cli.engine.files.tiff import (
    Directory,
    Header,
    Order,
    encode_structure,
    read_directory,
    read_header,
    shorts,
)

PREFIX = b"Exif\0\0"
"""What JPEG puts before EXIF; some programs do so elsewhere, or twice."""
ORIENTATION = 274
_THUMBNAIL, _THUMBNAIL_LENGTH = 513, 514
_STRIPS, _STRIP_LENGTHS = 273, 279


def bare(exif: bytes) -> bytes:
    """The TIFF structure alone."""
    while exif.startswith(PREFIX):
        exif = exif.removeprefix(PREFIX)
    return exif


def parsed(exif: bytes) -> tuple[Order, Directory]:
    """The byte order, and the first directory with those that it names.

    Raises:
        ValueError: it cannot be parsed.
    """
    file = io.BytesIO(exif)
    header = read_header(file)
    directory, _ = read_directory(file, header, header.first)
    return header.order, directory


def with_orientation(exif: bytes, value: int) -> bytes:
    """The same with another orientation, 1 to 8, if it has one at all.

    Raises:
        ValueError: it cannot be parsed.
    """
    header, entries, _ = _first_directory(exif)
    changed = bytearray(exif)
    for at in entries:
        if struct.unpack_from(f"{header.order}H", exif, at)[0] == ORIENTATION:
            struct.pack_into(f"{header.order}HHIHH", changed, at, ORIENTATION, 3, 1, value, 0)
    return bytes(changed)


def saying_orientation(exif: bytes | None, value: int) -> bytes:
    """The same with that orientation, 1 to 8, also where it had none; nothing else of one that cannot be parsed."""
    try:
        order, directory = parsed(exif) if exif else ("<", {})
    except ValueError:
        order, directory = "<", {}
    if exif and ORIENTATION in directory:
        return with_orientation(exif, value)
    return encode_structure({**directory, ORIENTATION: shorts(order, value)}, order)


def without_thumbnail(exif: bytes) -> bytes:
    """The same without the small picture in its second directory, which shows what the image was.

    Raises:
        ValueError: it cannot be parsed.
    """
    header, _, pointer = _first_directory(exif)
    file, order = io.BytesIO(exif), header.order
    if len(exif) < pointer + 4:
        return exif
    (second,) = struct.unpack_from(f"{order}I", exif, pointer)
    if second == 0:
        return exif
    changed = bytearray(exif)
    struct.pack_into(f"{order}I", changed, pointer, 0)
    try:
        directory, end = read_directory(file, header, second, deep=False)
    except ValueError:
        return bytes(changed)
    kept = len(exif)
    for start, length in ((_THUMBNAIL, _THUMBNAIL_LENGTH), (_STRIPS, _STRIP_LENGTHS)):
        fields = [directory.get(tag) for tag in (start, length)]
        places = [None if field is None or isinstance(field, dict) else field.number(order) for field in fields]
        if places[0] is None or places[1] is None or places[0] < second:
            continue  # a place before its own directory would be that of something else
        changed[places[0] : places[0] + places[1]] = bytes(len(exif[places[0] : places[0] + places[1]]))
        if places[0] + places[1] >= len(exif):
            kept = places[0]
    if second > pointer:
        changed[second : end + 4] = bytes(len(exif[second : end + 4]))
    return bytes(changed[:kept])


def _first_directory(exif: bytes) -> tuple[Header, range, int]:
    """The header, where each entry of the first directory starts, and where the place of the second one is written."""
    file = io.BytesIO(exif)
    header = read_header(file)
    if header.big:
        raise ValueError("EXIF is no BigTIFF")
    _, pointer = read_directory(file, header, header.first, deep=False)
    return header, range(header.first + 2, pointer, 12), pointer
