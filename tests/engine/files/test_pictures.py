"""Image files of every kind that is read, and of every kind that is refused."""

import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files import png as png_writer
from nullspace_cli.engine.files.containers import encode
from nullspace_cli.engine.files.image_opening import MAX_PIXELS
from nullspace_cli.engine.files.metadata import Metadata
from nullspace_cli.engine.files.pictures import Picture, check_picture, encode_like, encode_png, read_picture
from nullspace_cli.engine.files.png_chunks import Chunk

Array = NDArray[Any]
read_shown = partial(read_picture, reading="shown")
Save = Callable[..., Path]

PILLOW = int(PIL.__version__.partition(".")[0])
SINCE_13 = pytest.mark.skipif(PILLOW < 13, reason="Pillow reads TIFFs of YCbCr since 13.0")
RNG = np.random.default_rng(0)
COLOURS: Array = RNG.integers(0, 256, (11, 14, 3), dtype=np.uint8)
RGB = Image.fromarray(COLOURS)
DEEP = np.array([0, 1, 128, 129, 255, 256, 257, 385, 386, 32767, 32768, 65406, 65407, 65534, 65535], np.uint16)


def png(bits: int, colour_type: int, rows: bytes, size: tuple[int, int], trns: bytes = b"") -> bytes:
    """A PNG of a depth or with a transparent colour that Pillow does not write; `rows` with their filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0))
    transparent = chunk(b"tRNS", trns) if trns else b""
    return b"\x89PNG\r\n\x1a\n" + header + transparent + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def on_white(rgba: Array) -> Array:
    """The definition of compositing, in float64."""
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float)
    return np.asarray(np.round((alpha * colour + (255 - alpha) * 255) / 255))


# --- what is read


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("RGB", "a.jpg"),
        ("RGB", "a.webp"),
        ("RGB", "a.bmp"),
        ("RGB", "a.tif"),
        ("RGB", "a.gif"),
        ("L", "a.png"),
        ("L", "a.jpg"),
        ("L", "a.tif"),
        ("L", "a.gif"),
        ("1", "a.png"),
        ("1", "a.bmp"),
        ("1", "a.tif"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("P", "a.bmp"),
        ("P", "a.tif"),
        ("CMYK", "a.jpg"),
        ("CMYK", "a.tif"),
        ("YCbCr", "a.jpg"),
        pytest.param("YCbCr", "a.tif", marks=SINCE_13),
        ("LAB", "a.tif"),
    ],
)
def test_opaque_images_are_what_pil_converts(save: Save, mode: str, name: str) -> None:
    path = save(RGB.convert(mode), name)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
        source_mode = image.mode
    picture = read_shown(path)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.pixels.dtype == np.uint8
    assert (picture.width, picture.height) == (14, 11)
    assert (picture.alpha, picture.source_mode, picture.path) == (None, source_mode, path)


@pytest.mark.parametrize(("mode", "tolerance"), [("CMYK", 0), pytest.param("YCbCr", 2, marks=SINCE_13), ("LAB", 12)])
def test_other_colour_spaces_come_back_to_the_colours(save: Save, mode: str, tolerance: int) -> None:
    colours = Image.new("RGB", (4, 4), (200, 90, 40))
    pixels = read_shown(save(colours.convert(mode), "a.tif")).pixels
    assert np.abs(pixels.astype(int) - [200, 90, 40]).max() <= tolerance


@pytest.mark.skipif(PILLOW >= 13, reason="this Pillow reads TIFFs of YCbCr")
def test_what_an_older_pillow_cannot_read_is_refused_as_such(save: Save) -> None:
    with pytest.raises(ImageError, match=r"TIFF of YCbCr.*to PNG, or install Pillow 13"):
        read_picture(save(RGB.convert("YCbCr"), "a.tif"))


def test_cmyk_jpeg_is_not_inverted(save: Save) -> None:
    pixels = read_shown(save(Image.new("RGB", (16, 16), (250, 240, 20)).convert("CMYK"), "a.jpg", quality=95)).pixels
    assert np.abs(pixels.astype(int) - [250, 240, 20]).max() <= 4


@pytest.mark.parametrize(
    ("mode", "name"),
    [("I;16", "a.png"), ("I;16B", "a.png"), ("I;16", "a.tif"), ("I;16B", "a.tif"), ("I", "a.tif")],
)
def test_deep_grey_is_scaled_and_rounded_not_clipped(save: Save, mode: str, name: str) -> None:
    deep = Image.fromarray(DEEP[None].astype(np.int32) if mode == "I" else DEEP[None].astype("<u2"))
    if mode == "I;16B":
        deep = Image.frombytes("I;16B", deep.size, DEEP.astype(">u2").tobytes())
    pixels = read_shown(save(deep, name)).pixels
    assert pixels[0, :, 0].tolist() == [round(int(value) / 257) for value in DEEP]
    assert (pixels == pixels[..., :1]).all()


def test_white_is_zero_and_12_bits_in_tiff(save: Save) -> None:
    deep = Image.fromarray(DEEP[None])
    inverted = read_shown(save(deep, "negative.tif", tiffinfo={262: 0}))
    assert inverted.pixels[0, :, 0].tolist() == [255 - round(int(value) / 257) for value in DEEP]
    twelve = bytearray(save(Image.fromarray(np.zeros((1, 2), np.uint16)), "twelve.tif").read_bytes())
    entry = twelve.index(struct.pack("<HHI", 258, 3, 1))  # BitsPerSample
    twelve[entry + 8 : entry + 10] = struct.pack("<H", 12)
    strip = twelve.index(struct.pack("<HHI", 273, 4, 1))  # StripOffsets
    (offset,) = struct.unpack("<I", twelve[strip + 8 : strip + 12])
    twelve[offset : offset + 3] = bytes([0xFF, 0xF8, 0x00])  # 4095 and 2048
    assert read_shown(save(bytes(twelve), "twelve.tif")).pixels[0, :, 0].tolist() == [255, round(2048 / 4095 * 255)]


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_deep_colour_png_is_within_a_level_and_exact_where_8_bits_were_widened(
    save: Save, colour_type: int, channels: int
) -> None:
    def red(values: Array) -> Array:
        samples = np.repeat(values[:, None].astype(">u2"), channels, axis=1)
        if channels in (2, 4):
            samples[:, -1] = 65535
        path = save(png(16, colour_type, b"\0" + samples.tobytes(), (len(values), 1)))
        return read_shown(path).pixels[0, :, 0].astype(int)

    assert np.abs(red(DEEP) - np.round(DEEP / 257)).max() <= 1
    levels = np.arange(256)
    assert (red(levels * 257) == levels).all()
    assert (red(levels * 256) == levels).all()


def test_float_images_in_the_unit_interval(save: Save) -> None:
    values = np.array([[0, 0.1, 0.25, 0.7, 1]], np.float32)
    assert read_shown(save(Image.fromarray(values), "a.tif")).pixels[0, :, 1].tolist() == [0, 26, 64, 178, 255]


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan, np.inf])
def test_other_floats_are_refused(save: Save, value: float) -> None:
    path = save(Image.fromarray(np.array([[0.5, value]], np.float32)), "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: its values .* expected 0 to 1\. Scale it"):
        _ = read_shown(path).pixels


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bits_are_refused(save: Save, value: int) -> None:
    path = save(Image.fromarray(np.array([[5, value]], np.int32)), "a.tif")
    with pytest.raises(ImageError, match="expected 0 to 65535"):
        _ = read_shown(path).pixels


# --- transparency


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_alpha_is_composited_on_white_exactly(save: Save, name: str) -> None:
    rgba = RNG.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    path = save(Image.fromarray(rgba), name, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    picture = read_shown(path)
    np.testing.assert_array_equal(picture.pixels, on_white(rgba))
    np.testing.assert_array_equal(picture.alpha, rgba[..., 3])


def test_every_colour_with_every_alpha(save: Save) -> None:
    alpha, colour = np.mgrid[:256, :256].astype(np.uint8)
    rgba = np.stack([colour, colour, colour, alpha], axis=2)
    np.testing.assert_array_equal(read_shown(save(Image.fromarray(rgba))).pixels, on_white(rgba))


def test_opaque_alpha_changes_nothing(save: Save) -> None:
    picture = read_shown(save(RGB.convert("RGBA")))
    np.testing.assert_array_equal(picture.pixels, COLOURS)
    assert picture.alpha is not None
    assert (picture.alpha == 255).all()


@pytest.mark.parametrize(("mode", "name"), [("LA", "a.png"), ("LA", "a.tif"), ("PA", "a.tif")])
def test_grey_and_palette_with_alpha(save: Save, mode: str, name: str) -> None:
    image = RGB.convert("P").convert(mode) if mode == "PA" else RGB.convert(mode)
    image.putalpha(Image.fromarray(COLOURS[..., 0]))
    picture = read_shown(save(image, name))
    assert picture.source_mode == mode
    np.testing.assert_array_equal(picture.pixels, on_white(np.asarray(image.convert("RGBA"))))
    np.testing.assert_array_equal(picture.alpha, COLOURS[..., 0])


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_palette_with_one_transparent_colour(save: Save, name: str) -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture = read_shown(save(image, name, transparency=1))
    assert picture.pixels[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90], [255, 255, 255]]
    assert picture.alpha is not None
    assert picture.alpha[0].tolist() == [255, 0, 255, 0]


def test_palette_with_an_alpha_for_each_colour(save: Save) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture = read_shown(save(image, transparency=bytes([0, 51, 255])))
    assert picture.pixels[0].tolist() == [[255, 255, 255], [212, 214, 216], [70, 80, 90]]


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "expected"),
    [
        (1, [0b01000000], 1, [0, 255]),
        (2, [0b01100000], 1, [255, 170]),
        (4, [0x1A], 1, [255, 170]),
        (8, [1, 170], 1, [255, 170]),
        (16, [0x01, 0x00, 0x01, 0x01], 0x0100, [255, 1]),
    ],
)
def test_transparent_grey_at_every_depth(
    save: Save, bits: int, row: list[int], transparent: int, expected: list[int]
) -> None:
    picture = read_shown(save(png(bits, 0, bytes([0, *row]), (2, 1), struct.pack(">H", transparent))))
    assert picture.alpha is not None
    assert sorted(picture.alpha[0].tolist()) == [0, 255]
    assert picture.pixels[0, :, 0].tolist() == expected


def test_transparent_rgb(save: Save) -> None:
    row = bytes([0, 1, 2, 3, 4, 5, 6])
    picture = read_shown(save(png(8, 2, row, (2, 1), struct.pack(">HHH", 1, 2, 3))))
    assert picture.pixels[0].tolist() == [[255, 255, 255], [4, 5, 6]]
    deep = struct.pack(">6H", 256, 512, 768, 256, 512, 769)  # its neighbour in the last bit is not transparent
    picture = read_shown(save(png(16, 2, b"\0" + deep, (2, 1), deep[:6])))
    assert picture.pixels[0].tolist() == [[255, 255, 255], [1, 2, 3]]


# --- frames, orientation, metadata


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_first_frame_of_several(save: Save, name: str) -> None:
    first, second = Image.new("RGB", (9, 7), (255, 0, 0)), Image.new("RGB", (9, 7), (0, 0, 255))
    options = {"lossless": True} if name == "a.webp" else {}
    picture = read_shown(save(first, name, save_all=True, append_images=[second], **options))
    assert picture.pixels.shape == (7, 9, 3)
    assert (picture.pixels == [255, 0, 0]).all()


def test_jpeg_with_more_pictures_behind_it(save: Save) -> None:
    picture = read_shown(save(RGB, "a.mpo", save_all=True, append_images=[RGB]))
    assert (picture.format, picture.width) == ("JPEG", 14)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_shown_is_upright_and_what_is_stored_is_kept(save: Save, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Model] = "camera"
    path = save(RGB, name, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = read_shown(path)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert (picture.width, picture.height) == picture.pixels.shape[1::-1] == expected.shape[1::-1]
    with Image.open(path) as image:
        stored = np.asarray(image.convert("RGB"))
    loaded = read_picture(path)
    np.testing.assert_array_equal(loaded.pixels, stored)
    assert (loaded.width, loaded.height) == stored.shape[1::-1]
    np.testing.assert_array_equal(loaded.turn.upright(loaded.pixels), expected)
    np.testing.assert_array_equal(loaded.turn.stored(expected), stored)
    assert (loaded.difference is None) == (orientation == 1 or name == "a.tif")  # which Pillow itself turns
    assert picture.metadata.exif is not None
    kept = Image.Exif()
    kept.load(picture.metadata.exif)
    says = 1 if name == "a.tif" else orientation
    assert dict(kept) == {ExifTags.Base.Model: "camera", ExifTags.Base.Orientation: says}


@pytest.mark.parametrize(
    ("image", "alpha"),
    [(Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 257), False), (RGB.convert("RGBA"), True)],
)
def test_orientation_of_deep_and_transparent_images(save: Save, image: Image.Image, alpha: bool) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = read_shown(save(image, exif=exif))
    plain = read_shown(save(image))
    np.testing.assert_array_equal(picture.pixels, np.rot90(plain.pixels, -1))
    assert (picture.alpha is not None) == alpha
    assert picture.alpha is None or picture.alpha.shape == (picture.height, picture.width)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("exif", [b"garbage", b"MM", b"MM\0*\0", b"MM\0*\0\0\0\x08\0", b"MM\0*\0\0\0\x08\0\1\1\x12"])
def test_unreadable_exif_does_not_cost_the_image(save: Save, name: str, exif: bytes) -> None:
    assert read_shown(save(RGB, name, exif=b"Exif\0\0" + exif)).width == 14


def test_metadata_for_a_writer(save: Save) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_shown(save(RGB, "a.png", icc_profile=srgb, dpi=(300, 150)))
    assert picture.metadata.icc_profile == srgb
    assert picture.metadata.dpi == pytest.approx((300, 150), rel=1e-3)
    assert (picture.format, picture.metadata.exif) == ("PNG", None)
    plain = read_shown(save(RGB, "b.png"))
    assert (plain.metadata.icc_profile, plain.metadata.exif, plain.metadata.dpi) == (None, None, None)


def test_a_profile_of_another_colour_space_is_not_kept(save: Save) -> None:
    assert read_shown(save(RGB.convert("LAB"), "a.tif")).metadata.icc_profile is None


# --- what is refused


def header_of(size: tuple[int, int]) -> bytes:
    return png(8, 2, b"\0", size)


@pytest.mark.parametrize("read", [read_picture, check_picture])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"Hello, I am a text.\n" * 20, "it is not a PNG, JPEG"),
        (b"\x89PNG\r\n\x1a\n", "it is not a PNG, JPEG"),
        (header_of((9460, 9460)), f"more than {MAX_PIXELS} pixels"),
        (header_of((20000, 20000)), f"more than {MAX_PIXELS} pixels"),
        (header_of((2**31 - 1, 2**31 - 1)), f"more than {MAX_PIXELS} pixels"),
    ],
)
def test_bad_headers_are_refused_by_name(
    save: Save, content: bytes, message: str, read: Callable[[Path], object]
) -> None:
    path = save(content)
    with pytest.raises(ImageError, match=rf"image\.png: .*{message}"):
        read(path)


def test_the_largest_image_passes_the_check(save: Save) -> None:
    assert 9459 * 9459 <= MAX_PIXELS < 9460 * 9460
    check_picture(save(header_of((9459, 9459))))


@pytest.mark.parametrize("name", ["a.pdf", "a.eps", "a.gbr", "a.h5"])
@pytest.mark.parametrize("read", [read_picture, check_picture])
def test_other_formats_are_refused(save: Save, name: str, read: Callable[[Path], object]) -> None:
    """Of EPS Pillow would run another program on the file."""
    with pytest.raises(ImageError, match=r"it is not a PNG, JPEG, WebP, TIFF or other image that Pillow knows\. Conv"):
        read(save(b"\x89HDF\r\n\x1a\n" + bytes(99) if name in ("a.gbr", "a.h5") else RGB.resize((32, 32)), name))


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.zip"])
def test_data_sets_are_no_images(save: Save, name: str) -> None:
    with pytest.raises(ImageError, match=r"it holds many files, and is wanted as one image\. Unpack it"):
        read_picture(save(bytes(99), name))


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.gif"])
def test_truncated_files_are_refused(save: Save, name: str, lenient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    whole = save(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), name).read_bytes()
    with pytest.raises(ImageError, match=rf"{name}: .*"):
        read_shown(save(whole[: len(whole) // 2], name))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.gif", "a.bmp"])
def test_a_flipped_byte_or_an_early_end_is_refused_or_harmless(save: Save, name: str) -> None:
    whole = save(RGB.resize((6, 7)), name).read_bytes()
    refused = 0
    for i in range(0, len(whole), 2):
        for damaged in (whole[:i], whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :]):
            try:
                assert read_shown(save(damaged, name)).pixels.size
            except ImageError:
                refused += 1
    assert refused > len(whole) // 6


def test_damaged_bytes_are_refused(save: Save) -> None:
    whole = bytearray(save(RGB).read_bytes())
    whole[whole.index(b"IDAT") + 10] ^= 0xFF
    with pytest.raises(ImageError, match=r"damaged or truncated \(.+\)\. Download"):
        read_shown(save(bytes(whole)))


@pytest.mark.parametrize("read", [read_picture, check_picture])
def test_missing_files_and_folders(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png: there is no such file"):
        read(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="it is a folder"):
        read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="it is a pipe, not a regular file"):
        read_shown(tmp_path / "pipe.png")


def test_permission(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(RGB)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)  # the superuser, as in containers, may read anything
    with pytest.raises(ImageError, match=r"image\.png: permission denied"):
        read_shown(path)


def test_check_decodes_nothing(save: Save) -> None:
    whole = save(RGB).read_bytes()
    data = whole.index(b"IDAT") + 4
    check_picture(save(whole[:data] + b"?" * (len(whole) - data - 16) + whole[-16:]))


NOISE = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True, "exif": b"Exif\0\0II*\0" + b"\xff\xda\xff\xd9" * 9, "dpi": (72, 72)}),
        ("a.jpg", {"restart_marker_blocks": 3}),
        ("a.mpo", {"save_all": True, "append_images": [NOISE]}),
    ],
)
def test_check_refuses_what_was_cut_and_nothing_that_can_be_read(
    save: Save, name: str, options: dict[str, Any]
) -> None:
    whole = save(NOISE, name, **options).read_bytes()
    first = len(whole) // 2 - 100 if name == "a.mpo" else len(whole)  # of two pictures
    for end in range(first // 2, len(whole), 61):
        path = save(whole[:end], name)
        if end < first:
            with pytest.raises(ImageError, match="damaged or truncated"):
                check_picture(path)
        try:
            read_shown(path)
        except ImageError:
            continue
        check_picture(path)
    for behind in (b"", b"\0" * 9, b"\xff\xda" * 50_000, b"IDAT" * 50_000):  # phones put films there
        check_picture(save(whole + behind, name))


@pytest.mark.parametrize(("between", "noticed"), [(b"\xff" * 5, True), (b"\0\0", False)])
def test_check_takes_jpegs_with_bytes_between_segments(save: Save, between: bytes, noticed: bool) -> None:
    whole = save(NOISE, "a.jpg").read_bytes()
    table = whole.index(b"\xff\xdb")
    whole = whole[:table] + between + whole[table:]
    assert read_shown(save(whole, "a.jpg")).width == 64
    for behind in (b"", b"\xff\xda" * 50_000, b"?" + b"\xff\xda" * 50_000):
        check_picture(save(whole + behind, "a.jpg"))
    if noticed:
        with pytest.raises(ImageError, match="it ends too early"):
            check_picture(save(whole[:-100], "a.jpg"))


@pytest.mark.parametrize("missing", [1, 12, 16])
def test_check_minds_no_missing_end_mark(save: Save, missing: int) -> None:
    path = save(save(RGB).read_bytes()[:-missing])
    np.testing.assert_array_equal(read_shown(path).pixels, COLOURS)
    check_picture(path)


# --- out again


def test_png_is_lossless_and_deterministic() -> None:
    data = encode_png(COLOURS)
    assert data == encode_png(COLOURS.copy())
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
        np.testing.assert_array_equal(np.asarray(image), COLOURS)


@pytest.mark.parametrize("wrong", [COLOURS.astype(float), COLOURS[..., 0], np.zeros((2, 2, 2), np.uint8)])
def test_png_takes_nothing_else(wrong: Array) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3 or 4\]"):
        encode_png(wrong)


# --- out again, like the source


def changed(picture: Picture, seed: int = 0) -> Array:
    """Pixels that a picture can take: every kind of change, and some of its own."""
    rng = np.random.default_rng(seed)
    channels = 1 if picture.grey else 3
    bounds = picture.range() or (np.zeros_like(picture.levels), np.full_like(picture.levels, 255))
    lower, upper = (bound[..., :channels].astype(int) for bound in bounds)
    anything = rng.integers(lower, upper, (picture.height, picture.width, channels), endpoint=True)
    nearby = np.clip(picture.levels[..., :channels] + rng.integers(-3, 4, anything.shape), lower, upper)
    own = picture.levels[..., :channels]
    pixels = np.choose(rng.integers(0, 3, anything.shape), [anything, nearby, own])
    return np.broadcast_to(pixels, picture.levels.shape).astype(np.uint8)


def samples_of(bits: int, channels: int) -> Array:
    shape = (70, 90, channels)  # more rows than are written at a time
    deep = RNG.integers(0, 2**bits, shape)
    if channels in (2, 4):
        deep[:30, :, -1] = RNG.choice([0, 2**bits - 1], (30, 90))
    return deep.astype(f"uint{bits}")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_kind_of_png_stays_of_its_kind(save: Save, bits: int, channels: int) -> None:
    samples = samples_of(bits, channels)
    big_endian = samples.astype(f">u{bits // 8}")
    rows = b"".join(b"\0" + row.tobytes() for row in big_endian)
    picture = read_shown(save(png(bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows, (90, 70))))
    assert picture.samples.dtype == samples.dtype
    np.testing.assert_array_equal(picture.samples, samples)
    assert picture.reduced is None
    assert picture.grey == (channels <= 2)

    pixels = changed(picture)
    path = save(encode_like(picture, pixels).data, "b.png")
    header = path.read_bytes()[24:26]
    assert header == bytes([bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels]])
    again = read_shown(path)
    np.testing.assert_array_equal(again.pixels, pixels)
    colours = 1 if channels <= 2 else 3
    same = (pixels == picture.pixels)[..., :colours]
    assert 0.3 < same.mean() < 0.8
    np.testing.assert_array_equal(again.samples[..., :colours][same], samples[..., :colours][same])
    np.testing.assert_array_equal(again.samples[..., colours:], samples[..., colours:])
    own = read_shown(save(encode_like(picture, picture.pixels).data, "c.png"))
    np.testing.assert_array_equal(own.samples, samples)


def test_every_level_of_every_alpha_can_be_written(save: Save) -> None:
    alpha, level = np.mgrid[:256, :256]
    rgba = RNG.integers(0, 256, (256, 256, 4), dtype=np.uint8)
    rgba[..., 3] = alpha
    picture = read_shown(save(Image.fromarray(rgba)))
    bounds = picture.range()
    assert bounds is not None
    lower, upper = (bound[..., 0] for bound in bounds)
    np.testing.assert_array_equal(lower, 255 - alpha)
    assert (upper == 255).all()
    pixels = np.repeat(np.maximum(level, lower)[..., None], 3, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(read_shown(save(encode_like(picture, pixels).data)).pixels, pixels)
    black = rgba.copy()
    black[..., :3] = 0  # nothing is darker, so the range leaves nothing out
    np.testing.assert_array_equal(read_shown(save(Image.fromarray(black))).pixels[..., 0], lower)


@pytest.mark.parametrize(("channels", "reading"), [(1, lambda v: np.rint(v / 257)), (3, lambda v: v // 256)])
def test_16_bits_move_by_257_a_level_as_nearly_as_the_level_allows(
    save: Save, channels: int, reading: Callable[[Array], Array]
) -> None:
    every = np.arange(65536)
    for steps in (-255, -100, -1, 1, 2, 254):
        samples = np.repeat(every.astype(np.uint16).reshape(256, 256, 1), channels, axis=2)
        picture = read_shown(save(png_writer.encode(samples)))
        pixels = np.clip(picture.pixels.astype(int) + steps, 0, 255).astype(np.uint8)
        again = read_shown(save(encode_like(picture, pixels).data)).samples[..., -1].ravel().astype(int)
        level = pixels[..., -1].ravel()
        wanted = every + 257 * (level - reading(every).astype(int))
        inside = np.clip(wanted, 0, 65535)
        fits = reading(inside) == level
        np.testing.assert_array_equal(again[fits], inside[fits])
        towards = again + np.sign(inside - again)  # one nearer would be of another level
        assert (reading(again) == level).all()
        assert (reading(towards)[~fits] != level[~fits]).all()


@pytest.mark.parametrize(
    ("mode", "name", "kept", "reduced"),
    [
        ("1", "a.png", "L", None),
        ("P", "a.gif", "RGB", None),
        ("RGB", "a.jpg", "RGB", None),
        ("RGBA", "a.webp", "RGBA", None),
        ("L", "a.jpg", "L", None),
        ("LA", "a.tif", "LA", None),
        ("PA", "a.tif", "RGBA", None),
        ("I;16", "a.tif", "I;16", None),
        ("I", "a.tif", "I;16", None),
        ("CMYK", "a.jpg", "RGB", "8-bit RGB, not CMYK"),
        ("LAB", "a.tif", "RGB", "8-bit RGB, not LAB"),
        ("F", "a.tif", "L", "8-bit grey, not floating-point"),
    ],
)
def test_other_kinds_become_the_nearest(save: Save, mode: str, name: str, kept: str, reduced: str | None) -> None:
    if mode == "F":
        image = Image.fromarray(RNG.random((11, 14), np.float32))
    elif mode.startswith("I"):
        image = Image.fromarray(RNG.integers(0, 65536, (11, 14)).astype(np.uint16 if mode == "I;16" else np.int32))
    else:
        image = RGB.convert("P").convert(mode) if mode == "PA" else RGB.convert(mode)
        if mode.endswith("A"):
            image.putalpha(Image.fromarray(COLOURS[..., 0]))
    picture = read_shown(save(image, name))
    assert picture.reduced == reduced
    pixels = changed(picture)
    path = save(encode_like(picture, pixels).data, "b.png")
    np.testing.assert_array_equal(read_shown(path).pixels, pixels)
    with Image.open(path) as written:
        assert written.mode == kept


def tiff16(
    order: str, samples: Array, *, planar: bool = False, alpha: int | None = None, deflated: bool = False
) -> bytes:
    """A TIFF of 16-bit colour, which Pillow does not write; `alpha` is TIFF's ExtraSamples."""
    height, width, channels = samples.shape
    planes = np.moveaxis(samples, -1, 0) if planar else samples[None]
    strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    body = b"".join(strips)
    body += bytes(len(body) % 2)
    fields = {
        256: [width],
        257: [height],
        258: [16] * channels,
        259: [8 if deflated else 1],
        262: [2],
        273: [8 + sum(map(len, strips[:i])) for i in range(len(strips))],
        277: [channels],
        278: [height],
        279: [len(strip) for strip in strips],
        284: [2 if planar else 1],
        **({} if alpha is None else {338: [alpha]}),
    }
    entries = b""
    for tag, values in fields.items():
        data = struct.pack(f"{order}{len(values)}I", *values)
        where = struct.pack(f"{order}I", 8 + len(body)) if len(values) > 1 else data
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + where
        body += data if len(values) > 1 else b""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(body))
    return start + body + struct.pack(f"{order}H", len(fields)) + entries + bytes(4)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("channels", "alpha"), [(3, None), (4, 0), (4, 2)])
