"""The chunks of PNG files as they lie there, and those that Pillow refuses for what they would take up."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_MOST_EXPANSION = 1032
"""Deflate makes at most so many bytes of one."""


class Chunk(NamedTuple):
    """A chunk's name and data."""

    kind: bytes
    data: bytes

    def to_bytes(self) -> bytes:
        """With its length and its checksum, as it lies in a file."""
        checksum = zlib.crc32(self.data, zlib.crc32(self.kind))
        return struct.pack(">I", len(self.data)) + self.kind + self.data + struct.pack(">I", checksum)


class Place(NamedTuple):
    """Where a chunk's data lie in a file, which may end within them."""

    kind: bytes
    start: int
    length: int


def places(file: BinaryIO, size: int) -> Iterator[Place]:
    """All chunks up to the end mark, or as far as the file goes."""
    kind, end = b"", len(SIGNATURE)
    while kind != b"IEND" and end + 8 <= size:
        file.seek(end)
        length, kind = struct.unpack(">I4s", file.read(8))
        yield Place(kind, end + 8, length)
        end += 12 + length  # with the checksum


def is_cut(file: BinaryIO, size: int) -> bool:
    """Whether a PNG's file ends within the data of a chunk; a missing end mark alone is no loss."""
    return any(place.start + place.length > size for place in places(file, size))


class PillowsLimits:
    """What Pillow takes of the texts and the profile of one file, so that few bytes cannot fill the memory.

    Packed, each may become MAX_TEXT_CHUNK, 1 MiB; all texts together MAX_TEXT_MEMORY, 64 MiB. One that is not packed
    may have any size.
    """

    def __init__(self) -> None:
        self.left = PngImagePlugin.MAX_TEXT_MEMORY

    def fitted(self, chunk: Chunk) -> Chunk | None:
        """The chunk as it is, or unpacked if that is what it takes; None where Pillow reads no file with it."""
        packed = _packed(chunk)
        if packed is None:
            return self._counted(chunk, len(chunk.data))
        inflate = zlib.decompressobj()
        try:
            unpacked = inflate.decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK)
            if not inflate.unconsumed_tail:
                return self._counted(chunk, len(unpacked))
            if chunk.kind == b"iCCP":
                return None
            unpacked += inflate.decompress(inflate.unconsumed_tail, max(1, self.left + 1 - len(unpacked)))
        except zlib.error:
            return self._counted(chunk, 0)  # which Pillow takes for an empty one
        return self._counted(_unpacked(chunk, unpacked), len(unpacked))

    def _counted(self, chunk: Chunk, size: int) -> Chunk | None:
        if chunk.kind == b"iCCP":
            return chunk
        if size > self.left:
            return None
        self.left -= size
        return chunk


def _packed(chunk: Chunk) -> bytes | None:
    """The part of a text's or a profile's chunk that is packed; None if none is, or not in the known way."""
    rest = chunk.data.partition(b"\0")[2]
    if chunk.kind in (b"iCCP", b"zTXt"):
        return rest[1:] if rest[:1] == b"\0" else None
    if chunk.kind == b"iTXt" and rest[:1] not in (b"", b"\0") and rest[1:2] == b"\0":
        return (rest[2:].split(b"\0", 2) + [b""] * 2)[2]
    return None


def _unpacked(chunk: Chunk, text: bytes) -> Chunk:
    name, _, rest = chunk.data.partition(b"\0")
    if chunk.kind == b"zTXt":
        return Chunk(b"tEXt", name + b"\0" + text)
    language, translated, _ = rest[2:].split(b"\0", 2)
    return Chunk(b"iTXt", b"\0".join([name, b"\0", language, translated, text]))


def as_pillow_takes_it(file: BinaryIO, size: int) -> BinaryIO:
    """A PNG's file, in which no text and no profile keeps Pillow from reading the pixels.

    Almost always it is the file itself. Else it is a copy in memory, with large texts unpacked, and without what is
    larger than Pillow takes in any form. The file is left where it starts.
    """
    found = list(places(file, size))
    file.seek(0)
    if _surely_fits(found):
        return file
    limits, copy, same = PillowsLimits(), io.BytesIO(), True
    copy.write(SIGNATURE)
    for place in found:
        if place.kind in (*TEXTS, b"iCCP"):
            data = read(file, place)
            chunk = None if data is None else Chunk(place.kind, data)
            fitted = chunk and limits.fitted(chunk)
            same = same and fitted is not None and fitted == chunk
            copy.write(fitted.to_bytes() if fitted else b"")
        else:
            file.seek(place.start - 8)
            copy.write(file.read(place.length + 12))
    file.seek(0)
    copy.seek(0)
    return file if same else copy


def _surely_fits(found: list[Place]) -> bool:
    """Whether all texts and profiles fit, by their length alone."""
    limit = PngImagePlugin.MAX_TEXT_CHUNK // _MOST_EXPANSION
    packed = sum(place.length for place in found if place.kind in (b"iCCP", b"zTXt", b"iTXt"))
    text = sum(place.length for place in found if place.kind == b"tEXt")
    return packed < limit and text + limit * _MOST_EXPANSION < PngImagePlugin.MAX_TEXT_MEMORY


def read(file: BinaryIO, place: Place) -> bytes | None:
    """A chunk's data; None where they are more than all texts of a file may be, or the file ends too early."""
    if place.length > PngImagePlugin.MAX_TEXT_MEMORY:
        return None
    file.seek(place.start)
    data = file.read(place.length)
    return data if len(data) == place.length else None
