"""What a data set is read from: a folder, an archive, a table, the demo's drawings, tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from numpy.typing import NDArray

from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.files.two_readings import Reading

Split = Literal["train", "val"]


class Decoded(NamedTuple):
    """An image: pixels [H, W, 3], uint8 or float32 in [0, 1], and what `Picture` says of its file.

    `fitted` are pixels that are the model's input already, whatever its transform.
    """

    pixels: NDArray[Any]
    notices: tuple[str, ...] = ()
    difference: str | None = None
    fitted: bool = False

    @classmethod
    def of(cls, picture: Picture) -> "Decoded":
        return cls(picture.pixels, picture.notices, picture.difference)


class Collection(Protocol):
    """Images in an order of their own; threads may read from it at the same time."""

    @property
    def name(self) -> str:
        """Where it is, for people."""
        ...

    @property
    def labels(self) -> Sequence[int | None]:
        """The index of each image's class, None where it is not known."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the labels; None where no image has one."""
        ...

    def name_of(self, index: int) -> str:
        """The name of an image that need not be readable."""
        ...

    def decode(self, index: int, reading: Reading) -> Decoded:
        """Read an image.

        Raises:
            ImageError: it cannot be read.
        """
        ...

    def stamp(self, index: int) -> tuple[str, int | str | None]:
        """What tells an image apart though it is not read: its name within, and its size in bytes.

        Raises:
            DataError: it is gone.
        """
        ...

    def file_of(self, index: int) -> Path | None:
        """The file that it is read from."""
        ...


def numbered(words: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Labels for the names of classes, by the names' order as torchvision's ImageFolder has it; and these names."""
    names = tuple(sorted(set(words)))
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers[word] for word in words], names


def names_of_indices(labels: Sequence[int]) -> tuple[str, ...]:
    """Of classes that have no names: their indices, up to the largest label."""
    return tuple(map(str, range(max(labels, default=-1) + 1)))
