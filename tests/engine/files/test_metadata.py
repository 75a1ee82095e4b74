"""What a file says besides its pixels, through every format: written files are read back by Pillow and struct."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files import exif
from nullspace_cli.engine.files.containers import ENDINGS, Container
from nullspace_cli.engine.files.pictures import Picture, encode_like, encode_resized, read_picture

Array = NDArray[Any]
Save = Callable[..., Path]

COLOURS: Array = np.random.default_rng(0).integers(0, 256, (11, 14, 3), dtype=np.uint8)
RGB = Image.fromarray(COLOURS)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COPYRIGHT = "© 2026 Zoë"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6" dc:rights="mine">'
    b"<xmp:Thumbnails><rdf:Alt><xmpGImg:image>SECRET</xmpGImg:image></rdf:Alt></xmp:Thumbnails>"
    b"<tiff:Orientation>6</tiff:Orientation></rdf:Description></rdf:RDF></x:xmpmeta>"
)
NAA = b"\x1c\x02\x74\0\x04mine"  # IPTC-IIM 2:116, the copyright notice
CONTAINERS: tuple[Container, ...] = ("PNG", "WebP", "TIFF")


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG, each with a right checksum, in order."""
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + content),)
        found.append((kind, content))
        at += 12 + length
    assert found[-1] == (b"IEND", b"")
    return found


def with_chunks(data: bytes, *added: tuple[bytes, bytes], behind: bool = False) -> bytes:
    """A PNG with further chunks after its header, or behind its pixels."""
    extra = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in added
    )
    at = len(data) - 12 if behind else 33
    return data[:at] + extra + data[at:]


def exif_with_thumbnail(order: str = ">", behind: bytes = b"", way: int = 6) -> bytes:
    """EXIF as cameras write it: orientation, copyright in UTF-8, a maker's note, and a thumbnail behind it all."""
    copyright_ = COPYRIGHT.encode() + b"\0"
    note = b"MAKER" * 5
    first = 8
    values = first + 2 + 12 * 3 + 4
    inner = values + len(copyright_) + len(copyright_) % 2
    second = inner + 2 + 12 + 4 + len(note) + len(note) % 2
    thumbnail = second + 2 + 12 * 2 + 4

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")

    def long(value: int) -> bytes:
        return struct.pack(f"{order}I", value)

    data = (b"MM\0*" if order == ">" else b"II*\0") + long(first) + struct.pack(f"{order}H", 3)
    data += entry(274, 3, 1, struct.pack(f"{order}H", way))
    data += entry(33432, 2, len(copyright_), long(values)) + entry(34665, 4, 1, long(inner)) + long(second)
    data += copyright_ + bytes(len(copyright_) % 2)
    data += struct.pack(f"{order}H", 1) + entry(37500, 7, len(note), long(inner + 18)) + long(0)
    data += note + bytes(len(note) % 2)
    data += struct.pack(f"{order}H", 2) + entry(513, 4, 1, long(thumbnail)) + entry(514, 4, 1, long(6)) + long(0)
    return data + b"SECRET" + behind


def photoshop() -> bytes:
    """Photoshop's resources: a thumbnail, IPTC, the copyright's mark."""
    block = b""
    for code, content in ((0x040C, b"SECRET"), (0x0404, NAA), (0x040A, b"\x01")):
        block += b"8BIM" + struct.pack(">HHI", code, 0, len(content)) + content + bytes(len(content) % 2)
    return b"Photoshop 3.0\0" + block


def jpeg(name: str = "a.jpg", **options: Any) -> bytes:
    """A photo with all that a camera and an editor leave."""
    buffer = io.BytesIO()
    about = {"exif": b"Exif\0\0" + exif_with_thumbnail(), "icc_profile": SRGB, "dpi": (300, 150), "comment": "ein Gruß"}
    RGB.save(buffer, "JPEG", **{"xmp": XMP, **about, **options})
    data = buffer.getvalue()
    block = photoshop()
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + data[2:]


def written(picture: Picture, container: Container, save: Save, name: str = "out") -> tuple[Path, tuple[str, ...]]:
    ending = next(ending for ending, kind in ENDINGS.items() if kind == container)
    pixels = picture.pixels if picture.alpha is not None else 255 - picture.pixels
    data, lost = encode_like(picture, pixels, container)
    path = save(data, name + ending)
    back = read_picture(path)
    np.testing.assert_array_equal(back.pixels, pixels)
    with Image.open(path) as image:  # by others, within their limits
        image.load()
        if picture.alpha is None:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels)
    return path, lost


