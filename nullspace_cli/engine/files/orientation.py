"""Which way is up: the eight ways in which EXIF lets a file store its pixels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", NDArray[Any], "Tensor")


@dataclass(frozen=True)
class Orientation:
    """A turn between pixels as they are stored and upright, as the picture is to be seen.

    Attributes:
        value: EXIF's number, 1 to 8. From 5 on rows and columns are exchanged.
    """

    value: int = 1

    @property
    def transposed(self) -> bool:
        return self.value >= 5

    @property
    def flipped(self) -> list[bool]:
        """Whether rows, then columns, are reversed; after they have been exchanged."""
        return [self.value in (3, 4, 7, 8), self.value in (2, 3, 6, 7)]

    def upright(self, stored: Array, axes: tuple[int, int] = (0, 1)) -> Array:
        """What is to be seen of an array as it is stored; `axes` are its rows and columns."""
        turned: Array = stored.swapaxes(*axes) if self.transposed else stored
        return _reversed(turned, self._flips(axes))

    def stored(self, upright: Array, axes: tuple[int, int] = (0, 1)) -> Array:
        """The inverse of `upright`."""
        turned = _reversed(upright, self._flips(axes))
        back: Array = turned.swapaxes(*axes) if self.transposed else turned
        return back

    def _flips(self, axes: tuple[int, int]) -> list[int]:
        return [axis for axis, flipped in zip(axes, self.flipped, strict=True) if flipped]


UPRIGHT = Orientation()


def _reversed(array: Array, axes: list[int]) -> Array:
    if not axes:
        return array  # torch's flip would copy it
    if isinstance(array, np.ndarray):
        return np.flip(array, tuple(axes))
    return array.flip(axes)


def orientation_of(image: Image.Image) -> Orientation:
    """How a decoded image is to be turned, as Pillow finds it; what cannot be parsed says nothing."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow's, of metadata that may hold anything
        return UPRIGHT
    return Orientation(value) if value in range(1, 9) else UPRIGHT
