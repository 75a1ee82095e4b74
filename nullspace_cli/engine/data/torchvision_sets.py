"""Data sets that torchvision knows how to read, by timm's names for them: `torch/cifar10:FOLDER`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nullspace_cli.engine.data.collection import Decoded, Split, names_of_indices
from nullspace_cli.engine.errors import DataError, ImageError, first_line
from nullspace_cli.engine.files.paths import is_folder
from nullspace_cli.engine.files.two_readings import Reading

PREFIX = "torch/"
SPLITS: dict[Split, str] = {"train": "train", "val": "validation"}


class TorchvisionSet:
    """A `Collection`."""

    def __init__(self, name: str, images: Any, labels: Sequence[int | None], classes: tuple[str, ...] | None) -> None:
        self.name, self._images, self.labels, self.classes = name, images, labels, classes

    def name_of(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def decode(self, index: int, reading: Reading) -> Decoded:
        try:
            image, _ = self._images[index]
        except Exception as error:
            raise ImageError(f"Cannot read {self.name_of(index)}: {first_line(error)}.") from error
        return Decoded(np.asarray(image.convert("RGB")))

    def stamp(self, index: int) -> tuple[str, None]:
        return f"[{index}]", None

    def file_of(self, index: int) -> None:
        return None


def open_torchvision(data: str, split: Split) -> TorchvisionSet:
    """Find the images of `torch/NAME:FOLDER`; nothing is downloaded.

    Raises:
        DataError: there is no such folder, or the data set is not in it, or not known to timm.
    """
    name, colon, folder = data.removeprefix(PREFIX).partition(":")
    if not colon or not is_folder(Path(folder)):
        missing = f"there is no folder {folder}" if colon else "it says no folder"
        raise DataError(f"Cannot open the data set {data}: {missing}. Write {PREFIX}{name}:FOLDER.")
    from timm.data import create_dataset

    try:
        images = create_dataset(f"{PREFIX}{name}", root=folder, split=SPLITS[split], download=False)
        labels = _labels(images)
    except Exception as error:
        raise DataError(f"Cannot open the data set {data}: {first_line(error)}") from error
    names = getattr(images, "classes", None)
    classes = tuple(map(_words, names)) if names else names_of_indices(labels)
    return TorchvisionSet(data, images, labels, classes)


def _words(name: Any) -> str:
    """ImageNet's classes are tuples of synonyms."""
    return ", ".join(name) if isinstance(name, tuple) else str(name)


def _labels(images: Any) -> list[int]:
    for name in ("targets", "labels", "_labels"):
        if hasattr(images, name):
            return [int(label) for label in getattr(images, name)]
    return [int(images[index][1]) for index in range(len(images))]
