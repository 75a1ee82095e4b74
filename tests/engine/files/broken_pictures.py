"""Pictures that are broken in every way that a script can think of: what `read_picture` and the commands are shown.

    python -m tests.engine.files.broken_pictures FOLDER [ROUNDS]

writes them into a folder; more rounds make more of the random ones.
"""

import io
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from nullspace_cli.engine.files import png as png_writer

SIDE = 24
_NOISE = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
RGBA = Image.fromarray(_NOISE)
RGB = RGBA.convert("RGB")


@cache
def sound() -> dict[str, bytes]:
    """A picture of each kind that is read, by file name."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "x" * 20
    about = {"exif": exif, "dpi": (72, 72), "icc_profile": b"\0" * 16 + b"RGB " + b"\0" * 200}
    deep = _NOISE.astype(np.uint16) * 257
    palette = RGB.quantize(16)
    clear = palette.copy()
    clear.info["transparency"] = 3
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (RGB, about),
        "rgba.png": (RGBA, {}),
        "grey.png": (RGB.convert("L"), {}),
        "grey-alpha.png": (RGBA.convert("LA"), {}),
        "palette.png": (palette, {}),
        "palette-alpha.png": (palette, {"transparency": bytes(range(16))}),
        "one-bit.png": (RGB.convert("1"), {}),
        "deep.png": (Image.fromarray(deep[..., 0]), {}),
        "interlaced-not.png": (RGB, {"optimize": True}),
        "animated.png": (RGB, {"save_all": True, "append_images": [RGB.rotate(90)]}),
        "rgb.jpg": (RGB, about),
        "grey.jpg": (RGB.convert("L"), {}),
        "cmyk.jpg": (RGB.convert("CMYK"), {}),
        "progressive.jpg": (RGB, {"progressive": True}),
        "lossy.webp": (RGB, about),
        "lossless.webp": (RGBA, {"lossless": True}),
        "animated.webp": (RGB, {"save_all": True, "append_images": [RGB.rotate(90)]}),
        "rgb.bmp": (RGB, {}),
        "rgba.bmp": (RGBA, {}),
        "palette.bmp": (palette, {}),
        "one-bit.bmp": (RGB.convert("1"), {}),
        "rgb.tif": (RGB, {}),
        "rgba.tif": (RGBA, {}),
        "lzw.tif": (RGB, {"compression": "tiff_lzw"}),
        "deflate.tif": (RGB, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (RGB, {"compression": "jpeg"}),
        "fax.tif": (RGB.convert("1"), {"compression": "group4"}),
        "palette.tif": (palette, {}),
        "deep.tif": (Image.fromarray(deep[..., 0]), {}),
        "float.tif": (Image.fromarray(_NOISE[..., 0].astype(np.float32) / 255), {}),
        "cmyk.tif": (RGB.convert("CMYK"), {}),
        "lab.tif": (RGB.convert("LAB"), {}),
        "frames.tif": (RGB, {"save_all": True, "append_images": [RGB]}),
        "palette.gif": (palette, {}),
        "clear.gif": (clear, {}),
        "animated.gif": (palette, {"save_all": True, "append_images": [palette.rotate(90)]}),
    }
    files = {"deep-rgb.png": png_writer.encode(deep[..., :3]), "deep-rgba.png": png_writer.encode(deep)}
    for name, (image, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rpartition(".")[2].upper()), **options)
        files[name] = buffer.getvalue()
    return files


def broken(rounds: int = 1) -> Iterator[tuple[str, bytes]]:
    """File names and contents: each kind cut, with bits flipped and stretches overwritten, and what follows by hand."""
    draw = random.Random(7)  # noqa: S311 - nothing secret
    for name, data in sound().items():
        stem, _, suffix = name.partition(".")
        for i, share in enumerate((0.02, 0.1, 0.5, 0.9, 0.99)):
            yield f"{stem}-cut{i}.{suffix}", data[: int(share * len(data))]
        for i in range(5 * rounds):
            flipped = bytearray(data)
            for _ in range(1 + i % 5 * 3):
                flipped[draw.randrange(min(len(data), 40 + 150 * (i % 4)))] ^= 1 << draw.randrange(8)
            yield f"{stem}-flip{i}.{suffix}", bytes(flipped)
        for i in range(3 * rounds):
            start, length = draw.randrange(len(data)), draw.choice((1, 2, 4, 16))
            filler = draw.choice((b"\0", b"\xff", b"\x7f")) * length
            yield f"{stem}-fill{i}.{suffix}", data[:start] + filler + data[start + length :]
        yield f"{stem}-tail.{suffix}", data + data
    yield from pngs()
    yield from _tiffs(rounds)
    yield from _gifs()
    yield from _jpegs()
    yield from _bmps()
    yield from _webps()
    yield "empty.png", b""
    yield "text.jpg", b"no picture\n" * 9
    yield "nulls.tif", bytes(2000)


def chunk(kind: bytes, data: bytes = b"", *, checksum: int | None = None, length: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data) if length is None else length) + kind + data + struct.pack(">I", crc)


def _header(width: int = SIDE, height: int = SIDE, bits: int = 8, kind: int = 2, *rest: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, *(rest or (0, 0, 0))))


def _png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pngs() -> Iterator[tuple[str, bytes]]:
    rows = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(3 * SIDE)) for _ in range(SIDE))))
    indices = chunk(b"IDAT", zlib.compress((b"\0" + bytes(range(SIDE))) * SIDE))
    end = chunk(b"IEND")
    palette = chunk(b"PLTE", bytes(range(30)))
    indexed = _header(bits=8, kind=3)
    made = {
        "no-palette": (indexed, indices, end),
        "late-palette": (indexed, indices, palette, end),
        "short-palette": (indexed, chunk(b"PLTE", b"\1\2\3"), indices, end),
        "odd-palette": (indexed, chunk(b"PLTE", b"\1\2\3\4"), indices, end),
        "empty-palette": (indexed, chunk(b"PLTE"), indices, end),
        "long-palette": (indexed, chunk(b"PLTE", bytes(3000)), indices, end),
        "no-palette-but-alpha": (indexed, chunk(b"tRNS", b"\0\1"), indices, end),
        "no-palette-two-bits": (_header(bits=2, kind=3), indices, end),
        "palette-of-rgb": (_header(), palette, rows, end),
        "long-alpha": (indexed, palette, chunk(b"tRNS", bytes(300)), indices, end),
        "empty-alpha": (indexed, palette, chunk(b"tRNS"), indices, end),
        "short-alpha": (_header(), chunk(b"tRNS", b"\1"), rows, end),
        "grey-alpha-long": (_header(kind=0), chunk(b"tRNS", bytes(range(6))), indices, end),
        "grey-alpha-empty": (_header(kind=0), chunk(b"tRNS"), indices, end),
        "grey-alpha-shallow": (_header(bits=2, kind=0), chunk(b"tRNS", b"\xff\xff"), indices, end),
        "deep-alpha": (_header(bits=16, kind=2), chunk(b"tRNS", b"\1\2\3"), rows, end),
        "alpha-of-rgba": (_header(kind=6), chunk(b"tRNS", bytes(6)), rows, end),
        "no-data": (_header(), end),
        "empty-data": (_header(), chunk(b"IDAT"), end),
        "data-is-no-zlib": (_header(), chunk(b"IDAT", b"hello, no zlib"), end),
        "data-too-short": (_header(), chunk(b"IDAT", zlib.compress(bytes(50))), end),
        "data-too-long": (_header(), chunk(b"IDAT", zlib.compress(bytes(10**6))), end),
        "bad-filter": (_header(), chunk(b"IDAT", zlib.compress((b"\x09" + bytes(3 * SIDE)) * SIDE)), end),
        "bad-checksum": (_header(), rows[:-4] + b"\0\0\0\0", end),
        "bad-length": (_header(), chunk(b"IDAT", b"abc", length=2**31 - 1), end),
        "negative-length": (_header(), chunk(b"tEXt", b"abc", length=2**32 - 1), rows, end),
        "two-headers": (_header(), _header(2 * SIDE, 2 * SIDE), rows, end),
        "no-header": (rows, end),
        "short-header": (chunk(b"IHDR", b"\0\0\0\1"), rows, end),
        "no-end": (_header(), rows),
        "odd-profile": (_header(), chunk(b"iCCP", b"name\0\0" + zlib.compress(b"no profile")), rows, end),
        "broken-profile": (_header(), chunk(b"iCCP", b"name\0\0nonsense"), rows, end),
        "no-profile": (_header(), chunk(b"iCCP"), rows, end),
        "bomb-in-text": (_header(), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))), rows, end),
        "bomb-in-profile": (_header(), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**7))), rows, end),
        "odd-exif": (_header(), chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(40)), rows, end),
        "no-resolution": (_header(), chunk(b"pHYs", bytes(9)), rows, end),
        "short-resolution": (_header(), chunk(b"pHYs", b"\0"), rows, end),
        "no-gamma": (_header(), chunk(b"gAMA"), rows, end),
        "chromaticity": (_header(), chunk(b"cHRM", b"\1"), rows, end),
        "frames-none": (_header(), chunk(b"acTL", bytes(8)), rows, end),
        "frames-many": (_header(), chunk(b"acTL", struct.pack(">II", 2**31, 0)), rows, end),
        "frame-beyond": (
            _header(),
            chunk(b"acTL", struct.pack(">II", 1, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 99, 99, 99, 99, 1, 1, 0, 0)),
            rows,
            end,
        ),
        "unknown-critical": (_header(), chunk(b"ABCD", b"x"), rows, end),
        "name-of-chunk": (_header(), chunk(b"\0\1\2\3", b"x"), rows, end),
    }
    for bits, kind in ((0, 2), (3, 0), (16, 3), (1, 2), (8, 1), (8, 5), (8, 7), (32, 0), (255, 255)):
        made[f"bits{bits}-kind{kind}"] = (_header(bits=bits, kind=kind), rows, end)
    for i, rest in enumerate(((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 9), (255, 255, 255))):
        made[f"method{i}"] = (_header(SIDE, SIDE, 8, 2, *rest), rows, end)
    for width, height in ((0, 0), (0, 9), (9, 0), (2**31, 1), (2**32 - 1, 2**32 - 1), (1, 10**8), (10**6, 80)):
        made[f"size{width}x{height}"] = (_header(width, height), rows, end)
    for name, chunks in made.items():
        yield f"made-{name}.png", _png(*chunks)


def _tiffs(rounds: int) -> Iterator[tuple[str, bytes]]:
    """Every field of the directory in turn: gone, of another type, too many, far away, zero or huge."""
    draw = random.Random(8)  # noqa: S311
    for name in ("rgb.tif", "lzw.tif", "palette.tif", "float.tif", "deep.tif", "jpeg.tif"):
        data = sound()[name]
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        for i in range(count):
            at = start + 2 + 12 * i
            tag, kind, number, value = struct.unpack_from("<HHII", data, at)
            changes = [
                (tag, kind, number, 0),
                (tag, kind, number, 2**32 - 1),
                (tag, kind, 0, value),
                (tag, kind, 2**32 - 1, value),
                (tag, 2, number, value),
                (tag, 12, number, value),
                (tag, 99, number, value),
                (65000, kind, number, value),
                (tag, kind, number, draw.randrange(2**16)),
            ]
            for k, change in enumerate(changes if rounds > 1 or name == "rgb.tif" else draw.sample(changes, 3)):
                yield f"made-{name[:-4]}-tag{tag}-{k}.tif", data[:at] + struct.pack("<HHII", *change) + data[at + 12 :]
        yield f"made-{name[:-4]}-circle.tif", data[:start] + struct.pack("<H", 0) + struct.pack("<I", start)
        yield f"made-{name[:-4]}-far.tif", data[:4] + struct.pack("<I", 2**32 - 1) + data[8:]
        yield f"made-{name[:-4]}-big.tif", b"II+\0" + data[4:]


def _gifs() -> Iterator[tuple[str, bytes]]:
    data = sound()["palette.gif"]
    frame = data.index(b",", 13)
    yield "made-no-frames.gif", data[:frame] + b";"
    yield "made-header-alone.gif", data[:13]
    yield "made-no-palette.gif", b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0, 0, 0) + data[frame:]
    for size in ((0, 0), (0, 9), (65535, 65535), (1, 1)):
        yield f"made-canvas{size[0]}x{size[1]}.gif", data[:6] + struct.pack("<HH", *size) + data[10:]
    for box in ((0, 0, 0, 0), (9, 9, 99, 99), (0, 0, 65535, 65535), (65535, 65535, 1, 1), (20, 20, 9, 9)):
        at = frame + 1
        yield f"made-frame{'-'.join(map(str, box))}.gif", data[:at] + struct.pack("<HHHH", *box) + data[at + 8 :]
    for bits in (0, 1, 12, 13, 255):
        at = frame + 10
        yield f"made-code{bits}.gif", data[:at] + bytes([bits]) + data[at + 1 :]
    yield "made-extensions.gif", data[:frame] + b"!\xf9\4\1\0\0\xff\0!\xfe\xff" + bytes(255) + data[frame:]


def _jpegs() -> Iterator[tuple[str, bytes]]:
    for name in ("rgb.jpg", "cmyk.jpg"):
        data = sound()[name]
        for marker in (0xDB, 0xC4, 0xC0, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE):
            at = data.find(bytes([0xFF, marker]))
            if at < 0:
                continue
            (length,) = struct.unpack_from(">H", data, at + 2)
            stem = f"made-{name[:-4]}-{marker:x}"
            yield f"{stem}-gone.jpg", data[:at] + data[at + 2 + length :]
            yield f"{stem}-twice.jpg", data[: at + 2 + length] + data[at:]
            yield f"{stem}-length0.jpg", data[: at + 2] + b"\0\0" + data[at + 4 :]
            yield f"{stem}-length-max.jpg", data[: at + 2] + b"\xff\xff" + data[at + 4 :]
            yield f"{stem}-nonsense.jpg", data[: at + 4] + b"\xff" * (length - 2) + data[at + 2 + length :]
        at = data.index(b"\xff\xc0")
        for size in ((0, 0), (0, 9), (65535, 65535), (1, 65535)):
            yield (
                f"made-{name[:-4]}-size{size[0]}x{size[1]}.jpg",
                (data[: at + 5] + struct.pack(">HH", *size) + data[at + 9 :]),
            )
        for components in (0, 1, 2, 5, 255):
            yield f"made-{name[:-4]}-of{components}.jpg", data[: at + 9] + bytes([components]) + data[at + 10 :]
        yield f"made-{name[:-4]}-bits12.jpg", data[: at + 4] + b"\x0c" + data[at + 5 :]
        yield f"made-{name[:-4]}-mpf.jpg", data[:2] + b"\xff\xe2\0\x0cMPF\0MM\0*\0\0" + data[2:]
    yield "made-fill.jpg", b"\xff\xd8" + b"\xff" * 5000
    yield "made-start-alone.jpg", b"\xff\xd8\xff"


def _bmps() -> Iterator[tuple[str, bytes]]:
    data = sound()["palette.bmp"]
    for at, form, values in (
        (10, "<I", (0, 2**32 - 1, 20)),  # where the pixels start
        (14, "<I", (0, 12, 16, 64, 108, 124, 2**32 - 1)),  # the header's length
        (18, "<i", (0, -1, 2**31 - 1, -(2**31))),
        (22, "<i", (0, -1, -SIDE, 2**31 - 1, -(2**31))),
        (28, "<H", (0, 1, 2, 3, 16, 24, 32, 64, 65535)),  # bits of a pixel
        (30, "<I", (1, 2, 3, 4, 6, 99)),  # compression
        (46, "<I", (0, 1, 257, 2**32 - 1)),  # colours
        (38, "<I", (2**32 - 1,)),  # resolution
    ):
        for value in values:
            new = bytearray(data)
            struct.pack_into(form, new, at, value)
            yield f"made-at{at}-{value}.bmp", bytes(new)
    yield "made-header.bmp", data[:54]


def _webps() -> Iterator[tuple[str, bytes]]:
    data = sound()["animated.webp"]
    yield "made-no-frames.webp", data[: data.index(b"ANMF")]
    yield "made-riff-alone.webp", data[:12]
    for at in range(20, 30):
        yield f"made-vp8x{at}.webp", data[:at] + b"\xff" + data[at + 1 :]
    still = sound()["lossy.webp"]
    yield "made-length.webp", still[:4] + b"\xff\xff\xff\xff" + still[8:]


def write(folder: Path, rounds: int = 1) -> list[Path]:
    """Write all of them; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, data in broken(rounds):
        path = folder / name
        path.write_bytes(data)
        paths.append(path)
    return paths


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
