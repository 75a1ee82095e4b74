"""Fonts: those that are always at hand, those that are installed, and which characters each of them has."""

import importlib.util
import io
import shutil
import struct
import subprocess
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import ImageFont

from nullspace_cli.engine.errors import FontError, first_line

COLOURED = {"CBDT", "sbix", "COLR", "SVG "}
"""Tables of fonts that paint their glyphs, as emoji do."""

SECONDS = 30
"""For fontconfig, which may have to look through all fonts first."""

CAP_OF_EM = 0.7
"""Height of a capital, as a share of a font's size, where the font has no capitals."""


@dataclass(frozen=True, eq=False)
class Font:
    """A font that can letter a mark: outlines, of one colour.

    Attributes:
        source: the file, or what is in it.
        index: of the font in a collection.
        characters: code points that it has glyphs for.
    """

    source: Path | bytes
    index: int
    characters: Set[int]

    def has(self, character: str) -> bool:
        """Whether it can write a character, or need not: some are instructions to the layout."""
        return ord(character) in self.characters or is_ignorable(character)

    def of_cap_height(self, height: float, *, shaped: bool) -> ImageFont.FreeTypeFont:
        """The font at the size at which its capitals are so many pixels high.

        Args:
            shaped: for letters that join or run from right to left, by Raqm; else laid out alike on every machine.
        """
        size = height / CAP_OF_EM
        font = self._at(size, shaped=shaped)
        if ord("H") not in self.characters:
            return font
        _, top, _, bottom = font.getbbox("H")
        return font.font_variant(size=size * height / (bottom - top))

    def _at(self, size: float, *, shaped: bool) -> ImageFont.FreeTypeFont:
        source = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        engine = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
        return ImageFont.truetype(source, size, self.index, layout_engine=engine)


def is_ignorable(character: str) -> bool:
    """Whether a character has no glyph of its own: joiners, marks of direction, selectors of a variant."""
    point = ord(character)
    return unicodedata.category(character) == "Cf" or 0xFE00 <= point <= 0xFE0F or 0xE0100 <= point <= 0xE01EF


def read_font(path: Path, index: int = 0) -> Font:
    """Read a TrueType or OpenType font, or the first of a collection.

    Raises:
        FontError: it cannot be read, or is one of several colours.
    """
    try:
        ImageFont.truetype(path, 16, index)
    except (OSError, ValueError) as error:
        reason = "it is missing" if not path.exists() else first_line(error)
        raise FontError(f"Cannot read the font {path}: {reason}. Expected a .ttf, .otf or .ttc file.") from error
    return Font(path, index, _characters(path, index, str(path)))


@cache
def built_in() -> Font:
    """The font that Pillow carries: ASCII, and little more."""
    font = ImageFont.load_default(16)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert isinstance(font.path, io.BytesIO)
    data = font.path.getvalue()
    return Font(data, 0, _characters(io.BytesIO(data), 0, "of Pillow"))


@cache
def carried() -> Font | None:
    """The DejaVu Sans that Matplotlib carries: European scripts, Arabic and Hebrew; None where it is not found."""
    package = importlib.util.find_spec("matplotlib")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    return read_font(path) if path.exists() else None


def installed(text: str) -> Iterator[Font]:
    """Fonts that fontconfig knows and that have characters of a text, those that have most of them first.

    None where there is no fontconfig.
    """
    program = shutil.which("fc-match")
    if program is None:
        return
    wanted = {ord(character) for character in text if not is_ignorable(character)}
    pattern = f"sans-serif:charset={' '.join(f'{point:x}' for point in sorted(wanted))}"
    command = [program, "--all", pattern, "--format", "%{file}\t%{index}\t%{charset}\n"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)  # noqa: S603 - digits alone
    except (OSError, subprocess.SubprocessError):
        return
    known = [line.split("\t") for line in answer.stdout.decode(errors="surrogateescape").splitlines()]
    found = [(Path(file), int(index) & 0xFFFF, _covered(ranges, wanted)) for file, index, ranges in known]
    for file, index, covered in sorted(found, key=lambda item: -item[2]):
        if not covered:
            return
        try:
            yield read_font(file, index)
        except FontError:
            continue  # of several colours, or of a kind that has no outlines


def _covered(ranges: str, wanted: Set[int]) -> int:
    """How many of the wanted code points lie in fontconfig's ranges, as "20-7e a9"."""
    ends = [part.partition("-") for part in ranges.split()]
    spans = [(int(first, 16), int(last or first, 16)) for first, _, last in ends]
    return sum(any(first <= point <= last for first, last in spans) for point in wanted)


def _characters(file: Path | io.BytesIO, index: int, name: str) -> Set[int]:
    """The code points of a font.

    Raises:
        FontError: it has no table of them, or is one of several colours.
    """
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(file, fontNumber=index, lazy=True) as font:
            if COLOURED & set(font.keys()):
                raise FontError(
                    f"The font {name} paints its glyphs in several colours, and a lettered mark has one. Give another "
                    f"font, or use a picture of the text as the mark."
                )
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, ValueError, KeyError, AssertionError, ImportError, struct.error) as error:
        raise FontError(
            f"Cannot read the font {name}: {first_line(error)}. Expected a .ttf, .otf or .ttc file."
        ) from error
