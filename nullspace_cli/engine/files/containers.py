"""The formats that pictures are written in, by the file's ending: what each can hold, of samples and of metadata."""

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files import exif, iptc, png, tiff
from nullspace_cli.engine.files.metadata import ICC, IPTC, XMP, Metadata, keyword_of, text_of
from nullspace_cli.engine.files.png_chunks import Chunk, PillowsLimits

Container = Literal["PNG", "WebP", "TIFF"]
ENDINGS: Mapping[str, Container] = {".png": "PNG", ".webp": "WebP", ".tif": "TIFF", ".tiff": "TIFF"}
"""All are lossless as they are written here."""
JPEG_ENDINGS = (".jpg", ".jpeg")
"""Of a format that is none of these: only watermarks at native size are made for it."""
_MOST_WEBP_SIDE = 16383
_METRE = 0.0254  # an inch in metres
_TAGS_OF_TEXTS = {
    b"Copyright": 33432,
    b"Author": 315,
    b"Artist": 315,
    b"Description": 270,
    b"Comment": 270,
    b"Software": 305,
}
"""The tags for those texts of a PNG that others have a place for."""


class Encoded(NamedTuple):
    """A file's bytes, and what of the metadata it goes without, in words."""

    data: bytes
    lost: tuple[str, ...]


def container_of(path: Path) -> Container | None:
    """The format of a file to write; None where its ending is that of no lossless one."""
    return ENDINGS.get(path.suffix.lower())


def is_jpeg(path: Path) -> bool:
    """Whether a file to write is to be a JPEG."""
    return path.suffix.lower() in JPEG_ENDINGS


def why_not(samples: png.Samples, container: Container) -> str | None:
    """Why a format cannot hold samples, to follow "Cannot write x: "; None if it can."""
    height, width, channels = samples.shape
    deep = samples.dtype == np.uint16
    if container == "WebP" and deep:
        return "WebP has 8 bits a sample, and the source has 16. Use .png or .tif."
    if container == "WebP" and max(width, height) > _MOST_WEBP_SIDE:
        return f"a WebP has no more than {_MOST_WEBP_SIDE} pixels a side, and this is {width} x {height}. Use .png."
    if container == "TIFF" and deep and channels == 2:
        return "Pillow reads no TIFF of 16-bit grey with alpha. Use .png."
    return None


def encode(samples: png.Samples, metadata: Metadata, container: Container) -> Encoded:
    """The bytes of a file with exactly the given samples.

    Raises:
        ImageError: the format cannot hold them: `why_not`.
    """
    if reason := why_not(samples, container):
        raise ImageError(f"Cannot write a {container}: {reason}")
    write: Callable[[png.Samples, Metadata], Encoded] = {"PNG": _png, "WebP": _webp, "TIFF": _tiff}[container]
    encoded = write(samples, metadata)
    return Encoded(encoded.data, (*metadata.lost, *encoded.lost))


