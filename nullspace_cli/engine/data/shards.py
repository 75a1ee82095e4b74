"""Data sets in tar files: WebDataset's shards, or folders of images that were packed.

A tar file that is not compressed can be read at any place once its headers have been gone through. Files of one key,
the name up to the first dot after the last slash, are one sample (WebDataset's convention), and KEY.cls is the index of
its class. Where there are no such files, every image is one, and the folders that they lie in are the classes, as timm
takes them.
"""

import glob
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nullspace_cli.engine.data.collection import Decoded, Split, names_of_indices, numbered
from nullspace_cli.engine.data.encoded import decode_file
from nullspace_cli.engine.errors import DataError, ImageError, first_line
from nullspace_cli.engine.files.addresses import is_address, matching
from nullspace_cli.engine.files.image_search import is_image
from nullspace_cli.engine.files.paths import exists, is_folder, reason_of
from nullspace_cli.engine.files.two_readings import Reading

SUFFIX = ".tar"


class Member(NamedTuple):
    """A file within a tar file, and where its content is."""

    archive: Path
    name: str
    start: int
    size: int

    @property
    def key(self) -> str:
        return f"{self.archive}/{key_of(self.name)}"

    def read(self) -> bytes:
        with self.archive.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


def key_of(name: str) -> str:
    """What the members of one sample have in common: the name up to the first dot after the last slash."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


class Shards:
    """Images in tar files: a `Collection`."""

    def __init__(
        self, name: str, images: Sequence[Member], labels: Sequence[int | None], classes: tuple[str, ...] | None
    ) -> None:
        self.name, self._images, self.labels, self.classes = name, images, labels, classes

    def name_of(self, index: int) -> str:
        image = self._images[index]
        return f"{image.archive}/{image.name}"

    def decode(self, index: int, reading: Reading) -> Decoded:
        name = self.name_of(index)
        try:
            content = self._images[index].read()
        except OSError as error:
            raise ImageError(f"Cannot read {name}: {reason_of(error)}.") from error
        return decode_file(content, name, reading)

    def stamp(self, index: int) -> tuple[str, int]:
        image = self._images[index]
        return f"{image.archive.name}/{image.name}", image.size

    def file_of(self, index: int) -> Path:
        return self._images[index].archive


def shard_files(data: str, split: Split) -> list[Path]:
    """The tar files that DATA names: a file, a pattern such as `shards/{000..012}.tar` or `shards/*.tar`, or a folder.

    Of a folder, and of its folder of the split if there is one, those are meant that hold nothing else but what
    describes them. Empty where DATA is something else.

    Raises:
        DataError: a shard of a pattern does not exist.
    """
    root = Path(data)
    if is_folder(root):
        inner = root / split
        return next((found for folder in (inner, root) if (found := _only_shards(folder))), [])
    if not data.endswith(SUFFIX):
        return []
    if exists(root):
        return [root]
    return spelled(data)


def spelled(pattern: str) -> list[Path]:
    """The files that a pattern with braces or wildcards stands for; without any, the one of this name.

    Raises:
        DataError: there is none of a name that it stands for, or its braces mean nothing.
    """
    paths = [path for each in _braces(pattern) for path in (_matching(each) or [Path(each)])]
    missing = next((path for path in paths if not exists(path)), None)
    if missing:
        raise DataError(f"There is no shard {missing}. Check the name, or the numbers in the pattern.")
    return paths


def _matching(pattern: str) -> list[Path]:
    if is_address(pattern):
        return matching(pattern) if glob.has_magic(pattern) else []
    return [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207


def _only_shards(folder: Path) -> list[Path]:
    if not is_folder(folder):
        return []
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    shards = [path for path in files if path.suffix == SUFFIX]
    others = [path for path in files if path.suffix != SUFFIX and (path.is_dir() or is_image(path.name))]
    return [] if others else shards


def _braces(pattern: str) -> Iterator[str]:
    """Bash's braces, as WebDataset spells ranges of shards."""
    if "{" not in pattern:
        return iter([pattern])
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise DataError(
            f"Braces, as in {pattern}, need braceexpand.",
            hint="Run `pip install 'vitnull[data]'`, or name the folder of the shards.",
        ) from None
    try:
        return iter(list(braceexpand(pattern)))
    except ValueError as error:  # unbalanced
        raise DataError(f"Cannot tell what {pattern} means: {first_line(error)}.") from error


