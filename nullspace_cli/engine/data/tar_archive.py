"""A tar file with other images in the place of its own: WebDataset's shards, or folders that were packed.

Whatever else it holds is copied byte for byte, headers too, in the order in which it lies there.
"""

import copy
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nullspace_cli.engine.data.archive import Stored
from nullspace_cli.engine.data.shards import end_of, headers, is_hidden, key_of
from nullspace_cli.engine.errors import DataError
from nullspace_cli.engine.files.image_search import is_image, stems_of
from nullspace_cli.engine.files.paths import reason_of
from nullspace_cli.engine.files.reading import MIB

_OWN = frozenset({"path", "size"})
"""What the extended header of a member says of this one alone."""


class TarArchive:
    """Images of a tar file: an `Archive`.

    Of a WebDataset sample that is KEY.jpg (or another format), whatever else of it there is, as KEY.mask.png; in a
    tar file of nothing but images it is every one.
    """

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        """Find the images.

        Args:
            columns: what is behind the keys of those that are meant, as "mask.png"; none for the above.

        Raises:
            DataError: it is no tar file, is compressed or cut off; it holds no image, or none of `columns`; or images
                that are links, or whose names lead out of it.
        """
        self._path, everything = path, list(headers(path))
        self._names = {posixpath.normpath(entry.name) for entry in everything}
        self._end = end_of(everything[-1]) if everything else 0
        seen = [entry for entry in everything if not (entry.isdir() or is_hidden(entry.name))]
        images = [entry for entry in seen if is_image(entry.name)]
        if not images:
            raise DataError(f"{path} holds no images (.png, .jpg, .webp, ...).")
        for entry in images:
            _require_file(path, entry)
        self._images = _of_columns(path, images, columns) if columns else _shortest(images, packed=images == seen)
        others = sorted({_column(entry) for entry in images} - {_column(entry) for entry in self._images})
        self.others = ", ".join(f"KEY.{column}" for column in others)

    def __len__(self) -> int:
        return len(self._images)

    def images(self) -> Iterator[Stored]:
        names = [posixpath.normpath(entry.name) for entry in self._images]
        stems = stems_of([Path(name) for name in names])
        for place, (entry, name, stem) in enumerate(zip(self._images, names, stems, strict=True)):
            yield Stored(place, name, str(stem), self._content(entry))

    def _content(self, entry: tarfile.TarInfo) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(entry.offset_data)
                data = file.read(entry.size)
        except OSError as error:
            raise DataError(f"Cannot read {self._path}: {reason_of(error)}.") from error
        if len(data) < entry.size:
            raise DataError(f"Cannot read {self._path}: it has become shorter meanwhile.")
        return data

    @contextmanager
    def rewriting(self, file: Path, beside: Sequence[str]) -> Iterator["_Rewriting"]:
        with self._path.open("rb") as source, file.open("wb") as target:
            rewriting = _Rewriting(self._path, self._images, set(self._names), source, target)
            yield rewriting
            rewriting.copy(self._end)
            target.write(bytes(2 * tarfile.BLOCKSIZE))
            target.write(bytes(-target.tell() % tarfile.RECORDSIZE))


class _Rewriting:
    def __init__(
        self, path: Path, images: Sequence[tarfile.TarInfo], names: set[str], source: BinaryIO, target: BinaryIO
    ) -> None:
        self._path, self._images, self._names = path, images, names
        self._source, self._target = source, target

    def put(self, place: int, image: Path | None, beside: Sequence[Path]) -> None:
        entry = self._images[place]
        if image is None:
            self.copy(end_of(entry))
        else:
            self.copy(entry.offset)
            self._source.seek(end_of(entry))
            self._write(entry, image, replaces=True)
        for file in beside:
            self._write(entry, file, replaces=False)

    def copy(self, end: int) -> None:
        """What lies between here and there, as it is."""
        while (left := end - self._source.tell()) > 0:
            try:
                data = self._source.read(min(left, MIB))
            except OSError as error:
                raise DataError(f"Cannot read {self._path}: {reason_of(error)}.") from error
            if not data:
                raise DataError(f"Cannot read {self._path}: it has become shorter meanwhile.")
            self._target.write(data)

    def _write(self, like: tarfile.TarInfo, file: Path, *, replaces: bool) -> None:
        """A file beside that of an image, and with all else that the archive says of that."""
        header = copy.copy(like)
        header.name, header.size = posixpath.join(posixpath.dirname(like.name), file.name), file.stat().st_size
        name, old = posixpath.normpath(header.name), posixpath.normpath(like.name)
        if name in self._names and not (replaces and name == old):
            raise DataError(
                f"{self._path} holds {name} already, and there would be two of that name. Take it out, or name another "
                "`column`."
            )
        self._names.add(name)
        header.pax_headers = {key: value for key, value in like.pax_headers.items() if key not in _OWN}
        self._target.write(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        with file.open("rb") as content:
            while data := content.read(MIB):
                self._target.write(data)
        self._target.write(bytes(-header.size % tarfile.BLOCKSIZE))


def _column(entry: tarfile.TarInfo) -> str:
    """What WebDataset calls the member of a sample: what is behind the key and its dot."""
    return entry.name.removeprefix(key_of(entry.name))[1:]


def _require_file(path: Path, entry: tarfile.TarInfo) -> None:
    if not entry.isfile():
        raise DataError(
            f"{path} holds {entry.name}, which is no file but a link or a device. Pack it anew with --dereference "
            "--hard-dereference."
        )
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        raise DataError(f"{path} holds {entry.name}, a name that leads out of it. Pack it anew from within its folder.")


def _of_columns(path: Path, images: Sequence[tarfile.TarInfo], columns: Sequence[str]) -> list[tarfile.TarInfo]:
    there = {_column(entry) for entry in images}
    if missing := [column for column in columns if column not in there]:
        found = ", ".join(f"KEY.{column}" for column in sorted(there))
        raise DataError(f"{path} holds no images KEY.{missing[0]}. It has {found}.")
    return [entry for entry in images if _column(entry) in columns]


def _shortest(images: Sequence[tarfile.TarInfo], *, packed: bool) -> list[tarfile.TarInfo]:
    """Those of each sample that have the fewest dots in their names; of a folder that was `packed`, all."""
    if packed:
        return list(images)
    fewest: dict[str, int] = {}
    for entry in images:
        key, dots = key_of(entry.name), entry.name.count(".")
        fewest[key] = min(dots, fewest.get(key, dots))
    return [entry for entry in images if entry.name.count(".") == fewest[key_of(entry.name)]]
