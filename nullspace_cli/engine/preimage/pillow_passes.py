"""The two passes by which Pillow resizes an image, and how each rounds.

Pillow resizes first the rows and then the columns (or, for tall images since Pillow 13, the reverse: they are looked at
transposed), and rounds and clips to 8 bits after each.
"""

import copy
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from nullspace_cli.engine.transforms.eval_transform import Geometry
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator

Levels = UInt8[NDArray[np.uint8], "H c W"]
View = UInt8[NDArray[np.uint8], "h c w"]
Plane = Float[NDArray[np.float32], "_ _ _"]
Window = tuple[slice, slice]
"""Rows and columns."""
Values = TypeVar("Values", NDArray[np.float32], NDArray[np.float64])


class Passes:
    """The resize and crop of one image size as PIL does it: two passes with rounding, and their exact coefficients.

    Only that part of the crop counts that lies on the image; padding is no concern of the image's pixels.

    Attributes:
        transposed: whether PIL resizes the columns first. Pictures and views are then given transposed: what is called
            rows here are the image's columns.
        window: the rows and columns of the whole picture that pictures given here are; of a `part` not all.
    """

    def __init__(self, view: ResizeOperator) -> None:
        self.transform, geometry = view.transform, view.geometry
        matrices = (view.rows.to_dense().numpy(), view.cols.to_dense().numpy())
        resized = geometry.resized[::-1]
        self.transposed = self._columns_first(geometry)
        order = (1, 0) if self.transposed else (0, 1)
        self._height, self._width = (resized[axis] for axis in order)
        (self._rows_kept, rows_seen), (self._cols_kept, cols_seen) = (geometry.overlaps[axis] for axis in order)
        self.rows: Float[NDArray[np.float64], "h H"] = matrices[order[0]][rows_seen]
        self.cols: Float[NDArray[np.float64], "w W"] = matrices[order[1]][cols_seen]
        self.row_windows, self.col_windows = _windows(self.rows), _windows(self.cols)
        self._size = self.rows.shape[1], self.cols.shape[1]
        self.window: Window = (slice(0, self._size[0]), slice(0, self._size[1]))

    def part(self, rows: slice, cols: slice) -> "Passes":
        """Of some of the view's values alone, and the window of pixels that these read."""
        part = copy.copy(self)
        down, across = hull(self.row_windows[rows]), hull(self.col_windows[cols])
        part.window = _within(self.window[0], down), _within(self.window[1], across)
        part.rows, part.cols = self.rows[rows, down], self.cols[cols, across]
        part.row_windows, part.col_windows = _windows(part.rows), _windows(part.cols)
        part._rows_kept, part._cols_kept = _within(self._rows_kept, rows), _within(self._cols_kept, cols)
        return part

    def _columns_first(self, geometry: Geometry) -> bool:
        """Ask PIL itself: the order changes how values are rounded, and with it the result."""
        (width, height), (resized_width, resized_height) = geometry.source, geometry.resized
        if width == resized_width or height == resized_height:
            return False
        noise = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
        rows_first = self.transform.resample(
            self.transform.resample(noise, (resized_width, height)), (resized_width, resized_height)
        )
        return not np.array_equal(rows_first, self.transform.resample(noise, geometry.resized))

    def first(self, pixels: Levels) -> UInt8[NDArray[np.uint8], "H c w"]:
        """The rows' pass."""
        whole = _framed(pixels, 2, self.window[1], self._size[1])
        return self._resample(whole, self._width, len(pixels))[..., self._cols_kept]

    def second(self, J: UInt8[NDArray[np.uint8], "H c w"]) -> View:
        """The columns' pass of what the rows' pass left."""
        whole = _framed(J, 0, self.window[0], self._size[0])
        return self._resample(whole, J.shape[2], self._height)[self._rows_kept]

    def __call__(self, pixels: Levels) -> View:
        return self.second(self.first(pixels))

    def _resample(self, pixels: UInt8[NDArray[np.uint8], "a c b"], width: int, height: int) -> NDArray[np.uint8]:
        image = pixels[:, 0] if pixels.shape[1] == 1 else pixels.swapaxes(1, 2)
        resampled = self.transform.resample(np.ascontiguousarray(image), (width, height))
        return resampled[:, None] if resampled.ndim == 2 else np.ascontiguousarray(resampled.swapaxes(1, 2))


def _windows(matrix: Float[NDArray[np.float64], "k K"]) -> list[slice]:
    """For each output the range of the entries that it reads."""
    used = matrix != 0
    first, last = used.argmax(1), used.shape[1] - used[:, ::-1].argmax(1)
    return [slice(int(a), int(b)) for a, b in zip(first, last, strict=True)]


def hull(windows: Sequence[slice]) -> slice:
    """What they and all between them take."""
    return slice(min(window.start for window in windows), max(window.stop for window in windows))


def _within(outer: slice, inner: slice) -> slice:
    """The slice that `inner` is of what `outer` leaves."""
    return slice(outer.start + inner.start, outer.start + inner.stop)


def _framed(part: NDArray[np.uint8], axis: int, place: slice, size: int) -> NDArray[np.uint8]:
    """A part of an axis at its place on the whole, where nothing else is read: so that PIL weighs it as there."""
    if part.shape[axis] == size:
        return part
    shape = list(part.shape)
    shape[axis] = size
    whole = np.zeros(shape, np.uint8)
    whole[(slice(None),) * axis + (place,)] = part
    return whole


def within_cell(error: Plane, level: NDArray[np.generic]) -> Plane:
    """An error that clipping to [0, 255] forgives counts as none."""
    return np.where(((level == 255) & (error > 0)) | ((level == 0) & (error < 0)), np.float32(0), error)


def to_level(value: Values) -> Values:
    """As PIL rounds and clips between its passes."""
    level: Values = np.floor(value + 0.5).clip(0, 255)
    return level
