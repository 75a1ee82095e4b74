"""What readers make of a picture that changes by blocks of 8 x 8 pixels: their views, kept up to date block by block.

A block is read by few values of a view. What another block in its place would do to these, Pillow's two roundings
included, is worked out from the block alone; blocks so far apart that no value reads two of them are tried together.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from scipy.sparse import csr_array

from nullspace_cli.engine.files.orientation import UPRIGHT, Orientation
from nullspace_cli.engine.preimage.pillow_passes import Passes, View, to_level

SIDE = 8
_STEPS = np.arange(SIDE)
DCT: Float[NDArray[np.float64], "8 8"] = (
    np.where(_STEPS == 0, 0.5**0.5, 1)[:, None] * np.cos((2 * _STEPS + 1) * _STEPS[:, None] * np.pi / 16) / 2
)
"""The discrete cosine transform: the coefficients of a block p are DCT p DCT^T."""

EDGE = 0.4998
"""Levels off the middle of its cell from which on a value counts as wrong: exact halves are left alone."""

WRONG = 0.2
"""Levels that a wrong value costs besides those by which it is wrong."""

BEARABLE, DEAR = 2.0, 10.0
"""Levels off from which on each further one costs so many times what the first did."""

_FIXED_POINT = 2.0**22
"""Pillow multiplies 8-bit pixels by whole multiples of its inverse: so does this, and float64 sums them exactly."""

_ROWS = 256
"""Of pixels that are resized together: a whole picture would not fit into the cache as floats."""

COMFORT = 0.1
"""Levels from the edge of its cell that a value is to keep."""

Grid = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Blocks: their rows and their columns in the stored picture's grid."""
Plane = Float[NDArray[np.float64], "h w"]
Weights = Float[NDArray[np.float64], "N L 8"]


