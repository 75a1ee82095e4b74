"""What holds many images with what else belongs to them, and can be written anew with others in their place."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol


class Stored(NamedTuple):
    """An image of an archive.

    Attributes:
        place: where in the archive it lies; places grow.
        name: what it is called within, as a path whose ending says its format, where that is known.
        stem: what files are called that are made of it: no two images have one.
        content: its file.
    """

    place: int
    name: str
    stem: str
    content: bytes


class Rewriting(Protocol):
    """A file that is being written like an archive, from its first image to its last."""

    def put(self, place: int, image: Path | None, beside: Sequence[Path]) -> None:
        """Go on to the image at this place, and write what becomes of it.

        Args:
            image: the file that takes its place; None where it stays as it is.
            beside: files that belong to it from now on.

        Raises:
            DataError: there is one of that name already, or the archive cannot be read any more.
            OSError: it cannot be written.
        """
        ...


class Archive(Protocol):
    """Images in the order in which they lie in one file."""

    def __len__(self) -> int:
        """How many there are, at most."""
        ...

    @property
    def others(self) -> str:
        """Which images stay as they are, as "KEY.mask.png"; empty where there are none."""
        ...

    def images(self) -> Iterator[Stored]:
        """One after the other.

        Raises:
            DataError: it cannot be read any more.
        """
        ...

    def rewriting(self, file: Path, beside: Sequence[str]) -> AbstractContextManager[Rewriting]:
        """Write the archive anew; it is whole when the block ends well.

        Args:
            beside: what is behind the stems of all files that may be put beside an image.
        """
        ...
