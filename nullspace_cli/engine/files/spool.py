"""Data that a run has finished and writes at its end, kept on the disk meanwhile: memory stays as it is."""

import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.files.paths import reason_of


class Place(NamedTuple):
    """Where some data lie."""

    start: int
    length: int


class Spool:
    """A file without a name, which is gone with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: on whose disk the file is; not that for temporary files, which may be memory.

        Raises:
            ArtifactError: no file can be made there.
        """
        self._folder = folder
        self._open()

    def _open(self) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with this object
        except OSError as error:
            raise self._failed(error) from error
        self._close = weakref.finalize(self, self._file.close)
        self.size = 0

    def add(self, data: bytes) -> Place:
        """Put data at the end.

        Raises:
            ArtifactError: the disk is full, or fails.
        """
        try:
            self._file.seek(self.size)
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from error
        place = Place(self.size, len(data))
        self.size += len(data)
        return place

    def read(self, place: Place) -> bytes:
        self._file.seek(place.start)
        return self._file.read(place.length)

    def keep(self, places: Iterable[Place]) -> list[Place]:
        """Forget everything else, and give back its room; where what is kept lies from now on."""
        old, close = self._file, self._close
        self._open()
        moved = []
        for place in places:
            old.seek(place.start)
            moved.append(self.add(old.read(place.length)))
        close()
        return moved

    def _failed(self, error: OSError) -> ArtifactError:
        return ArtifactError(
            f"Cannot keep pictures in the folder {self._folder} until they are written: {reason_of(error)}. "
            f"Make room, or choose another folder."
        )
