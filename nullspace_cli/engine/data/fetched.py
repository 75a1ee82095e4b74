"""Data sets that lie elsewhere, copied to the disk for as long as they are read."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from nullspace_cli.engine.data.collection import Collection, Decoded
from nullspace_cli.engine.data.shards import SUFFIX, spelled
from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.addresses import fetch, with_both_slashes
from nullspace_cli.engine.files.two_readings import Reading


class Fetched:
    """A collection that is read from a copy, and named by the address that it was copied from: a `Collection`."""

    def __init__(self, address: str, open_copy: Callable[[str], Collection]) -> None:
        """Copy a data set, and open the copy.

        Raises:
            DataError: it cannot be copied, or is none.
        """
        path = Path(address)
        folder = tempfile.mkdtemp(prefix="vitnull-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        sources = spelled(address) if path.suffix == SUFFIX else [path]
        for source in sources:
            fetch(source, Path(folder, source.name))
        # Of a pattern the copies are the shards of the folder.
        copy = Path(folder, path.name) if sources == [path] else Path(folder)
        self._copy, self.name = str(copy), with_both_slashes(str(path))
        self._opened = open_copy(self._copy)
        self.labels: Sequence[int | None] = self._opened.labels
        self.classes = self._opened.classes

    def name_of(self, index: int) -> str:
        return self._called(self._opened.name_of(index))

    def decode(self, index: int, reading: Reading) -> Decoded:
        try:
            return self._opened.decode(index, reading)
        except ImageError as error:
            raise ImageError(self._called(str(error.args[0])), hint=error.hint) from error

    def stamp(self, index: int) -> tuple[str, int | str | None]:
        return self._opened.stamp(index)

    def file_of(self, index: int) -> Path | None:
        return None

    def _called(self, text: str) -> str:
        return text.replace(self._copy, self.name)