def _png(samples: png.Samples, metadata: Metadata) -> Encoded:
    """Pillow would write no colour of 16 bits, and of metadata neither IPTC nor cICP and sBIT as they are."""
    limits, lost, chunks = PillowsLimits(), [], []
    profile = None
    if metadata.icc_profile:
        profile = limits.fitted(png.profile(metadata.icc_profile))
        if profile is None:
            lost.append(f"its colour profile of {len(metadata.icc_profile)} bytes, too large for a PNG")
    for chunk in metadata.colour:
        if chunk.kind == b"sBIT" and not _significant(chunk.data, samples):
            lost.append("sBIT")
        elif chunk.kind != b"sRGB" or profile is None:  # either says it all, and a reader may be given one alone
            chunks.append(chunk)
    if profile:
        chunks.insert(0, profile)
    if metadata.dpi:
        per_metre = [round(value / _METRE) for value in metadata.dpi]
        if all(1 <= value < 2**31 for value in per_metre):
            chunks.append(Chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if metadata.exif:
        chunks.append(Chunk(b"eXIf", metadata.exif))
    texts = list(metadata.texts)
    if metadata.xmp:
        texts.insert(0, Chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    if metadata.iptc:
        texts.insert(0, iptc.raw_profile("iptc", iptc.block(dict(metadata.iptc))))
    for text in texts:
        if fitted := limits.fitted(text):
            chunks.append(fitted)
        else:
            lost.append(f"the text {_name(text)}, too large for a PNG")
    return Encoded(png.encode(samples, chunks), tuple(lost))


def _significant(data: bytes, samples: png.Samples) -> bool:
    """Whether these are numbers of significant bits of such samples."""
    return len(data) == samples.shape[2] and all(1 <= bits <= 8 * samples.dtype.itemsize for bits in data)


def _name(text: Chunk) -> str:
    return repr(keyword_of(text).decode("latin-1"))


def _webp(samples: png.Samples, metadata: Metadata) -> Encoded:
    """By Pillow: lossless, hidden colours and all. There is no grey."""
    grey = samples.shape[2] <= 2
    colours = np.repeat(samples[..., :1], 3, axis=2) if grey else samples[..., :3]
    pixels = colours if samples.shape[2] in (1, 3) else np.dstack([colours, samples[..., -1]])
    block, lost = _exif_with_texts(metadata)
    rgb = metadata.in_space(b"RGB ")
    lost += rgb.lost[len(metadata.lost) :]
    if metadata.iptc:
        lost.append("IPTC, for which WebP has no place")
    options: dict[str, Any] = {
        "icc_profile": rgb.icc_profile,
        "exif": block,
        "xmp": metadata.xmp,
    }
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer,
        "WEBP",
        lossless=True,
        exact=True,
        **{name: value for name, value in options.items() if value},
    )
    return Encoded(buffer.getvalue(), (*lost, *_colour_of_pngs(metadata)))


def _tiff(samples: png.Samples, metadata: Metadata) -> Encoded:
    """Pillow would write no colour of 16 bits, and © as ?."""
    block, lost = _exif_with_texts(metadata)
    order, about = exif.parsed(block) if block else ("<", {})
    fields = dict(about)
    for tag, data in ((XMP, metadata.xmp), (ICC, metadata.icc_profile), (IPTC, metadata.iptc.get(iptc.IPTC))):
        if data:
            fields[tag] = tiff.Field(tiff.BYTE if tag == XMP else tiff.UNDEFINED, data)
    if metadata.dpi:
        for tag, value in zip((282, 283), metadata.dpi, strict=True):
            fields[tag] = tiff.rational(order, value)
        fields[296] = tiff.shorts(order, 2)  # inches
    return Encoded(tiff.encode(samples, order, fields), (*lost, *_colour_of_pngs(metadata)))


def _exif_with_texts(metadata: Metadata) -> tuple[bytes | None, list[str]]:
    """EXIF with those texts that it has a tag for and does not yet say; and the texts that remain."""
    order, directory = exif.parsed(metadata.exif) if metadata.exif else ("<", {})
    known, lost = dict(directory), []
    for chunk in metadata.texts:
        tag, text = _TAGS_OF_TEXTS.get(keyword_of(chunk)), text_of(chunk)
        if tag is None or text is None or tag in known or len(text) > 65000:
            lost.append(f"the text {_name(chunk)}")
            continue
        if chunk.kind != b"iTXt":
            text = text.decode("latin-1").encode()
        known[tag] = tiff.Field(tiff.ASCII, text + b"\0")
    if known == directory:
        return metadata.exif, lost
    return tiff.encode_structure(known, order), lost


def with_texts(metadata: Metadata) -> tuple[Metadata, list[str]]:
    """The same with what EXIF says of the texts in EXIF; and what has no place in a format that has no texts."""
    block, lost = _exif_with_texts(metadata)
    return replace(metadata, exif=block), [*lost, *_colour_of_pngs(metadata)]


def _colour_of_pngs(metadata: Metadata) -> list[str]:
    """What only a PNG says of its samples; that they are sRGB is what everybody takes them for."""
    kinds = [chunk.kind.decode("ascii") for chunk in metadata.colour if chunk.kind != b"sRGB"]
    return [f"{', '.join(kinds)} of a PNG"] if kinds else []
