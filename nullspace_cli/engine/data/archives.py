"""Which files and folders are archives of images, and what is written in their place."""

from collections.abc import Sequence
from pathlib import Path

from nullspace_cli.engine.data.archive import Archive
from nullspace_cli.engine.data.shards import SUFFIX as TAR
from nullspace_cli.engine.data.shards import headers, only_shards, spelled
from nullspace_cli.engine.data.tar_archive import TarArchive
from nullspace_cli.engine.errors import DataError
from nullspace_cli.engine.files.paths import exists, is_folder

ENDINGS = (TAR,)
"""Of what is written."""


def ending_of(source: Path) -> str | None:
    """What that is called which is written in the place of an archive; None of what is none by its name."""
    return source.suffix if source.suffix in ENDINGS else None


def archives_at(name: Path) -> list[Path]:
    """The archives that a name stands for: a file, a pattern of files, or a folder of them; none if it is no such name.

    Raises:
        DataError: there is no archive of a pattern.
    """
    if is_folder(name):
        return only_shards(name)
    if name.suffix not in ENDINGS:
        return []
    return [name] if exists(name) else spelled(str(name))


def open_archive(path: Path, columns: Sequence[str] = ()) -> Archive:
    """Find the images of an archive.

    Args:
        columns: which of the images that belong together are meant; none for the first ones.

    Raises:
        DataError: it cannot be read, or holds no images that are meant.
    """
    return TarArchive(path, columns)


def why_no_archive(path: Path) -> str | None:
    """Why an archive that was to be written earlier is none that is whole; None if it is."""
    try:
        for _ in headers(path):
            pass
    except DataError as error:
        return f"{error.args[0]} It is left as it is: remove it, or use `overwrite=True`."
    return None
