"""Data sets as one list of samples, whatever they are read from."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from numpy.typing import NDArray

from nullspace_cli.engine.data.collection import Collection, Decoded, Split
from nullspace_cli.engine.data.drawings import Drawings
from nullspace_cli.engine.data.fetched import Fetched
from nullspace_cli.engine.data.folders import open_folder
from nullspace_cli.engine.data.shards import open_shards, shard_files
from nullspace_cli.engine.data.tables import is_table, open_table
from nullspace_cli.engine.data.torchvision_sets import PREFIX as TORCHVISION
from nullspace_cli.engine.data.torchvision_sets import open_torchvision
from nullspace_cli.engine.errors import DataError, ImageError
from nullspace_cli.engine.files.addresses import is_address
from nullspace_cli.engine.files.image_search import PassedOver
from nullspace_cli.engine.files.paths import exists, is_folder
from nullspace_cli.engine.files.two_readings import DifferenceNotice, Reading
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

WEBDATASET = "wds/"
"""timm's prefix of tar files."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set: RGB pixels [H, W, 3], and the index of its class where the set is labelled.

    Pixels are uint8, or float32 in [0, 1]. `notices` are those of `read_picture`. `fitted`: they are a model's input.
    """

    name: str
    pixels: NDArray[Any]
    label: int | None
    notices: tuple[str, ...] = ()
    fitted: bool = False


class ImageSet(Sequence[Sample]):
    """Images of a collection, which are decoded (or drawn) when they are asked for.

    Attributes:
        collection: what they are read from.
        chosen: which of its images, in which order.
        reading: how a network is given the files.
    """

    def __init__(
        self,
        collection: Collection,
        reading: Reading = "timm",
        tell: Callable[[str, Decoded], None] = lambda name, decoded: None,
        chosen: Sequence[int] | None = None,
    ) -> None:
        """All images of a collection, or those `chosen`.

        Args:
            tell: is shown what was read of each file.
        """
        self.collection, self.reading, self._tell = collection, reading, tell
        self.chosen = range(len(collection.labels)) if chosen is None else chosen

    @property
    def name(self) -> str:
        """Where the collection is."""
        return self.collection.name

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of their labels; None where no image has one."""
        return self.collection.classes

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageSet": ...
    def __getitem__(self, index: int | slice) -> "Sample | ImageSet":
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        place, name = self.chosen[index], self.name_of(index)
        decoded = self.collection.decode(place, self.reading)
        self._tell(name, decoded)
        return Sample(name, decoded.pixels, self.collection.labels[place], decoded.notices, decoded.fitted)

    def read(self, index: int, transform: EvalTransform) -> Sample:
        """An image as a model sees it.

        Raises:
            ImageError: it cannot be read, or is too elongated to be resized.
        """
        sample = self[index]
        if sample.fitted:
            return sample
        try:
            return replace(sample, pixels=transform.input_pixels(sample.pixels), fitted=True)
        except ImageError as error:
            raise ImageError(f"{sample.name}: {error}") from error

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Sequence[int]) -> "ImageSet":
        """Some of the images, in the order of `indices`."""
        return ImageSet(self.collection, self.reading, self._tell, [self.chosen[index] for index in indices])

    def name_of(self, index: int) -> str:
        """The name of an image that need not be readable: its path, or "demo/val/00013"."""
        return self.collection.name_of(self.chosen[index])

    def files(self) -> Iterator[Path]:
        """The files that the images are read from."""
        found = {self.collection.file_of(place): None for place in self.chosen}
        return (path for path in found if path is not None)

    def fingerprint(self) -> str:
        """sha256 over the names of the classes, and the images' names within the set, labels and sizes in bytes.

        Equal for a copy of a folder elsewhere that is read alike. No image is read, so that one edited to the very
        same size is missed.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        if self.reading != "timm":
            digest.update(self.reading.encode())
        for place in self.chosen:
            name, content = self.collection.stamp(place)
            stamp = [name, self.collection.labels[place], *([] if content is None else [content])]
            digest.update(json.dumps(stamp).encode())
        return digest.hexdigest()


def open_data(
    data: str,
    split: Split = "val",
    reading: Reading = "timm",
    notice: Callable[[str], None] = lambda text: None,
) -> ImageSet:
    """Find the images of a data set; none is decoded yet.

    Args:
        data: a folder of class folders, which may hold further folders, with or without train/ and val/ above them;
            a flat folder of images; tar files or a folder of them (`shards`); a data set of `datasets` (`tables`), of
            torchvision (`torchvision_sets`), or with timm's prefix of either; the address of what could lie here (it is
            copied); or "demo".
        split: which of train/ and val/, where the data has them.
        reading: how a network is given the files.
        notice: is told what was passed over, and how much of it; and, once, that the two readings of a file differ.

    Raises:
        DataError: there is no such data set, or it is not laid out as one.
    """
    return ImageSet(_open(data, split, notice), reading, DifferenceNotice(notice, reading))


def _open(data: str, split: Split, notice: Callable[[str], None]) -> Collection:
    if data == "demo":
        return Drawings(split)
    if is_address(data):
        return Fetched(data, lambda copy: _open(copy, split, notice))
    root = Path(data)
    if not exists(root) and data.startswith(TORCHVISION):
        return open_torchvision(data, split)
    if is_table(data):
        return open_table(data, split, notice)
    shards = data if exists(root) else data.removeprefix(WEBDATASET)
    if archives := shard_files(shards, split):
        return open_shards(shards, archives)
    if not is_folder(root):
        found = f"{root} is no folder" if exists(root) else f"There is no folder {root}"
        raise DataError(
            f"{found}. DATA is a folder of images or of class folders, tar or Parquet files, hfds/NAME, "
            "torch/NAME:FOLDER, or 'demo'."
        )
    passed_over = PassedOver()
    folder = open_folder(root, split, passed_over)
    if str(passed_over):
        notice(f"passed over in {folder.name}: {passed_over}")
    return folder