def test_16_bit_colour_of_a_tiff_is_kept(
    save: Save, order: str, channels: int, alpha: int | None, deflated: bool
) -> None:
    samples = samples_of(16, channels)
    picture = read_shown(save(tiff16(order, samples, alpha=alpha, deflated=deflated), "a.tif"))
    np.testing.assert_array_equal(picture.samples, samples if alpha else samples[..., :3])
    pixels = changed(picture)
    again = read_shown(save(encode_like(picture, pixels).data))
    np.testing.assert_array_equal(again.pixels, pixels)
    assert again.samples.dtype == np.uint16
    assert picture.reduced is None


def test_16_bits_of_a_tiff_that_cannot_be_kept(save: Save) -> None:
    premultiplied = read_shown(save(tiff16("<", np.full((4, 5, 4), 30000, np.uint16), alpha=1), "a.tif"))
    assert premultiplied.reduced == "8-bit RGB, not 16-bit"
    assert (premultiplied.pixels == 255).all()  # white, where it is transparent
    samples = samples_of(16, 3)
    planar = read_shown(save(tiff16("<", samples, planar=True, deflated=True), "a.tif"))
    assert planar.reduced == "8-bit RGB, not 16-bit"
    np.testing.assert_array_equal(planar.samples, samples >> 8)
    with pytest.raises(ImageError, match="16 bits lie one after the other"):  # or Pillow would mix them up
        _ = read_shown(save(tiff16("<", samples, planar=True), "a.tif")).pixels


