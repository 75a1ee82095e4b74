"""Files that lie elsewhere, as s3://bucket/photo.jpg: whatever fsspec has a file system for.

They are read from copies on the disk, and what is written appears there once it is whole. A path has one slash where
an address has two: `s3:/bucket/photo.jpg`.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nullspace_cli.engine.errors import DataError, first_line

_ADDRESS = re.compile(r"([a-z][a-z0-9+]+):/{1,3}(.+)", re.DOTALL)
_IN_TEXT = re.compile(r"(?<![\w/.-])([a-z][a-z0-9+]+):/(?=[^/\s])")
"""An address that went through a path, within a text."""
_LOCAL = ("file", "local")


def is_address(path: Path | str) -> bool:
    """Whether a name is an address, and of no file here."""
    return _ADDRESS.fullmatch(str(path)) is not None


def with_both_slashes(text: str) -> str:
    """A text in which addresses are as people write them, with the slashes that a path has lost."""
    return _IN_TEXT.sub(lambda found: f"{found[1]}:{_slashes(found[1])}", text) if ":/" in text else text


def _slashes(scheme: str) -> str:
    """Behind two comes whose file it is; of one here, nobody's."""
    return "///" if scheme in _LOCAL else "//"


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        DataError: it cannot be looked up.
    """
    with _elsewhere(path) as (system, place):
        return bool(system.exists(place))


def is_folder_there(path: Path) -> bool:
    """Whether there is such a folder.

    Raises:
        DataError: it cannot be looked up.
    """
    with _elsewhere(path) as (system, place):
        return bool(system.isdir(place))


def names_below(folder: Path) -> list[str]:
    """The sorted names of all files below a folder, relative to it.

    Raises:
        DataError: it cannot be listed.
    """
    with _elsewhere(folder) as (system, place):
        start = place.rstrip("/") + "/"
        return sorted(name.removeprefix(start) for name in system.find(place))


def matching(pattern: str) -> list[Path]:
    """The sorted files that a pattern with wildcards stands for.

    Raises:
        DataError: they cannot be listed.
    """
    with _elsewhere(Path(pattern)) as (system, place):
        return sorted(Path(system.unstrip_protocol(name)) for name in system.glob(place))


def fetch(path: Path, file: Path) -> None:
    """Copy what lies elsewhere, a file or a folder, to the disk.

    Raises:
        DataError: it cannot be read.
    """
    with _elsewhere(path) as (system, place):
        folder = system.isdir(place)
        system.get(place.rstrip("/") + "/" if folder else place, f"{file}/" if folder else str(file), recursive=folder)


def deliver(file: Path, path: Path) -> None:
    """Copy a file from the disk; there it appears once it is whole.

    Raises:
        DataError: it cannot be written.
    """
    with _elsewhere(path, "write") as (system, place):
        try:
            _copy(file, system, place)
        except FileNotFoundError:  # where there are folders, this one may have to be made
            system.makedirs(system._parent(place), exist_ok=True)
            _copy(file, system, place)


def _copy(file: Path, system: Any, place: str) -> None:
    # The transaction is this thread's alone, as its file system is: fsspec has one for each.
    with system.transaction, file.open("rb") as source, system.open(place, "wb") as target:
        shutil.copyfileobj(source, target, 2**20)


@contextmanager
def _elsewhere(path: Path, doing: str = "read") -> Iterator[tuple[Any, str]]:
    """The file system of an address and what it calls the file; whatever goes wrong there becomes an error of ours."""
    match = _ADDRESS.fullmatch(str(path))
    if match is None:
        raise ValueError(f"{path} is no address")
    scheme, rest = match.groups()
    try:
        import fsspec.core
    except ImportError:
        raise DataError(f"{path} is read by fsspec, which is not here. Run pip install 'vitnull[data]'.") from None
    try:
        yield fsspec.core.url_to_fs(f"{scheme}:{_slashes(scheme)}{rest}")
    except FileNotFoundError as error:
        raise DataError(f"Cannot {doing} {path}: there is no such file. Check the name.") from error
    except ImportError as error:
        raise DataError(f"Cannot {doing} {path}: {first_line(error)}.") from error
    except Exception as error:
        raise DataError(
            f"Cannot {doing} {path}: {first_line(error)}. Check the address and who may {doing} it."
        ) from error
