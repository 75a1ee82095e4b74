"""What holds many images with what else belongs to them, and can be written anew with others in their place."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Rewriting(Protocol):
    """A file that is being written like an archive, from its first image to its last."""

    def put(self, index: int, image: Path | None, further: Sequence[Path]) -> None:
        """Go on to the image of this number, and write what becomes of it.

        Args:
            image: the file that takes its place; None where it stays as it is.
            further: files that belong to it from now on.

        Raises:
            DataError: there is one of that name already, or the archive cannot be read any more.
            OSError: it cannot be written.
        """
        ...


class Archive(Protocol):
    """Images in the order in which they lie in one file."""

    @property
    def names(self) -> Sequence[str]:
        """What they are called within, as paths, so that one that names a format ends with it."""
        ...

    @property
    def others(self) -> str:
        """Which images stay as they are, as "000.mask.png, ..."; empty where there are none."""
        ...

    def content(self, index: int) -> bytes:
        """An image's file.

        Raises:
            DataError: it cannot be read.
        """
        ...

    def rewriting(self, file: Path) -> AbstractContextManager[Rewriting]:
        """Write the archive anew; it is whole when the block ends well."""
        ...
