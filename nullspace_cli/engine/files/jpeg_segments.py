"""A JPEG's segments: what it says of its picture, told apart from how the picture is coded."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from nullspace_cli.engine.files import exif, iptc
from nullspace_cli.engine.files.metadata import Metadata

SOI, SOS, COM, APP = b"\xff\xd8", 0xDA, 0xFE, 0xE0
_MOST = 65533
"""Bytes in a segment."""
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ICC = b"ICC_PROFILE\0"
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_THUMBNAILS = (b"8BIM\x04\x09", b"8BIM\x04\x0c")
"""Photoshop's resources that show what the picture was."""


class Segment(NamedTuple):
    marker: int
    data: bytes

    @property
    def bytes(self) -> bytes:
        return struct.pack(">BBH", 0xFF, self.marker, len(self.data) + 2) + self.data

    @property
    def says(self) -> bool:
        """Whether it is about the picture, and not about its coding."""
        return self.marker == COM or APP <= self.marker < APP + 16


class Frame(NamedTuple):
    """How a picture is coded: 0xC0 to 0xC2 are Huffman's, baseline to progressive; and (down, across) of each plane."""

    marker: int
    bits: int
    sampling: tuple[tuple[int, int], ...]


def segments_of(data: bytes) -> tuple[list[Segment], bytes]:
    """The segments before the first scan, and the rest from that on.

    Raises:
        ValueError: they cannot be told apart.
    """
    found: list[Segment] = []
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        if at + 4 > len(data) or data[at] != 0xFF:
            raise ValueError("there are bytes between its segments")
        if data[at + 1] == SOS:
            return found, data[at:]
        (length,) = struct.unpack_from(">H", data, at + 2)
        found.append(Segment(data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length


def frame_of(data: bytes) -> Frame:
    """How a picture is coded.

    Raises:
        ValueError: it does not say so before its first scan.
    """
    for segment in segments_of(data)[0]:
        if segment.marker in _FRAMES:
            planes = [segment.data[at + 1] for at in range(6, 6 + 3 * segment.data[5], 3)]
            return Frame(segment.marker, segment.data[0], tuple((plane & 15, plane >> 4) for plane in planes))
    raise ValueError("it has no frame before its first scan")


def spliced(coded: bytes, says: list[Segment]) -> bytes:
    """A JPEG with the picture of one, and with such segments about it."""
    head, scans = segments_of(coded)
    coding = [segment for segment in head if not segment.says]
    return b"".join([SOI, *(segment.bytes for segment in (*says, *coding)), scans])


def kept(data: bytes, metadata: Metadata) -> tuple[list[Segment], tuple[str, ...]]:
    """What a JPEG says of its picture, byte for byte, without pictures of it; and what is left out, in words.

    Args:
        metadata: the same as it was read, without pictures.
    """
    found: list[Segment] = []
    lost = list(metadata.lost)
    for segment in segments_of(data)[0]:
        if segment.says:
            one = _without_pictures(segment, metadata)
            found += [one] if one else []
            if one is None and (what := _name(segment)):
                lost.append(what)
    return found, tuple(dict.fromkeys(lost))


def _without_pictures(segment: Segment, metadata: Metadata) -> Segment | None:
    marker, data = segment
    application = marker - APP
    if application == 0 and data.startswith(b"JFIF\0") and len(data) >= 14:
        return Segment(marker, data[:12] + b"\0\0")  # a thumbnail would follow
    if application == 1 and data.startswith(exif.PREFIX):
        return Segment(marker, exif.PREFIX + metadata.exif) if metadata.exif else None
    if application == 1 and data.startswith(_XMP):
        return Segment(marker, _XMP + metadata.xmp) if metadata.xmp else None
    if application == 13 and data.startswith(iptc.JPEG_HEADER) and any(name in data for name in _THUMBNAILS):
        return Segment(marker, iptc.JPEG_HEADER + iptc.block(dict(metadata.iptc))) if metadata.iptc else None
    known = {2: (_ICC,), 12: (b"Ducky",), 13: (iptc.JPEG_HEADER,), 14: (b"Adobe",)}
    return segment if marker == COM or data.startswith(known.get(application, ())) else None


def _name(segment: Segment) -> str | None:
    """Of what is left out: others may show the picture as it was, too."""
    if segment.data.startswith((exif.PREFIX, _XMP, b"http://ns.adobe.com/xmp/e", b"JFXX", iptc.JPEG_HEADER)):
        return None  # named where it was read, or a thumbnail
    if segment.data.startswith(b"MPF\0"):
        return "further pictures"
    name = segment.data.partition(b"\0")[0][:20].decode("ascii", "replace")
    return f"the segment APP{segment.marker - APP} {name if name.isprintable() else ''}".rstrip()


def said(metadata: Metadata) -> tuple[list[Segment], list[str]]:
    """Segments that say as much of a picture from another format, and what has no room, in words."""
    found: list[Segment] = []
    lost: list[str] = []
    for name, header, data in (("EXIF", exif.PREFIX, metadata.exif), ("XMP", _XMP, metadata.xmp)):
        if data and len(header + data) <= _MOST:
            found.append(Segment(APP + 1, header + data))
        elif data:
            lost.append(f"{name}, too large for a JPEG")
    if metadata.icc_profile:
        found += _profile(metadata.icc_profile)
    if metadata.iptc:
        found.append(Segment(APP + 13, iptc.JPEG_HEADER + iptc.block(dict(metadata.iptc))))
    return found, lost


def _profile(profile: bytes) -> Iterator[Segment]:
    size = _MOST - len(_ICC) - 2
    parts = [profile[at : at + size] for at in range(0, len(profile), size)]
    for number, part in enumerate(parts, 1):
        yield Segment(APP + 2, _ICC + bytes([number, len(parts)]) + part)