def test_deep_grey_with_a_transparent_value_is_written_with_8_bits(save: Save) -> None:
    picture = read_shown(save(png(16, 0, b"\0" + struct.pack(">3H", 256, 300, 65000), (3, 1), struct.pack(">H", 300))))
    assert picture.reduced == "8-bit grey, not 16-bit"
    assert picture.samples[0].tolist() == [[1, 255], [1, 0], [253, 255]]
    assert read_shown(save(encode_like(picture, picture.pixels).data)).pixels[0, :, 0].tolist() == [1, 255, 253]


def test_12_bits_survive_as_16() -> None:
    """Rounding to 16 bits first changes no level of 8 bits, so what was read is what is written."""
    twelve = np.arange(4096)
    sixteen = np.rint(twelve * np.float32(65535 / 4095))
    np.testing.assert_array_equal(np.rint(sixteen / 257), np.rint(twelve / 4095 * 255))


def test_orientation_is_applied_to_both_bytes(save: Save) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    samples = samples_of(16, 3)
    for channels in (2, 3):
        path = save(png_writer.encode(samples[..., :channels], [Chunk(b"eXIf", exif.tobytes())]))
        picture = read_shown(path)
        np.testing.assert_array_equal(picture.samples, samples[..., :channels])
        high = np.rot90(samples[..., : 1 if channels == 2 else 3] >> 8, -1)
        if channels == 3:
            np.testing.assert_array_equal(picture.pixels, high)
        pixels = changed(picture)
        np.testing.assert_array_equal(read_shown(save(encode_like(picture, pixels).data, "b.png")).pixels, pixels)


