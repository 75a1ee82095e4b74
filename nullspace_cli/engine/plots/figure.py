"""What all figures share: how they are written, and colours."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axis import Axis, Tick
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from nullspace_cli.engine.files.writing import write_bytes
from nullspace_cli.engine.runtime.process import Shared
from nullspace_cli.engine.text import shortened, visible

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#888888"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours, told apart by the colour-blind; the first three in grey too."""


LETTER = 0.55
"""Width of a letter in units of the font's size, about: what is wider than the figure is shortened in the middle."""


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # The font lacks some scripts; what it draws in their place is a box, which says as much.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        yield


_QUIETLY = Shared(_quiet)


_STEADY: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "vitnull"}
"""Of an SVG, letters as such and names that do not change."""
_UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}
"""What would make equal figures differ, by format; others have nothing of the kind."""


def save_figure(path: Path, figure: Figure, *, force: bool = False) -> Path:
    """Write a figure in the format that the file's ending says, PNG where it has none.

    All texts are shown as they are. Names of models and classes may hold what matplotlib takes for formulas ($, ^, _),
    what is no character at all, or more than there is room for.
    """
    _show_texts(figure)
    buffer, format = BytesIO(), path.suffix.lower().removeprefix(".") or "png"
    with _QUIETLY, matplotlib.rc_context(_STEADY):
        figure.savefig(buffer, format=format, dpi=120, metadata=_UNDATED.get(format))
    return write_bytes(path, buffer.getvalue(), force=force)


def svg_of(figure: Figure) -> str:
    """A figure as the element of an HTML page, without a ground, its black in the colour of the text around it."""
    _show_texts(figure)
    buffer = StringIO()
    with _QUIETLY, matplotlib.rc_context(_STEADY):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_UNDATED["svg"])
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :].replace("#000000", "currentColor")


def _show_texts(figure: Figure) -> None:
    ticks = {text for tick in figure.findobj(Tick) for text in (tick.label1, tick.label2)}  # powers of ten are formulas
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in ticks:
            text.set_parse_math(False)
            known = text.get_text().encode("utf-8", "backslashreplace").decode()  # halves of characters are none
            lines = visible(known, lines=True).split("\n")
            room = figure.get_size_inches()[1 if text.get_rotation() == 90 else 0] * 72
            most = int(room / (LETTER * float(text.get_fontsize())))
            text.set_text("\n".join(shortened(line, most) for line in lines))


def plain_ticks(axis: Axis, values: Iterable[float]) -> None:
    """Ticks as people write numbers, on a logarithmic axis that may lie within one power of ten or over many."""
    shown = [value for value in values if value > 0]
    ratio = max(shown) / min(shown) if shown else 1.0
    narrow = bool(shown) and ratio < 30
    subs = (1, 3) if ratio < 1e4 else (1,)  # where powers of ten are left out, nothing between them is found at all
    axis.set_major_locator(MaxNLocator(5, min_n_ticks=3) if narrow else LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def shades(count: int) -> list[tuple[float, ...]]:
    """Colours of an ordered quantity, light to dark, whose order also shows in grey and to the colour-blind."""
    scale = matplotlib.colormaps["viridis_r"]
    return [tuple(scale(0.15 + 0.85 * i / max(1, count - 1))) for i in range(count)]
