"""Image files of folders: the one search, for data sets and for commands that are given folders."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nullspace_cli.engine.errors import DataError
from nullspace_cli.engine.files.addresses import is_address, names_below
from nullspace_cli.engine.files.image_opening import image_suffixes

FOREIGN = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"})
"""Folders of archivers and of systems: what is in them looks like the images and is not."""
_OF_SYSTEMS = frozenset({"thumbs.db", "desktop.ini"})
_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".download", ".swp", "~")


class PassedOver:
    """What a search of folders did not read, so that nothing is passed over in silence.

    Attributes:
        others: files that are no images by their names: how many, and the first ones.
        aside: hidden and temporary files, and files and folders of systems and archivers; the same.
    """

    def __init__(self) -> None:
        self.others: tuple[int, list[str]] = (0, [])
        self.aside: tuple[int, list[str]] = (0, [])

    def add(self, path: str, *, aside: bool) -> None:
        count, first = self.aside if aside else self.others
        found = (count + 1, [*first, path] if len(first) < 3 else first)
        if aside:
            self.aside = found
        else:
            self.others = found

    def __str__(self) -> str:
        """In words; empty if there is nothing."""
        kinds = (
            (self.others, "no image by its name", "no images by their names"),
            (self.aside, "hidden, temporary or another program's", "hidden, temporary or other programs'"),
        )
        return "; ".join(
            f"{count} {one if count == 1 else many} ({', '.join(first)}{', ...' if count > len(first) else ''})"
            for (count, first), one, many in kinds
            if count
        )


def is_image(name: str) -> bool:
    """Whether a file is one by its name."""
    return os.path.splitext(name)[1].lower() in image_suffixes()  # noqa: PTH122 - a path is slow to make


def images_below(
    folder: Path, passed_over: PassedOver | None = None, wanted: Callable[[str], bool] = is_image
) -> Iterator[str]:
    """The names of all images below a folder, relative to it: its own, sorted, then those of its folders in order.

    Links are followed; one back to a folder above ends there.

    Args:
        passed_over: is told of what is left out: names that start with a dot, and what is no image.
        wanted: what is looked for in place of images, by names of files.

    Raises:
        DataError: a folder cannot be listed.
    """
    if is_address(folder):
        for name in names_below(folder):
            aside = any(map(_is_aside, name.split("/")))
            if not aside and wanted(name):
                yield name
            elif passed_over is not None:
                passed_over.add(str(folder / name), aside=aside)
        return
    # The folders that are still to be searched: name, and the real folders above and at it.
    rest: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]
    while rest:
        name, above = rest.pop()
        images, folders = contents(folder / name, passed_over, wanted)
        yield from (f"{name}{image}" for image in images)
        for each in reversed(folders):
            path = folder / name / each
            # Of a link alone: it takes a look at every folder on the way. islink itself fails for no name.
            place = os.path.realpath(path) if os.path.islink(path) else f"{above[-1]}/{each}"  # noqa: PTH114
            if place not in above:
                rest.append((f"{name}{each}/", (*above, place)))


def contents(
    folder: Path, passed_over: PassedOver | None = None, wanted: Callable[[str], bool] = is_image
) -> tuple[list[str], list[str]]:
    """The sorted names of a folder's images and of its folders. A million paths are slow to make: these are strings.

    Args:
        passed_over, wanted: as of `images_below`.

    Raises:
        DataError: it cannot be listed.
    """
    images, folders = [], []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                aside = _is_aside(entry.name)
                if not aside and _is_folder(entry):
                    folders.append(entry.name)
                elif not aside and wanted(entry.name):
                    images.append(entry.name)  # a dangling link too: reading it fails, which is better than to lack it
                elif passed_over is not None:
                    passed_over.add(str(folder / entry.name), aside=aside)
    except (OSError, ValueError) as error:
        name, why = (error.filename, error.strerror) if isinstance(error, OSError) else (folder, error)
        raise DataError(f"Cannot list {name}: {why}. Make it readable, or move it away.") from error
    return sorted(images), sorted(folders)


def _is_aside(name: str) -> bool:
    folded = name.casefold()
    hidden = name.startswith((".", "~$")) or folded in _OF_SYSTEMS
    return hidden or name in FOREIGN or folded.endswith(_TEMPORARY)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, at the end of links; a link in a circle is an image if it is called one."""
    try:
        return entry.is_dir()
    except OSError:
        if is_image(entry.name):
            return False
        raise


def stems_of(places: Sequence[Path]) -> list[Path]:
    """What the results of images are called by: the place without its ending, where that is nobody else's, too.

    Of i.jpg and i.png in one folder it is the whole names, so that each has results of its own.
    """
    stems = [place.with_suffix("") for place in places]
    while True:
        shared = {stem for stem, count in Counter(stems).items() if count > 1}
        longer = [place if stem in shared else stem for place, stem in zip(places, stems, strict=True)]
        if longer == stems:
            return stems
        stems = longer


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
    # Where two have one stem, their results are called by the whole names.
    stems = {(folder, stem) for folder, file in places for stem in (file, os.path.splitext(file)[0])}  # noqa: PTH122
    results = {
        name
        for name, (folder, file) in zip(names, places, strict=True)
        if any(stem in known or (folder, stem) in stems for stem in sources_of(file))
    }
    return [name for name in names if name not in results], [name for name in names if name in results]
