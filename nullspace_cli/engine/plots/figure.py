"""What all figures share: how they are written, and colours."""

from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from nullspace_cli.engine.artifacts import write_bytes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#888888"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours, told apart by the colour-blind; the first three in grey too."""


def save_figure(path: Path, figure: Figure, *, force: bool = False) -> Path:
    """Write a figure as PNG, without the creation data that would make equal figures differ."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return write_bytes(path, buffer.getvalue(), force=force)


def shades(count: int) -> list[tuple[float, ...]]:
    """Colours of an ordered quantity, light to dark, whose order also shows in grey and to the colour-blind."""
    scale = matplotlib.colormaps["viridis_r"]
    return [tuple(scale(0.15 + 0.85 * i / max(1, count - 1))) for i in range(count)]