# --- a photo


@pytest.mark.parametrize("container", CONTAINERS)
def test_all_that_a_photo_says_survives(save: Save, container: Container) -> None:
    way = 1 if container == "TIFF" else 6  # which loaders would turn
    source = save(jpeg(exif=b"Exif\0\0" + exif_with_thumbnail(way=way)), "a.jpg")
    path, lost = written(read_picture(source), container, save)
    with Image.open(path) as image:
        assert image.info["icc_profile"] == SRGB
        exif = image.getexif()
        # Pillow reads ASCII as Latin-1.
        assert exif[ExifTags.Base.Copyright].encode("latin-1").decode() == COPYRIGHT
        assert exif[ExifTags.Base.Orientation] == way
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] == b"MAKER" * 5
        assert exif.get_ifd(ExifTags.IFD.IFD1) == {}
        xmp = image.info["xmp"]
        assert b'dc:rights="mine"' in xmp
        assert xmp.count(b'tiff:Orientation="%d"' % way) + xmp.count(b"<tiff:Orientation>%d<" % way) == 2
        if container != "WebP":
            assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
        if container == "TIFF":
            assert image.tag_v2[33723] == NAA  # type: ignore[attr-defined]
            assert image.tag_v2[270].encode("latin-1").decode() == "ein Gruß"  # type: ignore[attr-defined]
        if container == "PNG":
            assert image.info["Comment"] == "ein Gruß"
            lines = image.info["Raw profile type iptc"].split("\n")
            block = bytes.fromhex("".join(lines[3:]))
            assert (lines[1], int(lines[2])) == ("iptc", len(block))
            assert b"8BIM\x04\x04\0\0" + struct.pack(">I", len(NAA)) + NAA in block
            assert b"8BIM\x04\x0a\0\0" in block
    assert b"SECRET" not in path.read_bytes()
    assert b"SECRET".hex().encode() not in path.read_bytes()
    assert lost == (("IPTC, for which WebP has no place",) if container == "WebP" else ())


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_was_written_says_the_same_once_more(save: Save, container: Container) -> None:
    way = 1 if container == "TIFF" else 6
    first = read_picture(save(jpeg(exif=b"Exif\0\0" + exif_with_thumbnail(way=way)), "a.jpg"))
    path, _ = written(first, container, save)
    again, expected = read_picture(path).metadata, first.metadata
    assert again.icc_profile == expected.icc_profile
    assert again.xmp == expected.xmp
    if container != "WebP":
        assert again.iptc[0x0404] == NAA
    second, _ = written(read_picture(path), container, save, "second")
    third, _ = written(read_picture(second), container, save, "third")
    assert third.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("behind", [b"", b"something of a maker's"])
def test_the_thumbnail_alone_is_taken_out_of_exif(save: Save, order: str, behind: bytes) -> None:
    """Nothing else moves: makers' notes hold places of their own."""
    exif = exif_with_thumbnail(order, behind)
    kept = read_picture(save(jpeg(exif=b"Exif\0\0" + exif), "a.jpg")).metadata.exif
    assert kept is not None
    assert b"SECRET" not in kept
    assert kept.endswith(behind)
    differ = [at for at in range(len(kept)) if kept[at] != exif[at]]
    orientation, pointer = 10 + 9 - (order == "<"), 8 + 2 + 36
    assert all(at == orientation or at >= pointer for at in differ)
    assert kept.index(b"MAKER") == exif.index(b"MAKER")


def test_exif_whose_thumbnail_points_anywhere(save: Save) -> None:
    exif = exif_with_thumbnail()
    at = exif.index(struct.pack(">HHI", 513, 4, 1)) + 8
    for place in (0, 8, 2**32 - 1):
        broken = exif[:at] + struct.pack(">I", place) + exif[at + 4 :]
        kept = read_picture(save(jpeg(exif=b"Exif\0\0" + broken), "a.jpg")).metadata.exif
        assert kept is not None
        assert kept[:8] == exif[:8]
        assert COPYRIGHT.encode() in kept


