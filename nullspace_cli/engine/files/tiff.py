"""TIFF directories as they lie in files and in EXIF, their values untouched; and TIFF files of any depth.

Pillow reads and writes them too, but as numbers and ASCII: © becomes ?, and what it does not know is left out.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt
from numpy.typing import NDArray

Samples = UInt[NDArray[Any], "H W c"]
Order = Literal["<", ">"]

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type."""
EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965
_DIRECTORIES = (EXIF, GPS, INTEROPERABILITY)
"""Tags whose value is the place of another directory."""
MOST_BYTES = 64 * 2**20
"""Fields of a directory are read while they are no larger than this together."""
_STRIP = 2**18
"""Bytes of a strip before it is packed, about."""


class Field(NamedTuple):
    """The values of a tag, in the file's byte order."""

    kind: int
    data: bytes

    def number(self, order: Order) -> int | None:
        """The one whole number that it is; None if it is not."""
        form = {SHORT: "H", LONG: "I"}.get(self.kind)
        if form is None or len(self.data) != struct.calcsize(form):
            return None
        return int(struct.unpack(order + form, self.data)[0])


Directory = dict[int, "Field | Directory"]


class Header(NamedTuple):
    """How a TIFF structure begins: its byte order, whether it is a BigTIFF, and where its first directory lies."""

    order: Order
    big: bool
    first: int


def read_header(file: BinaryIO) -> Header:
    """Of a file, or of EXIF.

    Raises:
        ValueError: it is no TIFF structure.
    """
    file.seek(0)
    start = file.read(16)
    order: Order | None = {b"II": "<", b"MM": ">"}.get(start[:2])  # type: ignore[assignment]
    if order is None or len(start) < 8:
        raise ValueError("no byte order")
    (version,) = struct.unpack(f"{order}H", start[2:4])
    if version == 43 and len(start) == 16:
        return Header(order, True, struct.unpack(f"{order}Q", start[8:])[0])
    if version != 42:
        raise ValueError(f"version {version}")
    return Header(order, False, struct.unpack(f"{order}I", start[4:8])[0])


def read_directory(file: BinaryIO, header: Header, at: int, *, deep: bool = True) -> tuple[Directory, int]:
    """A directory with those that it names, and where the place of the next one is written.

    What lies beyond the file's end, or is of no known type, is left out.

    Raises:
        ValueError: there is no whole directory.
    """
    form, step = ("HHQ8s", 20) if header.big else ("HHI4s", 12)
    here, found, room = at, Directory(), MOST_BYTES
    file.seek(at)
    count_size = 8 if header.big else 2
    counted = file.read(count_size)
    if len(counted) < count_size:
        raise ValueError("it ends before its directory")
    (count,) = struct.unpack(header.order + ("Q" if header.big else "H"), counted)
    entries = file.read(step * min(count, 2**16))
    if len(entries) < step * count:
        raise ValueError("it ends within its directory")
    for tag, kind, number, value in struct.iter_unpack(header.order + form, entries):
        size = _SIZES.get(kind, 0) * number
        if not 0 < size <= room:
            continue
        if size > len(value):
            file.seek(_number(header, value))
            value = file.read(size)
        if len(value) < size:
            continue
        room -= size
        field = Field(kind, value[:size])
        if tag not in _DIRECTORIES:
            found[tag] = field
        elif deep:
            try:
                inner, _ = read_directory(file, header, field.number(header.order) or 0, deep=tag == EXIF)
            except ValueError:
                continue
            found[tag] = inner
    return found, here + count_size + step * count


def _number(header: Header, data: bytes) -> int:
    return int(struct.unpack(header.order + ("Q" if header.big else "I"), data)[0])


