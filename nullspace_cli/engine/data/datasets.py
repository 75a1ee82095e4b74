"""Data sets: folders of images, or the embedded demo's drawings, as one list of samples."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from numpy.typing import NDArray

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.engine.errors import DataError, ImageError
from nullspace_cli.engine.files.image_search import PassedOver, contents, images_below
from nullspace_cli.engine.files.paths import exists, is_folder, reason_of
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.files.two_readings import DifferenceNotice, Read, Reading
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

Split = Literal["train", "val"]
DEMO_COUNTS: dict[Split, int] = {"train": 2000, "val": 500}


@dataclass(frozen=True)
class Sample:
    """One image of a data set: RGB pixels [H, W, 3], and the index of its class where the set is labelled.

    Pixels are uint8, or float32 in [0, 1]. `notices` are those of `read_picture`.
    """

    name: str
    pixels: NDArray[Any]
    label: int | None
    notices: tuple[str, ...] = ()


class ImageSet(Sequence[Sample]):
    """A data set whose images are decoded (or drawn) when they are asked for.

    Attributes:
        name: the folder that the images' names start from; or "demo/train", "demo/val".
        classes: class names in the order of their labels; None for a flat folder.
        reading: how a network is given the files.
    """

    def __init__(
        self,
        name: str,
        entries: Sequence[tuple[str | int, int | None]],
        classes: tuple[str, ...] | None,
        reading: Reading = "timm",
        tell: Callable[[str, Read], None] = lambda name, read: None,
    ) -> None:
        """`entries` holds a file's name within the folder, or a drawing's number, and the label of each image.

        Args:
            tell: is shown what was read of each file.
        """
        self.name, self.classes, self._entries, self.reading, self._tell = name, classes, entries, reading, tell

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageSet": ...
    def __getitem__(self, index: int | slice) -> "Sample | ImageSet":
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        source, label = self._entries[index]
        if isinstance(source, str):
            picture = read_picture(Path(self.name, source), self.reading)
            self._tell(self.name_of(index), picture)
            return Sample(self.name_of(index), picture.pixels, label, picture.notices)
        pixels, _ = draw(self.name.removeprefix("demo/"), source)
        return Sample(self.name_of(index), pixels, label)

    def read(self, index: int, transform: EvalTransform) -> Sample:
        """An image as a model sees it.

        Raises:
            ImageError: it cannot be read, or is too elongated to be resized.
        """
        sample = self[index]
        try:
            return replace(sample, pixels=transform.input_pixels(sample.pixels))
        except ImageError as error:
            raise ImageError(f"{sample.name}: {error}") from error

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Sequence[int]) -> "ImageSet":
        """Some of the images, in the order of `indices`."""
        entries = [self._entries[index] for index in indices]
        return ImageSet(self.name, entries, self.classes, self.reading, self._tell)

    def name_of(self, index: int) -> str:
        """The name of an image that need not be readable: its path, or "demo/val/00013"."""
        source, _ = self._entries[index]
        return str(Path(self.name, source)) if isinstance(source, str) else f"{self.name}/{source:05d}"

    def files(self) -> Iterator[Path]:
        """The files that the images are read from."""
        return (Path(self.name, source) for source, _ in self._entries if isinstance(source, str))

    def fingerprint(self) -> str:
        """sha256 over the names of the classes, and the images' names within the folder, labels and sizes in bytes.

        Equal for a copy of the folder elsewhere that is read alike. No image is read, so that one edited to the very
        same size is missed.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        if self.reading != "timm":
            digest.update(self.reading.encode())
        for index, (source, label) in enumerate(self._entries):
            stamp = [source, label, self._size(source)] if isinstance(source, str) else [self.name_of(index), label]
            digest.update(json.dumps(stamp).encode())
        return digest.hexdigest()

    def _size(self, file: str) -> int:
        path = Path(self.name, file)
        try:
            return path.stat().st_size
        except OSError as error:
            raise DataError(f"Cannot read {path}: {reason_of(error)}. Put it back, or remove it.") from error


def open_data(
    data: str,
    split: Split = "val",
    reading: Reading = "timm",
    notice: Callable[[str], None] = lambda text: None,
) -> ImageSet:
    """Find the images of a data set, sorted by name, those of inner folders last; none is decoded yet.

    Links are followed. Other than in torchvision's ImageFolder, names that start with a dot are left out, as are
    temporary files and what systems and archivers leave.

    train/ and val/ are its splits where no other folder holds images, but for test/ and the like. Among other folders
    of images, one of that name is a class, as VOC's trains are.

    Args:
        data: a folder of class folders, which may hold further folders, with or without train/ and val/ above them;
            a flat folder of images; or "demo".
        split: which of train/ and val/, where the data has them.
        reading: how a network is given the files.
        notice: is told what was passed over, and how much of it; and, once, that the two readings of a file differ.

    Raises:
        DataError: there is no such folder, it cannot be read, it lacks the split, it holds no image, it holds both
            images and folders of images, or whether its folders are splits or classes cannot be told.
    """
    if data == "demo":
        return ImageSet(f"demo/{split}", [(i, i % len(CLASSES)) for i in range(DEMO_COUNTS[split])], CLASSES)
    root = Path(data)
    if not is_folder(root):
        found = f"{root} is no folder" if exists(root) else f"There is no folder {root}"
        raise DataError(f"{found}. DATA is a folder of images or of class folders, or 'demo'.")
    if _has_splits(root):
        if not is_folder(root / split):
            raise DataError(f"{root} has no folder {split}/. Add it, or name the folder with the images itself.")
        root = root / split
    passed_over = PassedOver()
    images = _image_folder(root, passed_over, reading, DifferenceNotice(notice, reading))
    if str(passed_over):
        notice(f"passed over in {root}: {passed_over}")
    return images


SPLIT_WORDS = frozenset({*DEMO_COUNTS, "training", "valid", "validation", "test", "testing", "dev"})
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
    named = [folder for folder in words if folder in DEMO_COUNTS]
    if not others and (len(named) == 2 or not images):
        if words and not named:
            raise DataError(
                f"{_listed(words)} of {root} look like splits.", hint=f"Name one of them: `data={root / words[0]}`."
            )
        return bool(named) or any(folder in DEMO_COUNTS for folder in folders)
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


def _image_folder(root: Path, passed_over: PassedOver, reading: Reading, tell: Callable[[str, Read], None]) -> ImageSet:
    images, folders = contents(root, passed_over)
    if images:
        if mixed := next((folder for folder in folders if _holds_images(root / folder)), None):
            raise DataError(
                f"{root} holds images, as {images[0]}, and folders of images, as {mixed}. Move the ones or the others "
                "away: DATA is a flat folder of images, or a folder of class folders."
            )
        return ImageSet(str(root), [(name, None) for name in images], None, reading, tell)
    entries = [
        (f"{folder}/{name}", label)
        for label, folder in enumerate(folders)
        for name in images_below(root / folder, passed_over)
    ]
    if not entries:
        found = f" Found were {passed_over}." if str(passed_over) else ""
        raise DataError(f"{root} holds no images (.png, .jpg, .tif, ...), nor do its folders.{found}")
    return ImageSet(str(root), entries, tuple(folders), reading, tell)