def test_exif_that_cannot_be_parsed_is_left_out_and_it_is_said(save: Save) -> None:
    picture = read_picture(save(jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), "a.jpg"))
    _, lost = written(picture, "PNG", save)
    assert exif.parsed(picture.metadata.exif or b"")[1].keys() == {exif.ORIENTATION}  # as XMP has it
    assert lost == ("EXIF that cannot be parsed",)


def test_the_further_part_of_xmp_holds_pictures_and_is_left_out(save: Save) -> None:
    data = jpeg(xmp=XMP.replace(b"dc:rights", b'xmpNote:HasExtendedXMP="0123" dc:rights'))
    further = b"http://ns.adobe.com/xmp/extension/\0" + b"0123" * 8 + struct.pack(">II", 6, 0) + b"SECRET"
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(further) + 2) + further + data[2:]
    path, lost = written(read_picture(save(data, "a.jpg")), "PNG", save)
    assert lost == ("the further part of XMP",)
    with Image.open(path) as image:
        assert b'dc:rights="mine"' in image.info["xmp"]
        assert b"HasExtendedXMP" not in image.info["xmp"]


# --- PNG


COLOUR = (
    (b"cICP", b"\x0c\x0d\0\x01"),
    (b"mDCV", bytes(24)),
    (b"gAMA", struct.pack(">I", 50000)),
    (b"cHRM", struct.pack(">8I", *range(1, 9))),
    (b"sBIT", b"\5\6\5"),
)


@pytest.mark.parametrize("behind", [False, True])
def test_what_a_png_says_stays_to_the_byte(save: Save, behind: bool) -> None:
    texts = (
        (b"tEXt", b"Title\0caf\xe9"),
        (b"zTXt", b"Copyright\0\0" + zlib.compress(b"\xa9 mine")),
        (b"iTXt", b"Author\0\0\0de\0Autor\0" + "Zoë".encode()),
        (b"iTXt", b"Description\0\1\0\0\0" + zlib.compress("日本".encode())),
    )
    source = save(RGB).read_bytes()
    path = save(with_chunks(with_chunks(source, *COLOUR), *texts, behind=behind))
    found = chunks_of(written(read_picture(path), "PNG", save)[0].read_bytes())
    pixels = [kind for kind, _ in found].index(b"IDAT")
    for chunk in (*COLOUR, *texts):
        assert found.count(chunk) == 1
        assert found.index(chunk) < pixels


@pytest.mark.parametrize(
    ("added", "kept"), [((b"gAMA", struct.pack(">I", 45455)), True), ((b"iCCP", b"x\0\0" + zlib.compress(SRGB)), False)]
)
def test_srgb(save: Save, added: tuple[bytes, bytes], kept: bool) -> None:
    path = save(with_chunks(save(RGB).read_bytes(), (b"sRGB", b"\1"), added))
    kinds = [kind for kind, _ in chunks_of(written(read_picture(path), "PNG", save)[0].read_bytes())]
    assert (b"sRGB" in kinds) == kept
    assert (b"iCCP" in kinds) != kept


def test_an_aspect_without_a_unit(save: Save) -> None:
    aspect = (b"pHYs", struct.pack(">IIB", 3, 2, 0))
    picture = read_picture(save(with_chunks(save(RGB).read_bytes(), aspect)))
    assert aspect in chunks_of(written(picture, "PNG", save)[0].read_bytes())


def test_significant_bits_of_a_palette(save: Save) -> None:
    """Three of them, which a palette with transparency has, too; its result has four channels."""
    palette = RGB.quantize(16)
    path = save(with_chunks(save(palette, transparency=3).read_bytes(), (b"sBIT", b"\5\6\5")))
    assert written(read_picture(path), "PNG", save)[1] == ("sBIT",)
    path = save(with_chunks(save(palette).read_bytes(), (b"sBIT", b"\5\6\5")))
    assert written(read_picture(path), "PNG", save)[1] == ()


@pytest.mark.parametrize("container", ["WebP", "TIFF"])
def test_what_others_have_no_place_for_is_named(save: Save, container: Container) -> None:
    texts = ((b"tEXt", b"Copyright\0\xa9 mine"), (b"tEXt", b"workflow\0{}"))
    path = save(with_chunks(save(RGB).read_bytes(), *COLOUR[:1], *texts))
    result, lost = written(read_picture(path), container, save)
    assert lost == ("the text 'workflow'", "cICP of a PNG")
    with Image.open(result) as image:
        assert image.getexif()[ExifTags.Base.Copyright].encode("latin-1").decode() == "© mine"