class BlockView:
    """One reader's view of a picture, [h, c, w], as it is before it is rounded for the last time.

    Pictures are given as they are stored; their view lies as `passes` has it, with its rows along the picture's
    columns where Pillow resizes these first, or where the reader turns the picture.

    Args:
        wanted: the view to be had.
        grid: the number of blocks down and across the stored picture.
        turn: how the reader turns the stored picture before it is resized.
    """

    def __init__(self, passes: Passes, wanted: View, grid: tuple[int, int], turn: Orientation = UPRIGHT) -> None:
        self.transposed = passes.transposed != turn.transposed
        rows, cols = (
            matrix[:, ::-1] if turn.flipped[axis != passes.transposed] else matrix
            for axis, matrix in enumerate((passes.rows, passes.cols))
        )
        down, across = grid[::-1] if self.transposed else grid
        self._rows, self._cols = _Axis(rows, down), _Axis(cols, across)
        self.wanted = wanted.astype(np.float64)

    @property
    def read(self) -> Bool[NDArray[np.bool_], "n m"]:
        """Which blocks are read at all."""
        return self._stored(np.logical_and.outer(self._rows.read, self._cols.read))

    @property
    def spacing(self) -> tuple[int, int]:
        """How far apart, down and across the stored grid, blocks share no value of the view."""
        down, across = self._rows.spacing, self._cols.spacing
        return (across, down) if self.transposed else (down, across)

    def see(self, pixels: UInt8[NDArray[np.uint8], "n m c 8 8"]) -> None:
        """Take up a whole picture anew."""
        blocks = pixels.transpose(1, 0, 2, 4, 3) if self.transposed else pixels
        n, m, c = blocks.shape[:3]
        lines = blocks.transpose(0, 3, 2, 1, 4).reshape(n * SIDE * c, m * SIDE)
        sums = [(self._cols.sparse @ lines[i : i + _ROWS].T.astype(np.float64)).T for i in range(0, len(lines), _ROWS)]
        self._sums = np.concatenate(sums).reshape(n * SIDE, c, -1)
        self.values = self._down(to_level(self._sums))

    def _down(self, first: Float[NDArray[np.float64], "H c w"]) -> Float[NDArray[np.float64], "h c w"]:
        """The second pass, unrounded."""
        values = np.asarray(self._rows.sparse @ first.reshape(len(first), -1))
        return values.reshape(-1, *first.shape[1:])

    def error(self) -> Float[NDArray[np.float64], "h c w"]:
        """How far values lie from the wanted ones; what clipping to [0, 255] forgives is none."""
        return self.values.clip(0, 255) - self.wanted

    def reads(self, blocks: Bool[NDArray[np.bool_], "n m"]) -> Bool[NDArray[np.bool_], "h w"]:
        """Which values read any of the blocks."""
        return (self._rows.reach > 0) @ self._stored(blocks) @ (self._cols.reach > 0).T

    def under(self, marked: Bool[NDArray[np.bool_], "h w"], share: float = 0.0) -> Bool[NDArray[np.bool_], "n m"]:
        """Which blocks a marked value reads; only such as have that share of it at least."""
        values, hit = np.argwhere(marked), np.zeros((len(self._rows.read), len(self._cols.read)), bool)
        for i, j in values:
            hit |= np.outer(self._rows.reach[i], self._cols.reach[j]) > share
        return self._stored(hit)

    def blame(self, off: float) -> Float[NDArray[np.float64], "n m"]:
        """How many values that are off by more each block has to answer for: of each, its share."""
        wrong = (np.abs(self.error()) > off).sum(1)
        return self._stored(self._rows.reach.T @ wrong @ self._cols.reach)

    def wish(self, free: Bool[NDArray[np.bool_], "n m"]) -> Plane:
        """How far the view of a plane that all channels follow lies from where it shall, as these blocks change.

        That is the middle of what all channels' cells allow. Where a value also reads blocks that cannot change, it
        would take much of the others to get there: it is moved no further than it must. The first pass is not rounded
        here: as soon as anything changes, it rounds otherwise.
        """
        low, high = room(self._down(self._sums).clip(0, 255) - self.wanted, 1)
        middle = (low + high) / 2
        least = np.clip(0, np.minimum(low + COMFORT, middle), np.maximum(high - COMFORT, middle))
        return -np.where(self.reads(~free), least, middle)

    def matrices(self, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The resize of the stored picture, down and across."""
        down, across = (axis.sparse.toarray() for axis in (self._rows, self._cols))
        return (across[:, :height], down[:, :width]) if self.transposed else (down[:, :height], across[:, :width])

    def oriented(self, field: NDArray[Any]) -> NDArray[Any]:
        """A field of the view, by the rows and columns of the stored picture."""
        return self._stored(field)

    def around(self, blocks: Grid) -> "Neighbourhood":
        """The values that each of the blocks is read by."""
        return Neighbourhood.of(self, *(blocks[::-1] if self.transposed else blocks))

    def _stored(self, grid: NDArray[Any]) -> NDArray[Any]:
        """A grid of blocks by the view's rows and columns from one by the picture's, or the reverse."""
        return grid.T if self.transposed else grid


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The values of a view that some blocks are read by, each block's own.

    Attributes:
        down, across: the weights of a block's lines in these values.
        down_modes, across_modes: the same of its cosine waves.
    """

    view: BlockView
    down: Weights
    across: Weights
    down_modes: Weights
    across_modes: Weights
    at: tuple[NDArray[np.intp], NDArray[np.intp]]
    lines: Int[NDArray[np.intp], "N 8"]

    @classmethod
    def of(cls, view: BlockView, ia: NDArray[np.intp], ib: NDArray[np.intp]) -> "Neighbourhood":
        rows, cols = view._rows, view._cols
        at = rows.outputs(ia), cols.outputs(ib)
        lines = ia[:, None] * SIDE + np.arange(SIDE)
        return cls(view, rows.weights[ia], cols.weights[ib], rows.modes[ia], cols.modes[ib], at, lines)

    def some(self, chosen: NDArray[np.intp]) -> "Neighbourhood":
        """Those of some of the blocks."""
        names = ("down", "across", "down_modes", "across_modes", "lines")
        at = self.at[0][chosen], self.at[1][chosen]
        return replace(self, at=at, **{name: getattr(self, name)[chosen] for name in names})

    @property
    def values_at(self) -> tuple[NDArray[np.intp], slice, NDArray[np.intp]]:
        return self.at[0][:, :, None], slice(None), self.at[1][:, None]

    @property
    def error(self) -> Float[NDArray[np.float64], "N L M c"]:
        """As of `BlockView.error`."""
        return self.view.values[self.values_at].clip(0, 255) - self.view.wanted[self.values_at]

    def grams(self) -> tuple[Float[NDArray[np.float64], "N 8 8"], Float[NDArray[np.float64], "N 8 8"]]:
        """The metric of the view on a block's coefficients: by what varies down the stored block, and across."""
        grams = tuple(modes.swapaxes(1, 2) @ modes for modes in (self.down_modes, self.across_modes))
        return (grams[1], grams[0]) if self.view.transposed else (grams[0], grams[1])

    def slopes(self, field: Float[NDArray[np.float64], "N L M"]) -> Float[NDArray[np.float64], "N 8 8"]:
        """The gradient of <field, view> by the coefficients of each block."""
        slopes = self.down_modes.swapaxes(1, 2) @ field @ self.across_modes
        return slopes.swapaxes(1, 2) if self.view.transposed else slopes

    def of_field(self, field: Plane) -> Float[NDArray[np.float64], "N L M"]:
        return field[self.at[0][:, :, None], self.at[1][:, None]]

    def move(self, field: Plane, change: Float[NDArray[np.float64], "N 8 8"]) -> None:
        """Add what a change of coefficients does to the view of one plane. No value may read two of the blocks."""
        own = change.swapaxes(1, 2) if self.view.transposed else change
        field[self.at[0][:, :, None], self.at[1][:, None]] += self.down_modes @ own @ self.across_modes.swapaxes(1, 2)

    def tried(self, change: Float[NDArray[np.floating], "N K c 8 8"]) -> "Trial":
        """What changes of the blocks' pixels would do, each block's by itself; as exact as they are given."""
        kind = change.dtype
        own = change.swapaxes(3, 4) if self.view.transposed else change
        N, K, c = own.shape[:3]
        across, down = self.across.astype(kind), self.down.astype(kind)
        moved = (own.reshape(N, K * c * SIDE, SIDE) @ across.swapaxes(1, 2)).reshape(N, K, c, SIDE, -1)
        sums = self.view._sums[self.lines[:, :, None], :, self.at[1][:, None]].transpose(0, 3, 1, 2)[:, None]
        step = to_level(sums.astype(kind) + moved)
        step -= to_level(sums.astype(kind))
        return Trial(moved, down[:, None, None] @ step)

    def cost(self, shift: Float[NDArray[np.floating], "N K c L M"] | None = None) -> Float[NDArray[np.float64], "N K"]:
        """By how much values lie outside their cells, how many do, and how far, summed over each block's own."""
        kind = np.dtype(np.float64) if shift is None else shift.dtype
        values = self.view.values[self.values_at].transpose(0, 3, 1, 2)[:, None].astype(kind)
        wanted = self.view.wanted[self.values_at].transpose(0, 3, 1, 2)[:, None].astype(kind)
        off = (values if shift is None else values + shift).clip(0, 255)
        off -= wanted
        np.abs(off, out=off)
        wrong = off > EDGE
        far = (off - BEARABLE).clip(0)
        off += WRONG - EDGE
        off *= wrong
        off += DEAR * far
        costs: Float[NDArray[np.float64], "N K"] = off.sum((2, 3, 4), dtype=np.float64)
        return costs

    def apply(self, trial: "Trial", which: NDArray[np.intp]) -> None:
        """Make one change of each block. No value may read two of them."""
        each = np.arange(len(which))
        at = self.lines[:, :, None], slice(None), self.at[1][:, None]
        self.view._sums[at] += trial.moved[each, which].transpose(0, 2, 3, 1)
        self.view.values[self.values_at] += trial.shift[each, which].transpose(0, 2, 3, 1)


@dataclass(frozen=True, eq=False)
class Trial:
    """What changes would do: to the sums before the first rounding, [N, K, c, 8, M], and to the view's values."""

    moved: NDArray[np.floating]
    shift: Float[NDArray[np.floating], "N K c L M"]

    def some(self, chosen: NDArray[np.intp]) -> "Trial":
        return Trial(self.moved[chosen], self.shift[chosen])


def room(error: NDArray[np.float64], channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far values may move down and up until the first channel's leaves its cell; crossed where one has left it.

    Args:
        channels: the axis that holds them.
    """
    return -0.5 - error.min(channels), 0.5 - error.max(channels)


class _Axis:
    """One axis of a resize by blocks: what each block of 8 entries does to the few outputs that read it.

    Attributes:
        reach: of each output, by blocks, the share of its weights.
    """

    def __init__(self, matrix: Float[NDArray[np.float64], "k K"], blocks: int) -> None:
        fixed = np.zeros((len(matrix), blocks * SIDE))
        fixed[:, : matrix.shape[1]] = np.rint(matrix * _FIXED_POINT) / _FIXED_POINT
        self.sparse = csr_array(fixed)
        by_block = fixed.reshape(len(fixed), blocks, SIDE)
        weights = np.abs(by_block).sum(2)
        self.reach = weights / weights.sum(1, keepdims=True)
        used = self.reach > 0
        self.read: Bool[NDArray[np.bool_], " blocks"] = used.any(0)
        first = np.where(self.read, used.argmax(0), 0)
        last = np.where(self.read, len(used) - used[::-1].argmax(0), 1)
        self._length = int((last - first).max())
        self._starts = np.minimum(first, len(fixed) - self._length)
        self.spacing = _spacing(self._starts[self.read], self._length)
        at = self._starts[:, None] + np.arange(self._length)
        self.weights: Weights = by_block[at, np.arange(blocks)[:, None]]
        self.modes: Weights = self.weights @ DCT.T

    def outputs(self, blocks: NDArray[np.intp]) -> Int[NDArray[np.intp], "N L"]:
        return self._starts[blocks][:, None] + np.arange(self._length)


def _spacing(starts: NDArray[np.intp], length: int) -> int:
    """The least p so that the windows of blocks i and i + p do not overlap."""
    return next((p for p in range(1, len(starts)) if (starts[p:] - starts[:-p] >= length).all()), max(1, len(starts)))
