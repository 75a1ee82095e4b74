"""Files that stand in for what is no file by itself, as a part of another, while that is worked on."""

import os
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from nullspace_cli.engine.files.addresses import fetch, is_address, with_both_slashes


@contextmanager
def stand_in_folder(called: str, names: MutableMapping[str, str]) -> Iterator[Path]:
    """A folder for files that stand in for those of another name, until the block ends.

    Args:
        called: the other folder, or whatever else the names of these files follow on.
        names: what the beginnings of names stand for; this one is among them meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="vitnull-", ignore_cleanup_errors=True) as folder:
        names[folder + os.sep] = f"{called}/"
        try:
            yield Path(folder)
        finally:
            del names[folder + os.sep]


@contextmanager
def at_hand(path: Path, names: MutableMapping[str, str]) -> Iterator[Path]:
    """A file on the disk: the one of this name, or a copy of what lies at this address, until the block ends.

    Raises:
        DataError: it cannot be fetched.
    """
    if not is_address(path):
        yield path
        return
    with stand_in_folder(str(path.parent), names) as folder:
        fetch(path, folder / path.name)
        yield folder / path.name


def by_known_names(text: str, names: Mapping[str, str]) -> str:
    """A text with the names that people know in place of those that stand in for them."""
    for name, known in list(names.items()):  # another thread may add to them
        text = text.replace(name, known)
    return with_both_slashes(text)
