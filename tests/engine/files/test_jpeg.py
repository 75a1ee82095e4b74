"""JPEGs taken apart and put together: by Pillow, every coefficient, pixel and segment but the wanted ones stays."""

import io
import sys
from typing import Any

import jpeglib
import numpy as np
import pytest
from PIL import Image

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.files.jpeg_coefficients import read_luma, require_jpeglib, why_no_coefficients, with_luma
from nullspace_cli.engine.files.jpeg_decoding import colour_offsets, decoded_luma
from nullspace_cli.engine.files.jpeg_pictures import jpeg_of
from nullspace_cli.engine.files.jpeg_segments import Segment, frame_of, kept, segments_of
from nullspace_cli.engine.files.metadata import Metadata
from nullspace_cli.engine.files.pictures import picture_of, read_picture

WIDTH, HEIGHT = 83, 61
CODINGS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_blocks": 3},
    "quality 60": {"quality": 60},
    "quality 100": {"quality": 100},
    "grey": {"mode": "L"},
    "grey, progressive": {"mode": "L", "progressive": True},
}


def encoded(mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = draw("val", 5, size=96)[0][:HEIGHT, :WIDTH]
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **{"quality": 88, **options})
    return buffer.getvalue()


@pytest.fixture(params=CODINGS)
def source(request: pytest.FixtureRequest) -> bytes:
    return encoded(**CODINGS[request.param])


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_only_the_wanted_coefficients_change(source: bytes, tmp_path: Any) -> None:
    coefficients = read_luma(source).coefficients.copy()
    coefficients[2:4, 5:7, 0, :3] += 2
    result = with_luma(source, coefficients, [])
    before, after = opened(source), opened(result)
    pixels = [np.atleast_3d(np.asarray(image)) for image in (before, after)]
    differs = np.not_equal(*pixels).any(2)
    assert differs[16:32, 40:56].any()
    differs[16:32, 40:56] = False
    assert not differs.any()
    assert before.quantization == after.quantization  # type: ignore[attr-defined]
    assert before.layer == after.layer  # type: ignore[attr-defined]
    assert frame_of(source) == frame_of(result)
    planes = []
    for name, data in (("source", source), ("result", result)):
        (tmp_path / name).write_bytes(data)
        jpeg = jpeglib.read_dct(str(tmp_path / name))
        planes.append([jpeg.Cb, jpeg.Cr] if jpeg.has_chrominance else [])
        luma = jpeg.Y
    assert np.array_equal(luma, coefficients)
    assert all(np.array_equal(*pair) for pair in zip(*planes, strict=True))


def test_blocks_are_decoded_as_pillow_does(source: bytes) -> None:
    luma, image = read_luma(source), opened(source)
    image.draft("YCbCr", image.size)
    planes = np.asarray(image)
    n, m = luma.coefficients.shape[:2]
    plane = decoded_luma(luma.coefficients, luma.table).swapaxes(1, 2).reshape(8 * n, 8 * m)[:HEIGHT, :WIDTH]
    assert np.array_equal(plane, planes if planes.ndim == 2 else planes[..., 0])
    if planes.ndim == 3:
        colours = (plane + colour_offsets(planes[..., 1], planes[..., 2])).clip(0, 255)
        assert np.array_equal(np.moveaxis(colours, 0, 2), np.asarray(opened(source)))


def test_what_a_jpeg_says_stays_byte_for_byte_without_pictures_of_it(tmp_path: Any) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "(c) mine"
    data = encoded(exif=exif, icc_profile=bytes(16) + b"RGB " + bytes(40), comment="by me", dpi=(72, 72))
    others = [Segment(0xE2, b"MPF\0II*\0"), Segment(0xE0, b"JFXX\0\x13thumbnail"), Segment(0xE5, b"Preview\0pixels")]
    own, scans = segments_of(data)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + b"".join(s.bytes for s in (*others, *own)) + scans)
    picture = read_picture(tmp_path / "a.jpg")
    says, lost = kept(picture.path.read_bytes(), picture.metadata_found)
    assert says == [segment for segment in own if segment.says]
    assert lost == ("further pictures", "the segment APP5 Preview")


def test_a_thumbnail_does_not_stay(tmp_path: Any) -> None:
    header = b"JFIF\0\1\1\0\0\1\0\1\1\1" + bytes(3)
    assert kept(b"\xff\xd8" + Segment(0xE0, header).bytes + b"\xff\xda\0\2", Metadata())[0] == [
        Segment(0xE0, header[:12] + b"\0\0")
    ]
    with_small = b"Photoshop 3.0\x008BIM\x04\x0c\0\0\0\0\0\2ab8BIM\x04\x04\0\0\0\0\0\2cd"
    segment = Segment(0xED, with_small)
    (left,) = kept(b"\xff\xd8" + segment.bytes + b"\xff\xda\0\2", Metadata(iptc={0x0404: b"cd"}))[0]
    assert left.data == b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\2cd"


def test_cmyk_is_encoded_anew(tmp_path: Any) -> None:
    Image.fromarray(draw("val", 5, size=64)[0]).convert("CMYK").save(tmp_path / "a.jpg")
    picture = read_picture(tmp_path / "a.jpg")
    assert why_no_coefficients(picture.path.read_bytes()) == "it has 4 planes of colour, not luma and chroma"
    jpeg = jpeg_of(picture, 90)
    assert jpeg.compared_with == "plain JPEG"
    assert opened(jpeg.data).mode == "RGB"
    assert frame_of(jpeg.data).sampling == ((1, 1),) * 3


def test_planes_of_red_green_and_blue_are_encoded_anew(tmp_path: Any) -> None:
    data = bytearray(encoded(subsampling=0, keep_rgb=True))
    (tmp_path / "a.jpg").write_bytes(data)
    assert jpeg_of(read_picture(tmp_path / "a.jpg")).compared_with == "plain JPEG"


def test_grey_stays_grey() -> None:
    jpeg = jpeg_of(picture_of(draw("val", 5, size=64)[0][..., :1]))
    assert opened(jpeg.data).mode == "L"
    assert jpeg.offsets is None


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    with pytest.raises(ArtifactError, match=r"needs jpeglib.*pip install 'vitnull\[jpeg\]'"):
        require_jpeglib()
