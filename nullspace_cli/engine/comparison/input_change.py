"""By how much what a reader is given of two files differs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.files.two_readings import READINGS, Reading

Pixels = UInt8[NDArray[Any], "H W 3"]
Seen = UInt8[NDArray[Any], "h w c"]

ROWS = 256
"""Rows that are compared at a time: what is compared may be a whole photo."""


class InputChange(NamedTuple):
    """Of 8-bit values: the share that differs, the root mean square of the difference and the largest, in levels."""

    changed: float
    rms: float
    largest: int


def keyed(change: InputChange | None) -> dict[str, float | int | None]:
    """A change by the keys of JSON documents."""
    changed, rms, largest = change or (None, None, None)
    return {"input_pixels_changed": changed, "rms": rms, "max": largest}


def change_between(before: Seen, after: Seen) -> InputChange:
    """The change of each value; the arrays have one shape."""
    count, total, largest = 0, 0, 0
    for top in range(0, len(before), ROWS):
        change = np.abs(before[top : top + ROWS].astype(np.int16) - after[top : top + ROWS])
        count += int(np.count_nonzero(change))
        total += int(np.square(change, dtype=np.int64).sum())
        largest = max(largest, int(change.max()))
    return InputChange(count / before.size, float(np.sqrt(total / before.size)), largest)


def inputs_of(read: Callable[[Pixels], Seen], source: Picture, result: Picture) -> tuple[Seen, Seen]:
    """What a reader is given of two pictures, each by its own reading."""
    return read(source.pixels), read(result.pixels)


def by_readings(
    read: Callable[[Pixels], Seen], source: Picture, result: Picture, own: tuple[Seen, Seen] | None = None
) -> dict[Reading, InputChange | None]:
    """The change of a reader's input by both readings of the files; None where one cannot be had.

    Args:
        own: as of `inputs_of`, if it is there already.
    """
    changes: dict[Reading, InputChange | None] = dict.fromkeys(
        READINGS, change_between(*(own or inputs_of(read, source, result)))
    )
    if source.difference is not None or result.difference is not None:
        (other,) = (reading for reading in READINGS if reading != source.reading)
        try:
            changes[other] = change_between(*inputs_of(read, source.read_as(other), result.read_as(other)))
        except ImageError:  # how it is to be shown is unknown: no figure
            changes[other] = None
    return changes