@pytest.mark.parametrize(("mode", "space"), [("RGB", b"RGB "), ("L", b"GRAY")])
def test_metadata_is_written_again(save: Save, mode: str, space: bytes) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = space
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    exif[ExifTags.Base.Model] = "camera"
    source = save(RGB.convert(mode), "a.jpg", exif=exif, icc_profile=bytes(profile), dpi=(300, 150))
    picture = read_shown(source)
    path = save(encode_like(picture, 255 - picture.pixels).data)
    assert b"eXIfMM" in path.read_bytes()  # not the name that a JPEG puts before it
    with Image.open(path) as written:
        assert written.size == (14, 11)
        assert written.info["icc_profile"] == profile
        assert written.info["dpi"] == pytest.approx((300, 150), abs=0.02)
        assert dict(written.getexif()) == {ExifTags.Base.Model: "camera", ExifTags.Base.Orientation: 8}
        written.verify()  # the checksums
    with Image.open(path) as written:
        np.testing.assert_array_equal(ImageOps.exif_transpose(written.convert("RGB")), 255 - picture.pixels)


def test_a_resolution_beyond_a_pngs_is_left_out(save: Save) -> None:
    for dpi in ((1e-3, 300), (1e9, 300)):
        with Image.open(save(encode(COLOURS, Metadata(dpi=dpi), "PNG").data)) as image:
            assert "dpi" not in image.info