@pytest.mark.parametrize("name", ["exif", "APP1"])
def test_exif_in_a_text(save: Save, name: str) -> None:
    """ImageMagick's way, of when PNG had no chunk for it. The thumbnail is in it, too."""
    exif = b"Exif\0\0" + exif_with_thumbnail()
    text = f"\n{name}\n{len(exif):8}\n{exif.hex()}\n".encode()
    path = save(
        with_chunks(
            save(RGB).read_bytes(), (b"zTXt", f"Raw profile type {name}".encode() + b"\0\0" + zlib.compress(text))
        )
    )
    result, _ = written(read_picture(path), "PNG", save)
    with Image.open(result) as image:
        assert image.getexif()[ExifTags.Base.Copyright].encode("latin-1").decode() == COPYRIGHT
        assert not any(key.startswith("Raw") for key in image.info if isinstance(key, str))
    assert b"SECRET" not in result.read_bytes()


# --- TIFF, GIF


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("big", [False, True])
def test_what_a_tiff_says_in_its_tags(save: Save, container: Container, big: bool) -> None:
    info = {315: "A. Author", 33432: "(c) mine", 270: "of what", 700: XMP, 33723: NAA}
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = "a lens"
    path = save(RGB, "a.tif", tiffinfo={**info, **dict(exif)}, dpi=(200, 100), icc_profile=SRGB, big_tiff=big)
    result, lost = written(read_picture(path), container, save)
    with Image.open(result) as image:
        tags = image.getexif()
        assert (tags[315], tags[33432], tags[270]) == ("A. Author", "(c) mine", "of what")
        assert image.info["icc_profile"] == SRGB
        assert b'dc:rights="mine"' in image.info["xmp"]
    assert NAA in result.read_bytes() or NAA.hex().encode() in result.read_bytes() or container == "WebP"
    assert lost == (("IPTC, for which WebP has no place",) if container == "WebP" else ())


def test_the_comment_of_a_gif(save: Save) -> None:
    path, _ = written(read_picture(save(RGB.convert("P"), "a.gif", comment=b"mine")), "PNG", save)
    with Image.open(path) as image:
        assert image.info["Comment"] == "mine"


# --- what is too large


LIMIT = PngImagePlugin.MAX_TEXT_CHUNK
TEXT = {
    "tEXt": lambda text: (b"tEXt", b"workflow\0" + text),
    "zTXt": lambda text: (b"zTXt", b"workflow\0\0" + zlib.compress(text)),
    "iTXt": lambda text: (b"iTXt", b"workflow\0\0\0\0\0" + text),
    "iTXt packed": lambda text: (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(text)),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 1_200_000, 5 * LIMIT])
def test_a_large_text_is_read_and_written_so_that_others_read_it(
    save: Save, kind: str, size: int, behind: bool
) -> None:
    text = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    path = save(with_chunks(save(RGB).read_bytes(), TEXT[kind](text), behind=behind))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels, COLOURS)
    result, lost = written(picture, "PNG", save)
    assert lost == ()
    with Image.open(result) as image:
        image.load()
        assert image.info["workflow"] == text.decode()


@pytest.mark.parametrize("kind", TEXT)
def test_more_text_than_pillow_takes_at_all(save: Save, kind: str) -> None:
    text = b"0" * (PngImagePlugin.MAX_TEXT_MEMORY + 1)
    path = save(with_chunks(save(RGB).read_bytes(), TEXT[kind](text), (b"tEXt", b"Copyright\0mine")))
    result, lost = written(read_picture(path), "PNG", save)
    (what,) = lost
    assert what.endswith(f"bytes of {kind}") or what == "the text 'workflow', too large for a PNG"
    with Image.open(result) as image:
        assert image.info["Copyright"] == "mine"


