"""Image files of folders: the one search, for data sets and for commands that are given folders."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nullspace_cli.engine.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")

FOREIGN = ("__MACOSX",)
"""Folders that archivers leave: what is in them looks like the images and is not."""


def images_below(folder: Path) -> Iterator[str]:
    """The names of all images below a folder, relative to it: its own, sorted, then those of its folders in order.

    Links are followed; one back to a folder above ends there. Names that start with a dot are left out.

    Raises:
        DataError: a folder cannot be listed.
    """
    # The folders that are still to be searched: name, and the real folders above and at it.
    rest: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]
    while rest:
        name, above = rest.pop()
        images, folders = contents(folder / name)
        yield from (f"{name}{image}" for image in images)
        for each in reversed(folders):
            path = folder / name / each
            # Of a link alone: it takes a look at every folder on the way. islink itself fails for no name.
            place = os.path.realpath(path) if os.path.islink(path) else f"{above[-1]}/{each}"  # noqa: PTH114
            if place not in above:
                rest.append((f"{name}{each}/", (*above, place)))


def contents(folder: Path) -> tuple[list[str], list[str]]:
    """The sorted names of a folder's images and of its folders. A million paths are slow to make: these are strings.

    Raises:
        DataError: it cannot be listed.
    """
    images, folders = [], []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith(".") or entry.name in FOREIGN:
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES):
                    images.append(entry.name)  # a dangling link too: reading it fails, which is better than to lack it
    except (OSError, ValueError) as error:
        name, why = (error.filename, error.strerror) if isinstance(error, OSError) else (folder, error)
        raise DataError(f"Cannot list {name}: {why}. Make it readable, or move it away.") from error
    return sorted(images), sorted(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, at the end of links; a link in a circle is an image if it is called one."""
    try:
        return entry.is_dir()
    except OSError:
        if entry.name.lower().endswith(SUFFIXES):
            return False
        raise


def without_results(
    names: Sequence[str], sources_of: Callable[[str], Sequence[str]], known: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Split the images of a folder into those to work on, and those that are results of work on others of them.

    Args:
        names: as of `images_below`.
        sources_of: given a file's name, the stems of the sources that it would be a result of.
        known: stems of sources that need not be there.
    """
    places = [os.path.split(name) for name in names]
    stems = {(folder, os.path.splitext(file)[0]) for folder, file in places}  # noqa: PTH122
    results = {
        name
        for name, (folder, file) in zip(names, places, strict=True)
        if any(stem in known or (folder, stem) in stems for stem in sources_of(file))
    }
    return [name for name in names if name not in results], [name for name in names if name in results]
