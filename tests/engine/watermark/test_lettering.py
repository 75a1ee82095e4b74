"""Text as a mark: what is set in which font, and what is refused."""

import os
from hashlib import sha256
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw, ImageFont, features

from nullspace_cli.engine.errors import FontError, UsageError
from nullspace_cli.engine.watermark.fonts import read_font
from nullspace_cli.engine.watermark.lettering import CAP_HEIGHT, text_mark


def test_text_fills_a_tight_box() -> None:
    mark = text_mark("HI")
    inked = mark.coverage > 0.5
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    margins = (rows[0], columns[0], inked.shape[0] - 1 - rows[-1], inked.shape[1] - 1 - columns[-1])
    assert 1 <= min(margins) <= max(margins) <= CAP_HEIGHT // 8
    assert len(rows) == pytest.approx(CAP_HEIGHT, rel=0.15)
    assert 0.3 < mark.coverage.mean() < 0.7
    assert mark.colour.min() == 1
    # Three upright stems and a bar: the letters are there, and upright.
    middle = inked[(rows[0] * 3 + rows[-1]) // 4]
    assert np.count_nonzero(np.diff(middle.astype(int)) == 1) == 3


@pytest.mark.parametrize("text", ["one\ntwo", r"one\ntwo", "one\r\ntwo\n", "  one  \n two"])
def test_lines_of_text(text: str) -> None:
    np.testing.assert_array_equal(text_mark(text).coverage, text_mark("one\ntwo").coverage)
    assert text_mark(text).coverage.shape[0] > 1.8 * text_mark("one").coverage.shape[0]


@pytest.mark.parametrize("text", ["n" * 2000, "n\n" * 400])
def test_long_text_is_lettered_smaller(text: str) -> None:
    assert CAP_HEIGHT * 10 < max(text_mark(text).coverage.shape) < 10_000


@pytest.mark.parametrize("text", ["", "  ", "\n", r"\n \n", "\t"])
def test_blank_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is blank"):
        text_mark(text)


def test_letters_that_the_font_lacks_are_named() -> None:
    with pytest.raises(UsageError, match=r"No font that is here has a glyph for 日 \(U\+65E5\) 本 \(U\+672C\)"):
        text_mark("日本 2024")


def test_a_mark_knows_what_it_spells() -> None:
    assert text_mark("©").sha256 == sha256("©".encode()).hexdigest()


# Fonts


def made_font(path: Path, characters: str, *, coloured: bool = False) -> Path:
    """A font whose every glyph is a full square."""
    names = [f"glyph{ord(character)}" for character in characters]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap(dict(zip(map(ord, characters), names, strict=True)))
    pen = TTGlyphPen(None)
    for step, point in zip(("moveTo", *3 * ("lineTo",)), ((0, 0), (0, 700), (700, 700), (700, 0)), strict=True):
        getattr(pen, step)(point)
    pen.closePath()
    builder.setupGlyf(dict.fromkeys([".notdef", *names], pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    if coloured:
        builder.setupCOLR({names[0]: [(names[0], 0)]})
        builder.setupCPAL([[(1.0, 0.0, 0.0, 1.0)]])
    builder.save(path)
    return path


@pytest.fixture
def installed_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A font that a fontconfig of our own names, after one in colours and one that is broken."""
    fonts = [made_font(tmp_path / "emoji.ttf", "日本", coloured=True), tmp_path / "gone.ttf"]
    fonts.append(made_font(tmp_path / "Tofu.ttf", "日本"))
    lines = "".join(f"{font}\\t0\\t20-7e 65e5 672c\\n" for font in fonts)
    program = tmp_path / "bin/fc-match"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return fonts[-1]


def by_pillow(text: str) -> Image.Image:
    """Glyph after glyph from left to right in the font that Matplotlib brings along, of the height of `text_mark`."""
    path = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    font = ImageFont.truetype(path, CAP_HEIGHT / 0.729, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (3000, 900))
    ImageDraw.Draw(image).text((50, 500), text, 255, font, anchor="ls", stroke_width=CAP_HEIGHT / 20)
    return image.crop(image.getbbox()).resize((300, 60))


def likeness(text: str, expected: Image.Image) -> float:
    pixels = Image.fromarray((text_mark(text).coverage * 255).astype(np.uint8))
    found = pixels.crop(pixels.getbbox()).resize((300, 60))
    return float(np.corrcoef(np.asarray(expected).ravel(), np.asarray(found).ravel())[0, 1])


def test_letters_that_the_built_in_font_lacks_are_those_of_another() -> None:
    assert likeness("Größe Ж", by_pillow("Größe Ж")) > 0.98


def test_letters_may_come_with_their_marks_apart() -> None:
    np.testing.assert_array_equal(text_mark("e\u0301").coverage, text_mark("é").coverage)


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow finds no FriBiDi")
def test_letters_join_and_run_from_right_to_left() -> None:
    """As the joined shapes, which Unicode has for old programs, and Hebrew turned round by hand."""
    assert likeness("بيت", by_pillow("ﺖﻴﺑ")) > 0.97
    assert likeness("שלום 12", by_pillow("12 םולש")) > 0.97


@pytest.mark.parametrize("text", ["سارة", "שלום", "a\u0316", "नमः"])
def test_letters_that_depend_on_others_are_not_set_without_raqm(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(UsageError, match="Install FriBiDi"):
        text_mark(text)


def test_fonts_that_are_installed(installed_font: Path) -> None:
    squares = text_mark("日本").coverage
    assert squares.mean() > 0.7
    mixed = text_mark("A日").coverage  # no font has both
    assert mixed.shape[1] > squares.shape[1] / 2


def test_without_fontconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="日"):
        text_mark("日本")


def test_a_font_that_is_given_is_the_only_one(tmp_path: Path) -> None:
    font = read_font(made_font(tmp_path / "a.ttf", "abc"))
    assert text_mark("abc", font).coverage.mean() > 0.7
    with pytest.raises(UsageError, match=r"The font has no glyph for d \(U\+0064\)"):
        text_mark("abcd", font)


def test_fonts_that_letter_no_mark(tmp_path: Path) -> None:
    (tmp_path / "text.ttf").write_text("no font")
    for path, reason in (
        (made_font(tmp_path / "emoji.ttf", "a", coloured=True), "several colours"),
        (tmp_path / "missing.ttf", "it is missing"),
        (tmp_path / "text.ttf", r"Expected a \.ttf"),
        (tmp_path, r"Expected a \.ttf"),
    ):
        with pytest.raises(FontError, match=reason):
            read_font(path)
