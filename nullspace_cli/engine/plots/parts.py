"""Which part of a large picture is shown, each pixel as it is or by several."""

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

Pixels = UInt8[NDArray[np.uint8], "h w c"]


def most_changed(before: Pixels, after: Pixels, most: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns, at most `most` of them, where two pictures of one size differ most.

    The middle, where they are the same.
    """
    height, width = before.shape[:2]
    rows, columns = min(most[0], height), min(most[1], width)
    top, left = (height - rows) // 2, (width - columns) // 2
    if (rows, columns) != (height, width) and (
        change := np.abs(after.astype(np.int16) - before).sum(2, dtype=np.float32)
    ).any():
        means = uniform_filter(change, (rows, columns), mode="constant")
        # The mean at (i, j) is over the rows from i - rows // 2 on; those parts count that lie inside.
        inside = means[rows // 2 :, columns // 2 :][: height - rows + 1, : width - columns + 1]
        top, left = map(int, np.unravel_index(int(inside.argmax()), inside.shape))
    return slice(top, top + rows), slice(left, left + columns)
