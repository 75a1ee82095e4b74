"""Text as a mark: in which fonts it can be set, and what it looks like."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.watermark.fonts import Font, built_in, carried, installed
from nullspace_cli.engine.watermark.marks import Mark, Plane

CAP_HEIGHT = 256
"""Pixels of a capital: marks are scaled down cleanly, never up, on canvases of usual size."""

TEXT_SIDE = 8192
"""Pixels; longer or more lines are lettered smaller, so that a page of text does not fill the memory."""

BOLDER = 1 / 20
"""Of a capital's height, drawn around every glyph, so that text can be read against a busy picture."""

RIGHT_TO_LEFT = {"R", "AL", "AN", "RLE", "RLO", "RLI"}
JOINING = ((0x1100, 0x11FF), (0x1800, 0x18AF), (0xA840, 0xA87F), (0xA960, 0xA97F), (0xD7B0, 0xD7FF))
"""Letters without marks or direction that take their shape from their neighbours: Hangul's, Mongolian, Phags-pa."""


@dataclass(frozen=True)
class _Run:
    """Consecutive characters of a line in one font."""

    text: str
    font: Font


def text_mark(text: str, font: Font | None = None) -> Mark:
    r"""White lettering; a line break, or a typed \n, starts a new line.

    Args:
        font: to use and no other. None: the first that has all of the text, of the one that Pillow carries, the one
            that Matplotlib carries, and those that are installed; if there is none, several.

    Raises:
        UsageError: the text is blank, or cannot be set in the fonts that there are.
    """
    lines = [line.strip() for line in text.replace("\\n", "\n").expandtabs(1).splitlines()]
    lettering = unicodedata.normalize("NFC", "\n".join(lines).strip("\n"))
    if not lettering:
        raise UsageError(f"The text {text!r} is blank: nothing of it would be seen. Give some letters.")
    set_lines = _set(lettering.split("\n"), font)
    layout = _Layout(set_lines, CAP_HEIGHT)
    if layout.side > TEXT_SIDE:
        layout = _Layout(set_lines, CAP_HEIGHT * TEXT_SIDE / layout.side)
    coverage = layout.drawn()
    if not coverage.any():
        raise UsageError(f"The text {text!r} is blank in its font: nothing of it would be seen. Give another font.")
    return Mark(np.broadcast_to(np.float32(1), (*coverage.shape, 3)), coverage, text)


def _set(lines: Sequence[str], given: Font | None) -> list[list[_Run]]:
    """The lines by runs of one font, all of them in one if there is one.

    Raises:
        UsageError: some characters are in no font, or a line that needs a single one has none, or no Raqm.
    """
    text = "".join(lines)
    if needs_shaping(text) and not features.check("raqm"):
        raise UsageError(
            f"The text {_short(text)} has letters that join or run from right to left. Pillow sets them with Raqm, "
            f"which is not there. Install FriBiDi (libfribidi0, brew install fribidi), or use a picture of the text as "
            f"the mark."
        )
    fonts: list[Font] = []
    for font in [given] if given else chain(filter(None, (built_in(), carried())), installed(text)):
        if _lacking(text, font) == []:
            return [[_Run(line, font)] if line else [] for line in lines]
        fonts.append(font)
    missing = [character for character in _distinct(text) if not any(font.has(character) for font in fonts)]
    if missing:
        names = " ".join(f"{character} (U+{ord(character):04X})" for character in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        where = "The font has no" if given else "No font that is here has a"
        raise UsageError(
            f"{where} glyph for {names}{more}.",
            hint="Use `font=FILE` with one that has, or a picture of the text as the mark.",
        )
    return [_in_several(line, fonts) for line in lines]


def _in_several(line: str, fonts: Sequence[Font]) -> list[_Run]:
    """A line, each character in the first font that has it; in one font where letters depend on their neighbours."""
    if needs_shaping(line):
        whole = [font for font in fonts if _lacking(line, font) == []]
        if not whole:
            raise UsageError(
                f"No font that is here has all letters of {_short(line)}, and letters that join or run from right to "
                f"left are not set in several.",
                hint="Use `font=FILE` with one that has, put other scripts on a line of their own, or use a picture of "
                "the text as the mark.",
            )
        return [_Run(line, whole[0])]
    of = [next(i for i, font in enumerate(fonts) if font.has(character)) for character in line]
    parts = groupby(zip(line, of, strict=True), key=lambda pair: pair[1])
    return [_Run("".join(character for character, _ in part), fonts[i]) for i, part in parts]


def needs_shaping(text: str) -> bool:
    """Whether letters take their shape or their place from others: then each by itself would be wrong."""
    return any(
        unicodedata.bidirectional(c) in RIGHT_TO_LEFT
        or unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf")
        or any(first <= ord(c) <= last for first, last in JOINING)
        for c in text
    )


class _Layout:
    """Centred lines on their baselines, in pixels."""

    def __init__(self, lines: Sequence[Sequence[_Run]], cap_height: float) -> None:
        self.stroke = cap_height * BOLDER
        fonts: dict[tuple[Font, bool], ImageFont.FreeTypeFont] = {}
        self.lines: list[list[tuple[str, ImageFont.FreeTypeFont]]] = []
        for line in lines:
            sized = []
            for run in line:
                key = run.font, needs_shaping(run.text)
                if key not in fonts:
                    fonts[key] = run.font.of_cap_height(cap_height, shaped=key[1])
                sized.append((run.text, fonts[key]))
            self.lines.append(sized)
        self.pitch = max(sum(font.getmetrics()) for font in fonts.values())
        self.widths = [sum(font.getlength(text) for text, font in line) for line in self.lines]
        self.side = max(self.pitch * len(lines), *self.widths)

    def drawn(self) -> Plane:
        """Coverage [h, w] in [0, 1], with a narrow margin around the ink."""
        canvas = ImageDraw.Draw(Image.new("L", (1, 1)))
        places = list(self._places())
        boxes = np.array(
            [canvas.textbbox(at, text, font, anchor="ls", stroke_width=self.stroke) for at, text, font in places]
        )
        left, top = np.floor(boxes[:, :2].min(0))
        right, bottom = np.ceil(boxes[:, 2:].max(0))
        image = Image.new("L", (max(1, int(right - left)), max(1, int(bottom - top))))
        drawing = ImageDraw.Draw(image)
        for (x, y), text, font in places:
            drawing.text((x - left, y - top), text, 255, font, anchor="ls", stroke_width=self.stroke)
        inked = image.crop(image.getbbox() or (0, 0, 1, 1))
        return np.pad(np.asarray(inked, np.float32) / 255, math.ceil(self.stroke))

    def _places(self) -> Iterator[tuple[tuple[float, float], str, ImageFont.FreeTypeFont]]:
        for i, (line, width) in enumerate(zip(self.lines, self.widths, strict=True)):
            x = -width / 2
            for text, font in line:
                yield (x, i * self.pitch), text, font
                x += font.getlength(text)


def _distinct(text: str) -> list[str]:
    return sorted({character for character in text if not character.isspace()})


def _lacking(text: str, font: Font) -> list[str]:
    return [character for character in _distinct(text) if not font.has(character)]


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