def test_what_cannot_be_written_is_refused(save: Save) -> None:
    glass = RGB.convert("RGBA")
    glass.putalpha(100)
    picture = read_shown(save(glass))
    darkest = picture.pixels.copy()
    darkest[:] = 155
    encode_like(picture, darkest)
    darkest[3, 4, 1] = 154
    with pytest.raises(ValueError, match=r"leave picture\.range"):
        encode_like(picture, darkest)
    grey = read_shown(save(RGB.convert("L")))
    with pytest.raises(ValueError, match="three equal channels"):
        encode_like(grey, COLOURS)
    for wrong in (grey.pixels.astype(float), grey.pixels[1:], grey.pixels[..., 0]):
        with pytest.raises(ValueError, match=r"expected uint8 \[11, 14, 3\]"):
            encode_like(grey, wrong)
    with pytest.raises(ValueError, match="expected uint8 or uint16"):
        png_writer.encode(COLOURS.astype(float))


def test_importing_is_light() -> None:
    heavy = "{'torch', 'torchvision', 'timm'}"
    code = f"import sys, nullspace_cli.engine.files.pictures; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_are_read_side_by_side(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are within `Image.open` at once, and Pillow is as it was when both are done."""
    path, together, opened = save(RGB), threading.Barrier(2, timeout=20), Image.open

    def open_together(*arguments: Any, **options: Any) -> Any:
        together.wait()
        return opened(*arguments, **options)

    monkeypatch.setattr(Image, "open", open_together)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(read_picture, [path, path]))
    assert all(np.array_equal(picture.pixels, COLOURS) for picture in pictures)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
