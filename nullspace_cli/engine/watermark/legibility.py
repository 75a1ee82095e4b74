"""Whether people can see a mark: how much of it stands out from the picture, at full size and in a thumbnail.

In luminance, cell by cell: the mark's contrast is the part of the change that follows the wanted one, in levels rms,

    contrast = max(0, <z - x, t - x>) / (||t - x|| sqrt(n)),

and its background is all else that the cell shows, by its standard deviation. The mark is where it would be drawn on
mid-grey, whatever there is room for on this picture, so that one over plain white is seen to be missing.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.watermark.result import Pixels, Plane, Watermarked

CELLS, LEAST_CELL = 64, 8
"""Cells to the shorter side of a picture, of so many pixels at least: as the lines of a hatch grow with the picture, a
cell holds two of them or more."""

INKED = 0.3
"""Share of the largest contrast of any cell on mid-grey, from which on one belongs to the mark."""

STANDS_OUT = 0.5
"""Contrast over that of the background from which on a cell is seen."""

BARELY_SEEN = 3.0
"""Levels rms: fainter ones are not seen even on plain ground."""

LEGIBLE = 0.7
"""Share of the mark that must be seen for people to read it. This and the others are by eye, from marks of many
strengths on photos, on pages of text, and on plain ground."""

SAMPLED = 1 << 22
"""Pixels of the mark's box that are measured: of a larger one, every second, third, ... row of cells."""

LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)

SUPPORT = 7
"""Pixels on either side that Lanczos may read for half the size."""

STRIP = 1024
"""Rows of a thumbnail that are made at once: for a whole one Pillow needs twice the picture's memory."""

Box = tuple[slice, slice]
Row = Float32[NDArray[np.float32], "cell width"]
"""A row of cells."""


class Legibility(NamedTuple):
    """The share of a mark's area that is seen.

    Attributes:
        full: with each pixel of the picture shown as one.
        half: scaled to half its sides, by Lanczos. The hatch of a picture that is not much larger than the model's
            input is too fine for that.
    """

    full: float
    half: float


def legibility(result: Watermarked) -> Legibility:
    """How much of the mark is seen in a result."""
    drawn = result.drawn()
    box = _inked(drawn)
    if box is None:
        return Legibility(0.0, 0.0)
    pictures = [picture[box] for picture in (result.source, result.wanted, result.pixels)]
    cell = max(LEAST_CELL, min(drawn.shape) // CELLS)
    *halves, drawn_half = (_halved(image, box) for image in (result.source, result.wanted, result.pixels, drawn))
    return Legibility(_share(pictures, drawn[box], cell), _share(halves, drawn_half, max(LEAST_CELL, cell // 2)))


def _share(pictures: Sequence[Pixels], drawn: Plane, cell: int) -> float:
    """Of the cells of the mark, the share that is seen."""
    cell = min(cell, *drawn.shape)
    height, width = (side // cell * cell for side in drawn.shape)
    step = cell * math.ceil(height * width / SAMPLED)
    rows = [(slice(top, top + cell), slice(width)) for top in range(0, height, step)]
    ink = np.stack([np.sqrt(_means(drawn[row] ** 2)) for row in rows])
    seen = np.stack([_seen(*(_luminance(picture[row]) for picture in pictures)) for row in rows])
    return float(seen[ink >= INKED * ink.max()].mean())


def _seen(source: Row, wanted: Row, pixels: Row) -> Bool[NDArray[np.bool_], " cells"]:
    wish = wanted - source
    power = _means(wish**2)
    along = _means((pixels - source) * wish).clip(0) / power.clip(1e-6)
    rest = pixels - along.repeat(len(wish)) * wish
    background = np.sqrt((_means(rest**2) - _means(rest) ** 2).clip(0))
    contrast = along * np.sqrt(power)
    return (contrast >= BARELY_SEEN) & (contrast >= STANDS_OUT * background)


def _means(row: Row) -> Float32[NDArray[np.float32], " cells"]:
    """Of each square of a row of them."""
    return row.mean(0).reshape(-1, len(row)).mean(1)


def _luminance(row: UInt8[NDArray[np.uint8], "cell width 3"]) -> Row:
    return row.astype(np.float32) @ LUMINANCE


def _halved(image: Shaped[NDArray[Any], "H W *c"], box: Box) -> Shaped[NDArray[Any], "h w *c"]:
    """The box of an image at half the size, as it is in the whole."""
    (top, bottom), (left, right) = ((side.start, side.stop) for side in box)
    height, width = max(1, (bottom - top) // 2), max(1, (right - left) // 2)
    first, down = max(0, left - SUPPORT), (bottom - top) / height
    strips = []
    for start in range(0, height, STRIP):
        stop = min(start + STRIP, height)
        y0, y1 = top + start * down, top + stop * down
        above = max(0, math.floor(y0) - SUPPORT)
        part = Image.fromarray(image[above : math.ceil(y1) + SUPPORT, first : right + SUPPORT])
        inner = (left - first, y0 - above, right - first, y1 - above)
        strips.append(np.asarray(part.resize((width, stop - start), Image.Resampling.LANCZOS, inner)))
    return np.concatenate(strips)


def _inked(drawn: Plane) -> Box | None:
    """The rows and columns that hold all of the mark; None where there is none."""
    rows, columns = (np.flatnonzero((np.abs(drawn) >= 1 / 255).any(axis)) for axis in (1, 0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None
