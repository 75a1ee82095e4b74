"""Which files and folders are archives of images, and what is written in their place."""

from collections.abc import Sequence
from pathlib import Path

from nullspace_cli.engine.data.archive import Archive
from nullspace_cli.engine.data.shards import SUFFIX as TAR
from nullspace_cli.engine.data.shards import headers, spelled
from nullspace_cli.engine.data.table_archive import TableArchive, require_table, saved_splits
from nullspace_cli.engine.data.tables import PARQUET, is_saved
from nullspace_cli.engine.data.tar_archive import TarArchive
from nullspace_cli.engine.errors import DataError
from nullspace_cli.engine.files.addresses import is_address
from nullspace_cli.engine.files.image_search import images_below
from nullspace_cli.engine.files.paths import exists, is_folder

ENDINGS = (TAR, PARQUET)
"""Of what is written."""


def ending_of(source: Path) -> str | None:
    """What that is called which is written in the place of an archive; None of what is none."""
    if source.suffix in ENDINGS:
        return source.suffix
    return PARQUET if not is_address(source) and is_saved(source) else None


def archives_at(name: Path) -> list[Path]:
    """The archives that a name stands for: one, a pattern of files, or a folder of them; none if it is no such name.

    A folder of archives is one that holds no images, with its folders. Those of `datasets` are taken, too: what
    `save_to_disk` wrote, and Parquet files as they lie on the Hub.

    Raises:
        DataError: there is no archive of a pattern, or a folder cannot be read.
    """
    if not is_folder(name):
        if name.suffix not in ENDINGS:
            return []
        return [name] if exists(name) else spelled(str(name))
    if not is_address(name) and (saved := [name] if is_saved(name) else saved_splits(name)):
        return saved
    if next(images_below(name), None) is not None:
        return []
    return [name / inner for inner in images_below(name, wanted=lambda file: file.endswith(ENDINGS))]


def open_archive(path: Path, columns: Sequence[str] = ()) -> Archive:
    """Find the images of an archive.

    Args:
        columns: which of the images that belong together are meant; none for the first ones.

    Raises:
        DataError: it cannot be read, or holds no images that are meant.
    """
    return TarArchive(path, columns) if path.suffix == TAR else TableArchive(path, columns)


def why_no_archive(path: Path) -> str | None:
    """Why an archive that was to be written earlier is none that is whole; None if it is, as all at an address are."""
    if is_address(path):
        return None
    try:
        if path.suffix == TAR:
            for _ in headers(path):
                pass
        else:
            require_table(path)
    except DataError as error:
        return f"{error.args[0]} It is left as it is: remove it, or use `overwrite=True`."
    return None
