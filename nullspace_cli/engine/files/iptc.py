"""IPTC, as Photoshop's resources: what of them is about the picture, and how PNG files carry it."""

import re
import struct

from nullspace_cli.engine.files.png_chunks import Chunk

IPTC, COPYRIGHTED, URL, DIGEST = 0x0404, 0x040A, 0x040B, 0x0425
_KEPT = (IPTC, COPYRIGHTED, URL, DIGEST)
"""Of Photoshop's resources. Others are its thumbnails of what the image was, and what it remembers of its windows."""
JPEG_HEADER = b"Photoshop 3.0\0"


def resources(block: bytes) -> dict[int, bytes]:
    """What of Photoshop's resources is kept, as far as they can be parsed."""
    found: dict[int, bytes] = {}
    at = 0
    while block[at : at + 4] in (b"8BIM", b"MeSa") and at + 12 <= len(block):
        (code,) = struct.unpack_from(">H", block, at + 4)
        name = block[at + 6] + 1
        at += 6 + name + name % 2
        if at + 4 > len(block):
            break
        (size,) = struct.unpack_from(">I", block, at)
        data = block[at + 4 : at + 4 + size]
        if code in _KEPT and len(data) == size:
            found[code] = data
        at += 4 + size + size % 2
    return found


def block(found: dict[int, bytes]) -> bytes:
    """Photoshop's resources one after the other."""
    return b"".join(
        b"8BIM" + struct.pack(">HHI", code, 0, len(data)) + data + bytes(len(data) % 2) for code, data in found.items()
    )


def raw_profile(name: str, data: bytes) -> Chunk:
    """A PNG's chunk with a profile in hexadecimal, for which PNG has no chunk: ImageMagick's and exiftool's way."""
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return Chunk(b"tEXt", f"Raw profile type {name}\0\n{name}\n{len(data):8}\n{lines}\n".encode("ascii"))


def of_raw_profile(text: bytes) -> bytes | None:
    """The profile that such a text spells; None if it is none."""
    match = re.fullmatch(rb"\s*\w+\s+(\d+)\s+([0-9a-fA-F\s]*)", text)
    if match is None:
        return None
    try:
        data = bytes.fromhex(match[2].decode("ascii"))
    except ValueError:
        return None
    return data if len(data) == int(match[1]) else None
