"""Every format that the installed Pillow reads, and what is said of files that hold more or less than they seem to."""

import io
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.image_opening import image_suffixes
from nullspace_cli.engine.files.image_search import PassedOver, contents
from nullspace_cli.engine.files.pictures import check_picture, encode_like, read_picture

COLOURS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
RGB = Image.fromarray(COLOURS)
FRAMES: dict[str, Any] = {"save_all": True, "append_images": [RGB.rotate(90)]}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("a.ppm", mode) for mode in ("RGB", "L", "1", "I")),
        ("a.pgm", "L"),
        ("a.pbm", "1"),
        ("a.pfm", "F"),
        *(("a.tga", mode) for mode in ("RGB", "RGBA", "L", "P")),
        *(("a.jp2", mode) for mode in ("RGB", "RGBA", "L", "I;16")),
        *(("a.avif", mode) for mode in ("RGB", "RGBA")),
        *(("a.ico", mode) for mode in ("RGB", "RGBA")),
        *(("a.pcx", mode) for mode in ("RGB", "L", "P", "1")),
        *(("a.sgi", mode) for mode in ("RGB", "L")),
        *(("a.dds", mode) for mode in ("RGB", "RGBA")),
        *(("a.qoi", mode) for mode in ("RGB", "RGBA")),
        ("a.msp", "1"),
        ("a.xbm", "1"),
        ("a.dib", "RGB"),
        ("a.spider", "F"),
        ("a.blp", "P"),
    ],
)
def test_what_pillow_reads_is_read(tmp_path: Path, name: str, mode: str) -> None:
    if name.endswith(".avif") and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    if mode in ("I", "I;16"):
        image = Image.fromarray((COLOURS[..., 0].astype(np.int32) * 257).astype("i4" if mode == "I" else "u2"))
    elif mode == "F":
        image = Image.fromarray(COLOURS[..., 0].astype(np.float32) / 255)
    else:
        image = RGB.convert(mode)
    path = tmp_path / name
    image.save(path, format="SPIDER" if path.suffix == ".spider" else None)
    path = path.rename(path.with_suffix(".spi")) if name == "a.spider" else path
    if name == "a.spider":
        with pytest.raises(ImageError, match="is not a PNG"):  # it begins like anything, and no ending is Pillow's
            read_picture(path)
        return
    assert path.suffix in image_suffixes()
    check_picture(path)
    picture = read_picture(path)
    with Image.open(path) as opened:
        if opened.mode in ("RGB", "L", "1", "P", "RGBX"):
            np.testing.assert_array_equal(picture.pixels, np.asarray(opened.convert("RGB")))
    if mode in ("I", "F", "I;16"):
        np.testing.assert_array_equal(picture.levels[..., 0], COLOURS[..., 0])
    data, _ = encode_like(picture, picture.levels)
    (tmp_path / "b.png").write_bytes(data)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").levels, picture.levels)
    assert picture.notices == ()


def test_formats_that_begin_like_anything_are_known_by_their_names(tmp_path: Path) -> None:
    """A damaged PNG is no TGA."""
    RGB.save(tmp_path / "a.tga")
    data = (tmp_path / "a.tga").read_bytes()
    for name in ("a.png", "a", "a.ppm"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match="is not a PNG"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize(
    ("largest", "reduced"), [(255, None), (65535, "8-bit RGB, not 16-bit"), (1000, "8-bit RGB, not 16-bit")]
)
def test_colour_of_16_bits_that_pillow_reduces(tmp_path: Path, largest: int, reduced: str | None) -> None:
    path = tmp_path / "a.ppm"
    samples = np.full((2, 2, 3), largest).astype(">u2" if largest > 255 else "u1")
    path.write_bytes(b"P6 2 2 %d\n" % largest + samples.tobytes())
    picture = read_picture(path)
    assert (picture.pixels == 255).all()
    assert picture.reduced == reduced


@pytest.mark.parametrize(("channels", "reduced"), [(1, "8-bit grey, not 16-bit"), (3, "8-bit RGB, not 16-bit")])
def test_sgi_of_16_bits(tmp_path: Path, channels: int, reduced: str) -> None:
    path = tmp_path / "a.sgi"
    deep = np.random.default_rng(1).integers(0, 65536, (channels, 4, 5), dtype=np.uint16)
    header = struct.pack(">HBBHHHHII", 474, 0, 2, 3 if channels == 3 else 2, 5, 4, channels, 0, 65535)
    path.write_bytes(header.ljust(512, b"\0") + deep.astype(">u2").tobytes())
    picture = read_picture(path)
    expected = np.broadcast_to(deep[:, ::-1].transpose(1, 2, 0) >> 8, (4, 5, 3))
    assert (picture.pixels == expected).all()
    assert picture.reduced == reduced
    assert picture.samples.dtype == np.uint8


@pytest.mark.parametrize(
    ("content", "package"),
    [
        (struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC image.*pip install pillow-heif"),
        (b"\xff\x0a" + bytes(100), "JPEG XL image.*pip install pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL image.*pip install pillow-jxl-plugin"),
    ],
)
@pytest.mark.parametrize("read", [read_picture, check_picture])
def test_what_needs_a_plugin_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, package: str, read: Callable[[Path], object]
) -> None:
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=package):
        read(path)


@pytest.mark.parametrize(
    "start", [b"\xff\xff\xff\xffftyp" + bytes(60), b"\xff\xff\xff\xff" + bytes(60), b"\0\0\0\0ftypheic"]
)
def test_a_box_of_any_size_is_told_at_once(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "a.png").write_bytes(start)
    with pytest.raises(ImageError):
        read_picture(tmp_path / "a.png")


# --- frames, damage


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.mpo", "a.avif"])
def test_of_several_frames_the_first_and_a_notice(tmp_path: Path, name: str) -> None:
    for frames, notices in ((FRAMES, ("it holds several frames, of which the first is read",)), ({}, ())):
        RGB.save(tmp_path / name, **frames)
        assert read_picture(tmp_path / name).notices == notices


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 5}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_whose_decoder_only_warns(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (160, 160, 3), dtype=np.uint8)).convert(mode)
    image.save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert read_picture(path).notices == ()
    path.write_bytes(data + b"a film behind it")
    assert read_picture(path).notices == ()
    draw, told = random.Random(3), 0  # noqa: S311 - nothing secret
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(4):
            broken[draw.randrange(len(data) // 2, len(data) - 9)] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        try:
            notices = read_picture(path).notices
        except ImageError:
            continue
        told += bool(notices)
        assert all("it is damaged, and part of it may be another picture" in notice for notice in notices)
    assert told > 5


# --- folders


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "b.PPM",
        "c.avif",
        "d.heic",
        "notes.txt",
        ".hidden.png",
        "~$a.png",
        "b.jpg.part",
        "Thumbs.db",
    ):
        (tmp_path / name).touch()
    for name in ("@eaDir", "__MACOSX", "inner"):
        (tmp_path / name).mkdir()
    passed_over = PassedOver()
    assert contents(tmp_path, passed_over) == (["a.png", "b.PPM", "c.avif", "d.heic"], ["inner"])
    assert passed_over.others == (1, [str(tmp_path / "notes.txt")])
    assert passed_over.aside[0] == 6
    assert str(passed_over).startswith(f"1 no image by its name ({tmp_path}/notes.txt); 6 hidden, temporary or other")
    assert str(PassedOver()) == ""
