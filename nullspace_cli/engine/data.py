"""Data sets: folders of images, or the embedded demo's drawings, as one list of samples."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.engine.errors import DataError
from nullspace_cli.engine.images import read_picture

Split = Literal["train", "val"]
DEMO_COUNTS: dict[Split, int] = {"train": 2000, "val": 500}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Sample:
    """One image of a data set: uint8 RGB pixels [H, W, 3], and the index of its class where the set is labelled."""

    name: str
    pixels: NDArray[np.uint8]
    label: int | None


class ImageSet(Sequence[Sample]):
    """A data set whose images are decoded (or drawn) when they are asked for.

    Attributes:
        name: the folder that the images' names start from; or "demo/train", "demo/val".
        classes: class names in the order of their labels; None for a flat folder.
    """

    def __init__(
        self, name: str, entries: Sequence[tuple[str | int, int | None]], classes: tuple[str, ...] | None
    ) -> None:
        """`entries` holds a file's name within the folder, or a drawing's number, and the label of each image."""
        self.name, self.classes, self._entries = name, classes, entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageSet": ...
    def __getitem__(self, index: int | slice) -> "Sample | ImageSet":
        if isinstance(index, slice):
            return ImageSet(self.name, self._entries[index], self.classes)
        source, label = self._entries[index]
        if isinstance(source, str):
            pixels = read_picture(Path(self.name, source)).pixels
        else:
            pixels, _ = draw(self.name.removeprefix("demo/"), source)
        return Sample(self.name_of(index), pixels, label)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Sequence[int]) -> "ImageSet":
        """Some of the images, in the order of `indices`."""
        return ImageSet(self.name, [self._entries[index] for index in indices], self.classes)

    def name_of(self, index: int) -> str:
        """The name of an image that need not be readable: its path, or "demo/val/00013"."""
        source, _ = self._entries[index]
        return str(Path(self.name, source)) if isinstance(source, str) else f"{self.name}/{source:05d}"

    def files(self) -> Iterator[Path]:
        """The files that the images are read from."""
        return (Path(self.name, source) for source, _ in self._entries if isinstance(source, str))

    def fingerprint(self) -> str:
        """sha256 over the names of the classes, and the images' names within the folder, labels and sizes in bytes.

        Equal for a copy of the folder elsewhere. No image is read, so that one edited to the very same size is missed.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for index, (source, label) in enumerate(self._entries):
            stamp = [source, label, self._size(source)] if isinstance(source, str) else [self.name_of(index), label]
            digest.update(json.dumps(stamp).encode())
        return digest.hexdigest()

    def _size(self, file: str) -> int:
        path = Path(self.name, file)
        try:
            return path.stat().st_size
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror or error}. Put it back, or remove it.") from error


def open_data(data: str, split: Split = "val") -> ImageSet:
    """Find the images of a data set, sorted by name, those of inner folders last; none is decoded yet.

    Links are followed. Other than in torchvision's ImageFolder, names that start with a dot are left out.

    Args:
        data: a folder of class folders, which may hold further folders, with or without train/ and val/ above them;
            a flat folder of images; or "demo".
        split: which of train/ and val/, where the data has them.

    Raises:
        DataError: there is no such folder, it cannot be read, it lacks the split, it holds no image, or it holds both
            images and folders of images.
    """
    if data == "demo":
        return ImageSet(f"demo/{split}", [(i, i % len(CLASSES)) for i in range(DEMO_COUNTS[split])], CLASSES)
    root = Path(data)
    if not root.is_dir():
        found = f"{root} is no folder" if root.exists() else f"There is no folder {root}"
        raise DataError(f"{found}. DATA is a folder of images or of class folders, or 'demo'.")
    if any((root / name).is_dir() for name in DEMO_COUNTS):
        root = root / split
        if not root.is_dir():
            raise DataError(f"{root.parent} has no folder {split}/. Add it, or name the folder with the images itself.")
    try:
        return _image_folder(root)
    except OSError as error:
        raise DataError(
            f"Cannot list {error.filename}: {error.strerror}. Make it readable, or move it away."
        ) from error


def _image_folder(root: Path) -> ImageSet:
    images, folders = _contents(root)
    if images:
        if mixed := next((folder for folder in folders if next(_images(root / folder), None)), None):
            raise DataError(
                f"{root} holds images, as {images[0]}, and folders of images, as {mixed}. Move the ones or the others "
                "away: DATA is a flat folder of images, or a folder of class folders."
            )
        return ImageSet(str(root), [(name, None) for name in images], None)
    entries = [(f"{folder}/{name}", label) for label, folder in enumerate(folders) for name in _images(root / folder)]
    if not entries:
        kinds = " ".join(sorted(SUFFIXES))
        raise DataError(f"{root} holds no images ({kinds}), nor do its folders.")
    return ImageSet(str(root), entries, tuple(folders))


def _images(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """The names of all images below a folder, relative to it. A link back to a folder above ends there."""
    images, folders = _contents(folder)
    yield from images
    above = (*above, folder.resolve())
    for inner in folders:
        if (folder / inner).resolve() not in above:
            yield from (f"{inner}/{name}" for name in _images(folder / inner, above))


def _contents(folder: Path) -> tuple[list[str], list[str]]:
    """The sorted names of a folder's images and of its folders. A million paths are slow to make: these are strings."""
    images, folders = [], []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                images.append(entry.name)  # a dangling link too: reading it fails, which is better than to lack it
    return sorted(images), sorted(folders)
