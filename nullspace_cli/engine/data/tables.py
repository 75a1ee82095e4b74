"""Data sets of Hugging Face's `datasets`: from the Hub, saved folders of them, and Parquet files with images in them.

Which column holds the images and which the classes is told by their types: the first column of images; the first of
class labels, else one of whole numbers or of words that is called as labels are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nullspace_cli.engine.data.collection import Decoded, Split, names_of_indices, numbered
from nullspace_cli.engine.data.encoded import decode_file
from nullspace_cli.engine.errors import DataError, ImageError, first_line
from nullspace_cli.engine.files.paths import exists, is_folder
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.files.two_readings import Reading

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

HUB = "hfds/"
"""How timm writes the names of such data sets."""

PARQUET = ".parquet"
SPLITS_FILE = "dataset_dict.json"
"""In it `save_to_disk` names the splits of a data set that has several."""

SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("validation", "val", "valid", "test")}
"""What they are called there, the first that there is; that of what has one alone does not matter."""

LABELS = ("label", "labels", "class", "cls", "target", "fine_label")


class Table:
    """The rows of a data set, with the files of their images: a `Collection`.

    Args:
        rows: with the column `image` as it is stored, {"bytes", "path"}.
    """

    def __init__(
        self, name: str, rows: "Dataset", image: str, labels: Sequence[int | None], classes: tuple[str, ...] | None
    ) -> None:
        self.name, self._rows, self._image, self.labels, self.classes = name, rows, image, labels, classes

    def name_of(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def decode(self, index: int, reading: Reading) -> Decoded:
        name, stored = self.name_of(index), self._rows[index][self._image]
        if stored is None:
            raise ImageError(f"{name} holds no image.")
        content, path = stored["bytes"], stored["path"]
        if content is not None:
            return decode_file(content, f"{name}{Path(path or '').suffix}", reading)
        if "://" not in path:
            return Decoded.of(read_picture(Path(path), reading))
        try:
            return decode_file(_fetched(path), f"{name} ({path})", reading)
        except OSError as error:
            raise ImageError(f"Cannot read {name}: {path}: {first_line(error)}.") from error

    def stamp(self, index: int) -> tuple[str, str]:
        return f"[{index}]", self._rows._fingerprint

    def file_of(self, index: int) -> None:
        return None


def _fetched(address: str) -> bytes:
    import fsspec

    with fsspec.open(address) as file:
        return file.read()


def is_table(data: str) -> bool:
    """Whether DATA is such a data set: `hfds/NAME`, a folder that `save_to_disk` wrote, a Parquet file, or such files.

    Those of a folder lie in it or in its data/, as on the Hub.
    """
    root = Path(data)
    if is_folder(root):
        return _is_saved(root) or any(next(root.glob(f"{place}*{PARQUET}"), None) for place in ("", "data/"))
    return data.startswith(HUB) or (root.suffix == PARQUET and exists(root))


def _is_saved(root: Path) -> bool:
    return exists(root / SPLITS_FILE) or is_saved(root)


def is_saved(root: Path) -> bool:
    """Whether a folder is a data set, or one split of it, that `save_to_disk` wrote."""
    return exists(root / "state.json") and exists(root / "dataset_info.json")


def open_table(data: str, split: Split, notice: Callable[[str], None]) -> Table:
    """Find the images of a data set; those that the Hub has are downloaded, to where `datasets` keeps them.

    Args:
        notice: is told which of several columns of images is taken, and what is taken for a split of another name.

    Raises:
        DataError: `datasets` is not installed; there is no such data set; or it holds no images, or lacks the split.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{data} is read by Hugging Face's datasets, which is not here. Run pip install 'vitnull[data]'."
        ) from None
    try:
        with _quiet(datasets):
            found = _load(datasets, data)
    except Exception as error:
        raise DataError(f"Cannot open the data set {data}: {first_line(error)}") from error
    rows = _split_of(found, data, split, notice)
    column = _image_column(datasets, rows, data, notice)
    labels, classes = _labels(datasets, rows)
    return Table(data, rows.cast_column(column, datasets.Image(decode=False)), column, labels, classes)


def _load(datasets: Any, data: str) -> "Dataset | DatasetDict":
    root = Path(data.removeprefix(HUB))
    if is_folder(root) and _is_saved(root):
        return datasets.load_from_disk(str(root))
    if root.suffix == PARQUET:
        return datasets.load_dataset("parquet", data_files=[str(root)])
    if is_folder(root):
        return datasets.load_dataset(str(root))
    return datasets.load_dataset(data.removeprefix(HUB))


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the progress bars of `datasets`, which count what is not ours."""
    were = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were:
            datasets.enable_progress_bars()


def _split_of(found: Any, data: str, split: Split, notice: Callable[[str], None]) -> "Dataset":
    if not isinstance(found, dict):
        return found
    if len(found) == 1:
        return next(iter(found.values()))
    name = next((name for name in SPLITS[split] if name in found), None)
    if name is None:
        raise DataError(f"{data} has no split for {split}: it has {', '.join(found)}.")
    if name == "test":
        notice(f"{data} has no split for validation; its test split is read")
    return found[name]


def _image_column(datasets: Any, rows: "Dataset", data: str, notice: Callable[[str], None]) -> str:
    features = rows.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    # Parquet files that others wrote do not say what the bytes are.
    images = images or [name for name in ("image", "img", "jpg", "png") if _holds_bytes(datasets, features.get(name))]
    if not images:
        raise DataError(f"{data} has no column of images: its columns are {', '.join(features)}.")
    if len(images) > 1:
        notice(f"{data} has several columns of images, {', '.join(images)}; {images[0]} is read")
    return images[0]


def _holds_bytes(datasets: Any, feature: Any) -> bool:
    stored = feature.get("bytes") if isinstance(feature, dict) else feature
    return isinstance(stored, datasets.Value) and stored.dtype in ("binary", "large_binary")


def _labels(datasets: Any, rows: "Dataset") -> tuple[Sequence[int | None], tuple[str, ...] | None]:
    features = rows.features
    column = next((name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)), None)
    column = column or next((name for name in LABELS if isinstance(features.get(name), datasets.Value)), None)
    found: list[Any] = [] if column is None else rows[column][:]
    if column is None or any(value is None or value == -1 for value in found):  # -1: of a test split, not published
        return [None] * len(rows), None
    if isinstance(features[column], datasets.ClassLabel):
        return found, tuple(features[column].names)
    if all(isinstance(value, str) for value in found):
        return numbered(found)
    if all(isinstance(value, int) and value >= 0 for value in found):
        return found, names_of_indices(found)
    return [None] * len(rows), None