def test_texts_that_are_too_much_together(save: Save) -> None:
    part = b"0" * (PngImagePlugin.MAX_TEXT_MEMORY // 4)
    texts = [(b"zTXt", b"part%d\0\0" % i + zlib.compress(part)) for i in range(6)]
    result, lost = written(read_picture(save(with_chunks(save(RGB).read_bytes(), *texts))), "PNG", save)
    assert lost == tuple(f"the text 'part{i}', too large for a PNG" for i in (4, 5))
    with Image.open(result) as image:
        image.load()
        assert {"part0", "part1", "part2", "part3"} <= set(image.info)


def profile_of(size: int) -> bytes:
    return SRGB + np.random.default_rng(1).integers(0, 256, size - len(SRGB), dtype=np.uint8).tobytes()


@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT])
def test_a_large_profile_is_kept_where_it_can_be(save: Save, source: str, size: int) -> None:
    profile = profile_of(size)
    path = save(RGB, f"a.{source.lower()}", icc_profile=profile)
    picture = read_picture(path)
    assert picture.metadata.icc_profile == profile
    for container in CONTAINERS:
        result, lost = written(picture, container, save)
        with Image.open(result) as image:
            image.load()
            if image.info.get("icc_profile") is None:
                assert (container, lost) == ("PNG", (f"its colour profile of {size} bytes, too large for a PNG",))
                assert size > LIMIT
            else:
                assert (image.info["icc_profile"], lost) == (profile, ())
                assert container != "PNG" or size <= LIMIT


def test_bombs_do_not_fill_the_memory(save: Save) -> None:
    bomb = zlib.compressobj(9)
    packed = b"".join(bomb.compress(bytes(2**24)) for _ in range(40)) + bomb.flush()  # 640 MiB
    for chunk in ((b"iCCP", b"x\0\0" + packed), (b"zTXt", b"x\0\0" + packed), (b"iTXt", b"x\0\1\0\0\0" + packed)):
        picture = read_picture(save(with_chunks(save(RGB).read_bytes(), chunk)))
        np.testing.assert_array_equal(picture.pixels, COLOURS)
        assert len(written(picture, "PNG", save)[1]) == 1


@pytest.mark.parametrize("size", [65533 - 29, 65533 - 35])
def test_the_largest_segments_of_a_jpeg(save: Save, size: int) -> None:
    xmp = XMP + b" " * (size - len(XMP))
    path = save(jpeg(xmp=xmp, comment=b"x" * 65000), "a.jpg")
    result, lost = written(read_picture(path), "PNG", save)
    assert lost == ()
    with Image.open(result) as image:
        assert len(image.info["Comment"]) == 65000
        assert image.info["xmp"].startswith(b"<x:xmpmeta")


# --- samples


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_samples_of_8_bits(save: Save, container: Container, mode: str) -> None:
    image = RGB.convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(COLOURS[..., 0]))
    picture = read_picture(save(image))
    data, _ = encode_like(picture, picture.pixels, container)
    back = read_picture(save(data, "b"))
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    if container != "WebP":
        np.testing.assert_array_equal(back.samples, picture.samples)
    elif mode == "RGBA":
        np.testing.assert_array_equal(back.samples, picture.samples)  # hidden colours, too


@pytest.mark.parametrize("container", CONTAINERS)
def test_at_another_size(save: Save, container: Container) -> None:
    """The description and the colours stay; what is about the samples and their size does not."""
    picture = read_picture(
        save(with_chunks(save(RGB, dpi=(300, 300)).read_bytes(), *COLOUR, (b"tEXt", b"Copyright\0mine")))
    )
    data, _ = encode_resized(picture, COLOURS[:5, :6].copy(), container)
    path = save(data, "b")
    np.testing.assert_array_equal(read_picture(path).pixels, COLOURS[:5, :6])
    with Image.open(path) as image:
        assert "dpi" not in image.info or container == "TIFF"
        if container == "PNG":
            assert (image.info["Copyright"], image.info["gamma"]) == ("mine", 0.5)
            assert b"sBIT" not in dict(chunks_of(data))
        else:
            assert image.getexif()[ExifTags.Base.Copyright] == "mine"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [None, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + exif_with_thumbnail(way=1)])
def test_which_way_is_up_is_always_said(save: Save, exif: bytes | None) -> None:
    """Also where XMP alone said so, and where EXIF said nothing of use."""
    about = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    source = save(jpeg(exif=exif or b"", xmp=about), "a.jpg")
    picture = read_picture(source)
    path, _ = written(picture, "PNG", save)
    with Image.open(source) as before, Image.open(path) as after:
        assert ImageOps.exif_transpose(before).size == ImageOps.exif_transpose(after).size


def test_a_tiff_that_loaders_would_turn_is_refused(save: Save) -> None:
    picture = read_picture(save(jpeg(), "a.jpg"))
    with pytest.raises(ImageError, match=r"another way up.*\.png or \.webp"):
        encode_like(picture, picture.levels, "TIFF")
