"""What a file says of its picture besides the pixels, whatever the file's format; and how each format says it."""

import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from PIL import PngImagePlugin

from nullspace_cli.engine.files import exif as exif_block
from nullspace_cli.engine.files import iptc, png_chunks, tiff, xmp
from nullspace_cli.engine.files.png_chunks import TEXTS, Chunk

COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"sRGB", b"gAMA", b"cHRM", b"sBIT")
"""Of a PNG: what its samples mean. In the order in which they are written."""
DESCRIPTIVE = frozenset(
    {
        *(269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, 36867, *range(40091, 40096)),
        *(33550, 33922, 34264, 34735, 34736, 34737),  # where on earth its pixels lie
        *(exif_block.ORIENTATION, tiff.EXIF, tiff.GPS),
    }
)
"""Tags of a TIFF's first directory that are about the picture, and not about how the file is laid out."""
XMP, IPTC, PHOTOSHOP, ICC = 700, 33723, 34377, 34675
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_MOST = PngImagePlugin.MAX_TEXT_MEMORY


@dataclass(frozen=True)
class Metadata:
    """What is kept of a file's metadata.

    Attributes:
        icc_profile: the colour profile.
        exif: a TIFF structure, without thumbnail.
        xmp: a packet, without pictures.
        iptc: Photoshop's resources by their numbers, as far as they are about the picture; `iptc.IPTC` is IPTC itself.
        dpi: (x, y).
        texts: chunks of a PNG; the comments of other formats are such texts, too.
        colour: chunks of a PNG that say what its samples mean, and its pixels' aspect.
        lost: what the file has and is not kept, in words.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: Mapping[int, bytes] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None
    texts: tuple[Chunk, ...] = ()
    colour: tuple[Chunk, ...] = ()
    lost: tuple[str, ...] = ()

    def with_orientation(self, value: int) -> "Metadata":
        """The same of a picture that has to be turned so, 1 to 8: EXIF says it, and XMP if it does at all.

        This is the only place that changes what a file says of it.
        """
        exif = self.exif
        if value != 1:
            exif = exif_block.saying_orientation(exif, value)
        elif exif:
            exif = exif_block.with_orientation(exif, value)
        return replace(self, exif=exif, xmp=self.xmp and xmp.with_orientation(self.xmp, value))

    def in_space(self, space: bytes) -> "Metadata":
        """The same without a profile of another colour space than the samples are in, as b"RGB " or b"GRAY"."""
        profile = self.icc_profile
        if profile is None or profile[16:20] == space:
            return self
        return replace(self, icc_profile=None, lost=(*self.lost, "its colour profile, of another colour space"))

    def of_another_size(self) -> "Metadata":
        """What remains true of RGB samples of 8 bits of another size."""
        kept = tuple(chunk for chunk in self.colour if chunk.kind not in (b"sBIT", b"pHYs"))
        return replace(self.in_space(b"RGB "), dpi=None, colour=kept)


def read_metadata(
    format: str,
    file: BinaryIO,
    size: int,
    info: Mapping[Any, Any],
    segments: Sequence[tuple[str, bytes]] = (),
) -> Metadata:
    """The metadata of a file, as far as they can be parsed; no file is too broken for it.

    Args:
        format: Pillow's name of it.
        info: what Pillow found.
        segments: of a JPEG, by their names, as Pillow found them.
    """
    found = Metadata(
        icc_profile=_bytes_or_none(info.get("icc_profile")),
        exif=_bytes_or_none(info.get("exif")),
        xmp=_bytes_or_none(info.get("xmp")),
        dpi=_dpi(info),
    )
    if format == "PNG":
        found = _of_png(file, size, replace(found, icc_profile=None, exif=None, xmp=None))
    elif format == "TIFF":
        found = _of_tiff(file, found)
    else:
        found = _of_segments(segments, replace(found, texts=tuple(_comments(info.get("comment")))))
    return _without_pictures(found)


def _without_pictures(found: Metadata) -> Metadata:
    """Without thumbnails: they show what the image was. EXIF that cannot be parsed may hold one."""
    lost = found.lost
    block = exif_block.bare(found.exif or b"") or None
    try:
        block = block and exif_block.without_thumbnail(block)
    except ValueError:
        block, lost = None, (*lost, "EXIF that cannot be parsed")
    return replace(found, exif=block, xmp=found.xmp and xmp.without_pictures(found.xmp), lost=lost)


# PNG


def _of_png(file: BinaryIO, size: int, found: Metadata) -> Metadata:
    texts: list[Chunk] = []
    single: dict[bytes, Chunk] = {}
    lost: list[str] = []
    room = _MOST
    for place in png_chunks.places(file, size):
        if place.kind not in (*TEXTS, *COLOUR_CHUNKS, b"iCCP", b"eXIf", b"pHYs"):
            continue
        data = png_chunks.read(file, place) if place.length <= room else None
        if data is None:
            lost.append(f"{place.length} bytes of {place.kind.decode('ascii')}")
            continue
        room -= len(data)
        if place.kind in TEXTS:
            texts.append(Chunk(place.kind, data))
        else:
            single[place.kind] = Chunk(place.kind, data)
    found = replace(found, lost=tuple(lost), colour=tuple(single[kind] for kind in COLOUR_CHUNKS if kind in single))
    if b"pHYs" in single and found.dpi is None:  # an aspect without a unit
        found = replace(found, colour=(*found.colour, single[b"pHYs"]))
    if b"eXIf" in single:
        found = replace(found, exif=single[b"eXIf"].data)
    if b"iCCP" in single:
        profile = _inflated(single[b"iCCP"].data.partition(b"\0")[2][1:])
        found = replace(found, icc_profile=profile, lost=(*found.lost, *([] if profile else ["its colour profile"])))
    return _of_texts(texts, found)


def _of_texts(texts: Iterable[Chunk], found: Metadata) -> Metadata:
    """Texts, and what programs put into texts for want of a place: XMP, and profiles in hexadecimal."""
    kept: list[Chunk] = []
    for chunk in texts:
        keyword, text = keyword_of(chunk), None
        if keyword == _XMP_KEYWORD:
            text = text_of(chunk)
            found = replace(found, xmp=text or found.xmp, lost=(*found.lost, *([] if text else ["XMP"])))
            continue
        if keyword.startswith(b"Raw profile type "):
            text = text_of(chunk)
            data = text and iptc.of_raw_profile(text)
            if data:
                found = _of_raw_profile(keyword.removeprefix(b"Raw profile type "), data, found)
                continue
            if keyword.lower().endswith((b"exif", b"app1")):
                continue  # it could hold a thumbnail
        kept.append(chunk)
    return replace(found, texts=tuple(kept))


def _of_raw_profile(name: bytes, data: bytes, found: Metadata) -> Metadata:
    if name.lower() in (b"exif", b"app1") and data.startswith(exif_block.PREFIX):
        return replace(found, exif=found.exif or data)
    if name.lower() in (b"xmp", b"app1"):
        return replace(found, xmp=found.xmp or data.removeprefix(b"http://ns.adobe.com/xap/1.0/\0"))
    if name.lower() in (b"iptc", b"8bim"):
        block = data.removeprefix(iptc.JPEG_HEADER)
        return replace(found, iptc=iptc.resources(block) if block.startswith(b"8BIM") else {iptc.IPTC: block})
    return found


def keyword_of(chunk: Chunk) -> bytes:
    """Of a text: what it is about."""
    return chunk.data.partition(b"\0")[0]


def text_of(chunk: Chunk) -> bytes | None:
    """The text of a chunk: UTF-8 if it is an iTXt, else Latin-1; None where it cannot be unpacked, or is too large."""
    rest = chunk.data.partition(b"\0")[2]
    if chunk.kind == b"tEXt":
        return rest
    if chunk.kind == b"zTXt":
        return _inflated(rest[1:])
    parts = rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return None
    return _inflated(parts[2]) if rest[:1] != b"\0" else parts[2]


def _inflated(data: bytes) -> bytes | None:
    inflate = zlib.decompressobj()
    try:
        unpacked = inflate.decompress(data, _MOST)
    except zlib.error:
        return None
    return None if inflate.unconsumed_tail else unpacked


# Others


def _of_segments(segments: Sequence[tuple[str, bytes]], found: Metadata) -> Metadata:
    """What Pillow leaves in the segments of a JPEG."""
    photoshop = b"".join(
        data.removeprefix(iptc.JPEG_HEADER)
        for name, data in segments
        if name == "APP13" and data.startswith(iptc.JPEG_HEADER)
    )
    lost = (
        ["the further part of XMP"]
        if any(data.startswith(b"http://ns.adobe.com/xmp/e") for _, data in segments)
        else []
    )
    comments = [text for name, data in segments if name == "COM" for text in _comments(data)]
    return replace(
        found,
        iptc=iptc.resources(photoshop),
        texts=tuple(comments) if segments else found.texts,
        lost=(*found.lost, *lost),
    )


def _comments(comment: object) -> list[Chunk]:
    """A comment of another format, whose encoding nobody says, as a PNG's text."""
    data = (comment.encode() if isinstance(comment, str) else _bytes_or_none(comment) or b"").partition(b"\0")[0]
    if not data:
        return []
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return [Chunk(b"tEXt", b"Comment\0" + data)]
    return [Chunk(b"iTXt", b"Comment\0\0\0\0\0" + data) if not data.isascii() else Chunk(b"tEXt", b"Comment\0" + data)]


def _of_tiff(file: BinaryIO, found: Metadata) -> Metadata:
    try:
        header = tiff.read_header(file)
        directory, _ = tiff.read_directory(file, header, header.first)
        about = {tag: entry for tag, entry in directory.items() if tag in DESCRIPTIVE}
        block = tiff.encode_structure(about, header.order) if about else None
    except (ValueError, OSError, struct.error):
        return replace(found, lost=("its tags",))
    resources = iptc.resources(_data(directory.get(PHOTOSHOP)) or b"")
    naa = _data(directory.get(IPTC))
    return replace(
        found,
        exif=block,
        xmp=_data(directory.get(XMP)) or found.xmp,
        icc_profile=_data(directory.get(ICC)) or found.icc_profile,
        iptc={**resources, **({iptc.IPTC: naa} if naa else {})},
    )


def _data(entry: tiff.Field | tiff.Directory | None) -> bytes | None:
    return None if entry is None or isinstance(entry, dict) else entry.data


def _dpi(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    """The resolution, if the file says it in two numbers: metadata may be of any type and length."""
    try:
        x, y = (float(value) for value in info.get("dpi", (0, 0)))
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None


def _bytes_or_none(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None
