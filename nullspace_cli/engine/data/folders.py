"""Data sets that are folders of image files: class folders, splits above them, or one flat folder."""

from collections.abc import Sequence
from pathlib import Path

from nullspace_cli.engine.data.collection import Decoded, Split
from nullspace_cli.engine.errors import DataError
from nullspace_cli.engine.files.image_search import PassedOver, contents, images_below
from nullspace_cli.engine.files.paths import is_folder, reason_of
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.files.two_readings import Reading

SPLITS: tuple[Split, ...] = ("train", "val")


class Folder:
    """Image files of a folder: a `Collection`.

    Args:
        files: their names within it, and labels.
    """

    def __init__(
        self, root: Path, files: Sequence[tuple[str, int | None]], classes: tuple[str, ...] | None = None
    ) -> None:
        self.name, self._root, self._files = str(root), root, [name for name, _ in files]
        self.labels, self.classes = [label for _, label in files], classes

    def name_of(self, index: int) -> str:
        return str(self.file_of(index))

    def decode(self, index: int, reading: Reading) -> Decoded:
        return Decoded.of(read_picture(self.file_of(index), reading))

    def stamp(self, index: int) -> tuple[str, int]:
        path = self.file_of(index)
        try:
            return self._files[index], path.stat().st_size
        except OSError as error:
            raise DataError(f"Cannot read {path}: {reason_of(error)}. Put it back, or remove it.") from error

    def file_of(self, index: int) -> Path:
        return self._root / self._files[index]


def open_folder(root: Path, split: Split, passed_over: PassedOver) -> Folder:
    """Find the images, sorted by name, those of inner folders last.

    Links are followed. Other than in torchvision's ImageFolder, names that start with a dot are left out, as are
    temporary files and what systems and archivers leave.

    train/ and val/ are its splits where no other folder holds images, but for test/ and the like. Among other folders
    of images, one of that name is a class, as VOC's trains are.

    Args:
        passed_over: is told of what is left out.

    Raises:
        DataError: the folder cannot be read, it lacks the split, it holds no image, it holds both images and folders
            of images, or whether its folders are splits or classes cannot be told.
    """
    if _has_splits(root):
        if not is_folder(root / split):
            raise DataError(f"{root} has no folder {split}/. Add it, or name the folder with the images itself.")
        root = root / split
    return _image_folder(root, passed_over)


SPLIT_WORDS = frozenset({*SPLITS, "training", "valid", "validation", "test", "testing", "dev"})
"""What folders of splits are called, in any case; no classes, where there are no others."""


def _has_splits(root: Path) -> bool:
    """Whether the folders of a data set are splits, not classes."""
    images, folders = contents(root)
    words = [folder for folder in folders if folder.casefold() in SPLIT_WORDS]
    if not words:
        return False
    words, others = (
        [folder for folder in folders if (folder in words) == is_word and _holds_images(root / folder)]
        for is_word in (True, False)
    )
    named = [folder for folder in words if folder in SPLITS]
    if not others and (len(named) == 2 or not images):
        if words and not named:
            raise DataError(
                f"{_listed(words)} of {root} look like splits.", hint=f"Name one of them: `data={root / words[0]}`."
            )
        return bool(named) or any(folder in SPLITS for folder in folders)
    if not named:
        return False
    # A class folder among class folders holds its images itself, as they do. Two that are called so, or one that holds
    # folders, are rather splits with something beside them.
    alike = all(contents(root / folder)[0] for folder in (*named, *others))
    if len(words) == 1 and len(others) >= 2 and alike and not images:
        return False
    beside = f"the folder {others[0]}" if others else f"the image {images[0]}"
    raise DataError(
        f"Whether {_listed(named)} of {root} {'is a split or a class' if len(named) == 1 else 'are splits or classes'} "
        f"cannot be told: beside it is {beside}.",
        hint=f"For a split name it, `data={root / named[0]}`; or move the class folders below a folder "
        f"{root / 'val'} of their own.",
    )


def _holds_images(folder: Path) -> bool:
    return next(images_below(folder), None) is not None


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"{name}/" for name in names)


def _image_folder(root: Path, passed_over: PassedOver) -> Folder:
    images, folders = contents(root, passed_over)
    if images:
        if mixed := next((folder for folder in folders if _holds_images(root / folder)), None):
            raise DataError(
                f"{root} holds images, as {images[0]}, and folders of images, as {mixed}. Move the ones or the others "
                "away: DATA is a flat folder of images, or a folder of class folders."
            )
        return Folder(root, [(name, None) for name in images])
    entries: list[tuple[str, int | None]] = [
        (f"{folder}/{name}", label)
        for label, folder in enumerate(folders)
        for name in images_below(root / folder, passed_over)
    ]
    if not entries:
        found = f" Found were {passed_over}." if str(passed_over) else ""
        raise DataError(f"{root} holds no images (.png, .jpg, .tif, ...), nor do its folders.{found}")
    return Folder(root, entries, tuple(folders))
