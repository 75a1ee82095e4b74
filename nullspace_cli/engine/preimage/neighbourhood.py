"""The pixels under one value of a picture's view, or some, and all values that read any of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from nullspace_cli.engine.preimage.pillow_passes import Passes, Window, hull, to_level
from nullspace_cli.engine.preimage.problem import Bounds

CELL = 0.49
"""How far from a level a value may lie to be rounded to it for sure: Pillow computes with whole numbers."""


@dataclass
class Neighbourhood:
    """Pixels of one channel, `levels` [K, L], and the values that read any of them.

    Attributes:
        lower, upper: what the levels may be [K, L].
        A, B: coefficients of these values for the rows [m, K] and the columns [n, L].
        V: the values [m, n]; S: what the first pass makes of the rows, before it is rounded [K, n].
        wanted: what the values are to be [m, n].
        whole: which values read these pixels alone [m, n].
    """

    levels: NDArray[np.int64]
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    A: NDArray[np.float64]
    B: NDArray[np.float64]
    V: NDArray[np.float64]
    S: NDArray[np.float64]
    wanted: NDArray[np.uint8]
    whole: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        passes: Passes,
        plane: UInt8[NDArray[np.uint8], "H W"],
        under: Window,
        wanted: UInt8[NDArray[np.uint8], "h w"],
        bounds: Bounds,
    ) -> "Neighbourhood":
        """Those of a window of pixels."""
        (rows_hit, A, rows_whole), (cols_hit, B, cols_whole) = (
            _touched(matrix, window) for matrix, window in zip((passes.rows, passes.cols), under, strict=True)
        )
        levels = plane[under].astype(int)
        lower, upper = (np.broadcast_to(b if isinstance(b, int) else b[under], levels.shape) for b in bounds)
        around = _reach(passes.rows[rows_hit])
        sums = plane[around] @ passes.cols[cols_hit].T
        return cls(
            levels,
            lower.astype(int),
            upper.astype(int),
            A,
            B,
            passes.rows[rows_hit, around] @ to_level(sums),
            sums[under[0].start - around.start : under[0].stop - around.start],
            wanted[rows_hit, cols_hit],
            np.logical_and.outer(rows_whole, cols_whole),
        )

    @property
    def cost(self) -> float:
        return float(excess(self.V, self.wanted).sum())


def window_of(passes: Passes, i: int, j: int, further: int) -> Window:
    """The pixels under view value (i, j) and `further` ones on all sides."""
    near = (slice(max(place - further, 0), place + further + 1) for place in (i, j))
    rows, columns = (
        hull(windows[some]) for windows, some in zip((passes.row_windows, passes.col_windows), near, strict=True)
    )
    return rows, columns


def excess(value: NDArray[np.float64], level: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far values lie outside their rounding cells, or nearly so."""
    off = value.clip(0, 255)  # a new array; the rest is done in it, as a search asks for hundreds of pictures at once
    off -= level
    np.abs(off, out=off)
    off -= CELL
    return np.maximum(off, 0, out=off)


def _reach(matrix: Float[NDArray[np.float64], "k K"]) -> slice:
    """The range of the entries that any of the outputs reads."""
    used = np.nonzero((matrix != 0).any(0))[0]
    return slice(int(used[0]), int(used[-1]) + 1)


def _touched(
    matrix: Float[NDArray[np.float64], "k K"], window: slice
) -> tuple[slice, Float[NDArray[np.float64], "m n"], Bool[NDArray[np.bool_], " m"]]:
    """The outputs that read any entry of a window, their coefficients there, and which read nothing else."""
    outputs = _reach(matrix[:, window].T)
    inside = matrix[outputs, window]
    return outputs, inside, (inside != 0).sum(1) == (matrix[outputs] != 0).sum(1)
