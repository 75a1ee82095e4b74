"""Logos as SVG: what they look like, and what of untrusted ones is not read."""

import base64
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.watermark import svg
from nullspace_cli.engine.watermark.marks import read_mark

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9e4" height="4.5e4" '
HALVES = HEAD + 'viewBox="0 0 2 1"><rect width="1" height="1" fill="#3264c8"/></svg>'


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["logo.svg", "LOGO.SVGZ"])
def test_a_drawing_is_the_mark_whatever_its_size(name: str, tmp_path: Path) -> None:
    text = HALVES.encode()
    mark = read_mark(written(tmp_path / name, gzip.compress(text) if name.endswith("Z") else text))
    assert mark.coverage.shape == (svg.SIDE // 2, svg.SIDE)
    assert mark.coverage[:, : svg.SIDE // 2].min() == 1
    assert mark.coverage[:, svg.SIDE // 2 :].max() == 0
    np.testing.assert_allclose(mark.colour[9, 9] * 255, (0x32, 0x64, 0xC8), atol=1e-3)


def test_pictures_within_are_drawn(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (2, 1), (9, 200, 9)).save(data, "PNG")
    href = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    mark = read_mark(written(tmp_path / "a.svg", f'{HEAD}><image width="8e4" height="4e4" href="{href}"/></svg>'))
    assert mark.coverage.mean() == pytest.approx((8 / 9) ** 2, rel=0.01)
    np.testing.assert_allclose(mark.colour[mark.coverage == 1].mean(0) * 255, (9, 200, 9), atol=1)


@pytest.mark.parametrize("element", ["image", "feImage", "svg:image"])
@pytest.mark.parametrize("attribute", ["href", "xlink:href"])
@pytest.mark.parametrize("place", ["secret.png", "file:///secret.png", "http://example.com/a.png", "&place;"])
def test_pictures_elsewhere_are_not_read(element: str, attribute: str, place: str, tmp_path: Path) -> None:
    text = f'<!DOCTYPE svg [<!ENTITY place "secret.png">]>{HEAD}><{element} {attribute}="{place}"/></svg>'
    with pytest.raises(ImageError, match="refers to a picture outside itself"):
        read_mark(written(tmp_path / "a.svg", text))


def test_a_drawing_in_a_drawing_reads_no_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (2, 2), "white").save(secret)
    inner = base64.b64encode(f'{HEAD}><image width="9e4" height="9e4" href="{secret}"/></svg>'.encode()).decode()
    text = f'{HEAD}><image width="9e4" height="9e4" href="data:image/svg+xml;base64,{inner}"/></svg>'
    with pytest.raises(ImageError, match="is blank"):
        read_mark(written(tmp_path / "a.svg", text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is no SVG"),
        ("no XML", "it is no SVG"),
        ("<html/>", "it is no SVG, but <html>"),
        (HEAD + "/>", "is blank"),
        (b"\x1f\x8bno gzip", r"a\.svg"),
        (gzip.compress(b" " * (svg.MAX_BYTES + 1)), "larger than 16 MB"),
        ('<svg xmlns="http://www.w3.org/2000/svg" width="0" height="0"/>', "Cannot draw"),
    ],
)
def test_what_is_no_logo(text: str | bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=reason):
        read_mark(written(tmp_path / "a.svg", text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"Cannot read .*a\.svg: .*"):
        read_mark(tmp_path / "a.svg")


def test_a_drawing_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uses = "".join(f'<g id="a{i + 1}">{f"""<use href="#a{i}"/>""" * 10}</g>' for i in range(12))  # 10^12 rectangles
    monkeypatch.setattr(svg, "SECONDS", 2)
    text = f'{HEAD}><rect id="a0" width="1" height="1"/>{uses}</svg>'
    with pytest.raises(ImageError, match="Cannot draw"):
        read_mark(written(tmp_path / "a.svg", text))


def test_without_resvg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "PROGRAM", svg.PROGRAM.replace("resvg_py", "resvg_py_that_is_not_there"))
    with pytest.raises(ImageError, match=r"pip install 'vitnull\[svg\]'"):
        read_mark(written(tmp_path / "a.svg", HALVES))