def open_shards(name: str, archives: Sequence[Path]) -> Shards:
    """Find the images of tar files, in the order in which they lie there.

    Args:
        name: of the data set, for people.

    Raises:
        DataError: a file is no tar file, is compressed or cut off; it holds no image; or only some have a class.
    """
    images: list[Member] = []
    given: dict[str, int] = {}
    for archive in archives:
        for member in _members(archive):
            if member.name.endswith(".cls"):
                given[member.key] = _class_of(member)
            elif is_image(member.name):
                images.append(member)
    if not images:
        raise DataError(f"{name} holds no images (.png, .jpg, .webp, ...).")
    if not given:
        return _by_folders(name, images)
    images = _one_of_each(images)
    if without := next((image for image in images if image.key not in given), None):
        raise DataError(f"{without.archive} holds no class for {without.name}; others have a .cls file of their own.")
    labels = [given[image.key] for image in images]
    return Shards(name, images, labels, names_of_indices(labels))


def _one_of_each(images: Sequence[Member]) -> list[Member]:
    """Of each sample KEY.jpg, whatever else of it is an image, as KEY.mask.png; in their order."""
    chosen: dict[str, Member] = {}
    for image in images:
        before = chosen.setdefault(image.key, image)
        if image.name.count(".") < before.name.count("."):
            chosen[image.key] = image
    return list(chosen.values())


def _by_folders(name: str, images: Sequence[Member]) -> Shards:
    folders = [Path(image.name).parent.name for image in images]
    labels, classes = numbered(folders)
    if len(classes) == 1 or "" in classes:
        return Shards(name, images, [None] * len(images), None)
    return Shards(name, images, labels, classes)


def _members(archive: Path) -> Iterator[Member]:
    """The files of a tar file by its headers, without those that systems leave."""
    for header in headers(archive):
        if header.isfile() and not is_hidden(header.name):
            yield Member(archive, header.name, header.offset_data, header.size)


def is_hidden(name: str) -> bool:
    """Whether a member is one that systems leave, by its name."""
    return any(part.startswith(".") and part not in (".", "..") for part in Path(name).parts)


def end_of(header: tarfile.TarInfo) -> int:
    """Where a member ends in its tar file, and the next one begins."""
    stored = header.size if header.isreg() else 0
    return header.offset_data + -(-stored // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def headers(archive: Path) -> Iterator[tarfile.TarInfo]:
    """Whatever a tar file holds, in its order; none of it is read.

    Raises:
        DataError: it is no tar file, is compressed or cut off, or cannot be read at any place.
    """
    try:
        with tarfile.open(archive, "r:") as file:
            end = 0
            for member in file:
                end = end_of(member)
                if member.issparse():
                    raise DataError(f"{archive} holds {member.name} as a sparse file. Pack it anew without --sparse.")
                yield member
            file.fileobj.seek(end)  # tarfile takes a file that is cut within a header for one that ends there
            if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError as error:
        raise DataError(
            f"Cannot read {archive}: it is damaged, cut off, compressed, or no tar file ({first_line(error)}).",
            hint="Images are read from where they lie: decompress it first, or download it again.",
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read {archive}: {reason_of(error)}.") from error


def _class_of(member: Member) -> int:
    text = member.read().decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise DataError(f"{member.name} of {member.archive} holds {text[:40]!r}. Expected the index of a class.")
    return int(text)
