"""Data sets: folders of images, or the embedded demo's drawings, as one list of samples."""

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
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True)
class Sample:
    """One image of a data set: uint8 RGB pixels [H, W, 3], and the index of its class where the set is labelled."""

    name: str
    pixels: NDArray[np.uint8]
    label: int | None


class ImageSet(Sequence[Sample]):
    """A data set whose images are decoded (or drawn) when they are asked for.

    Attributes:
        name: what was asked for.
        classes: class names in the order of their labels; None for a flat folder.
    """

    def __init__(
        self, name: str, entries: Sequence[tuple[Path | int, int | None]], classes: tuple[str, ...] | None
    ) -> None:
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
        if isinstance(source, Path):
            return Sample(str(source), read_picture(source).pixels, label)
        pixels, _ = draw(self.name.removeprefix("demo/"), source)
        return Sample(f"{self.name}/{source:05d}", pixels, label)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def open_data(data: str, split: Split = "val") -> ImageSet:
    """Find the images of a data set, sorted by name; none is decoded yet.

    Args:
        data: a folder of class folders, with or without train/ and val/ above them; a flat folder of images; or "demo".
        split: which of train/ and val/, where the data has them.

    Raises:
        DataError: there is no such folder, it lacks the split, or it holds no image.
    """
    if data == "demo":
        return ImageSet(f"demo/{split}", [(i, i % len(CLASSES)) for i in range(DEMO_COUNTS[split])], CLASSES)
    root = Path(data)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}. DATA is a folder of images or of class folders, or 'demo'.")
    if any((root / name).is_dir() for name in DEMO_COUNTS):
        root = root / split
        if not root.is_dir():
            raise DataError(f"{root.parent} has no folder {split}/. Add it, or name the folder with the images itself.")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    entries: list[tuple[Path | int, int | None]] = [(path, None) for path in _images(root)]
    if entries:
        return ImageSet(str(root), entries, None)
    entries = [(path, label) for label, folder in enumerate(folders) for path in _images(folder)]
    if not entries:
        kinds = " ".join(sorted(SUFFIXES))
        raise DataError(f"{root} holds no images ({kinds}), nor do its folders.")
    return ImageSet(str(root), entries, tuple(folder.name for folder in folders))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