def encode_directory(directory: Directory, order: Order, at: int) -> bytes:
    """A directory, the values that it has no room for, and the directories that it names, to be put at a place.

    Raises:
        ValueError: it is larger than a TIFF can be.
    """
    entries, behind = b"", io.BytesIO()
    start = at + 2 + 12 * len(directory) + 4
    for tag, field in sorted(directory.items()):
        if isinstance(field, dict):
            field = Field(LONG, struct.pack(f"{order}I", start + behind.tell()))
            behind.write(encode_directory(directory[tag], order, start + behind.tell()))  # type: ignore[arg-type]
            behind.write(bytes(behind.tell() % 2))
        kind, data = field
        number = len(data) // _SIZES[kind]
        if len(data) > 4:
            place = struct.pack(f"{order}I", start + behind.tell())
            behind.write(data + bytes(len(data) % 2))
        else:
            place = data.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, number) + place
    if start + behind.tell() >= 2**32:
        raise ValueError("larger than 4 GiB")
    return struct.pack(f"{order}H", len(directory)) + entries + bytes(4) + behind.getvalue()


def encode_structure(directory: Directory, order: Order) -> bytes:
    """A TIFF structure of one directory and no picture, as in EXIF."""
    return _start(order, 8) + encode_directory(directory, order, 8)


def _start(order: Order, first: int) -> bytes:
    return {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, first)


def shorts(order: Order, *values: int) -> Field:
    return Field(SHORT, struct.pack(f"{order}{len(values)}H", *values))


def longs(order: Order, *values: int) -> Field:
    return Field(LONG, struct.pack(f"{order}{len(values)}I", *values))


def rational(order: Order, value: float) -> Field:
    """A positive number, to within 32 bits."""
    exact = Fraction(value).limit_denominator(10_000)
    if not 0 < exact.numerator < 2**32:
        exact = Fraction(min(max(round(value), 1), 2**32 - 1))
    return Field(RATIONAL, struct.pack(f"{order}2I", exact.numerator, exact.denominator))


def encode(samples: Samples, order: Order = "<", fields: Mapping[int, Field | Directory] | None = None) -> bytes:
    """The bytes of a TIFF file with the given samples, uint8 or uint16, grey or RGB, alpha last; packed, lossless.

    Args:
        order: of all numbers in the file.
        fields: further ones, in that byte order.

    Raises:
        ValueError: the array is not of that type and shape, or the file would be larger than a TIFF can be.
    """
    if samples.dtype not in (np.uint8, np.uint16) or samples.ndim != 3 or not 1 <= samples.shape[2] <= 4:
        raise ValueError(f"expected uint8 or uint16 [H, W, 1 to 4], got {samples.dtype} {list(samples.shape)}")
    height, width, channels = samples.shape
    row = width * channels * samples.dtype.itemsize
    rows = max(1, _STRIP // row)
    strips = [_packed(samples[top : top + rows], order) for top in range(0, height, rows)]
    offsets, end = [], 8
    for strip in strips:
        offsets.append(end)
        end += len(strip)
    directory: Directory = {
        **(fields or {}),
        256: longs(order, width),
        257: longs(order, height),
        258: shorts(order, *[8 * samples.dtype.itemsize] * channels),
        259: shorts(order, 8),  # deflate
        262: shorts(order, 1 if channels <= 2 else 2),  # grey, black is 0; or RGB
        273: longs(order, *offsets),
        277: shorts(order, channels),
        278: longs(order, rows),
        279: longs(order, *map(len, strips)),
        284: shorts(order, 1),  # the channels of a pixel lie together
        317: shorts(order, 2),  # differences along the rows
    }
    if channels in (2, 4):
        directory[338] = shorts(order, 2)  # the last channel is alpha, and the colours are not multiplied by it
    end += end % 2
    body = b"".join(strips)
    return _start(order, end) + body + bytes(end - 8 - len(body)) + encode_directory(directory, order, end)


def _packed(band: Samples, order: Order) -> bytes:
    """A strip: each sample less the one of its channel before it, modulo 2^bits, then deflated."""
    differences = band.copy()
    differences[:, 1:] -= band[:, :-1]
    return zlib.compress(differences.astype(band.dtype.newbyteorder(order)).tobytes(), 6)
