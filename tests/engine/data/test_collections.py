"""Data sets in tar files, tables and torchvision's formats: the same samples as from a folder of the same images."""

import io
import struct
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image
from timm.data import create_dataset

from nullspace_cli.engine.data.datasets import ImageSet, open_data
from nullspace_cli.engine.errors import DataError, ImageError

NAMES = ("ape", "cat")
CONTENTS = [(label, value) for label in (0, 1) for value in (10, 20, 30)]


def encoded(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def samples(images: ImageSet) -> list[tuple[int | None, int]]:
    return [(sample.label, int(sample.pixels[0, 0, 0])) for sample in images]


def folder(root: Path) -> str:
    for label, value in CONTENTS:
        (root / "f" / NAMES[label]).mkdir(parents=True, exist_ok=True)
        (root / "f" / NAMES[label] / f"{value}.png").write_bytes(encoded(value))
    return str(root / "f")


def webdataset_shards(root: Path) -> str:
    """Written by webdataset itself, with what else a sample may hold."""
    with webdataset.ShardWriter(f"{root}/s-%03d.tar", maxcount=4, verbose=0) as sink:
        for i, (label, value) in enumerate(CONTENTS):
            sink.write(
                {"__key__": f"{i:03d}", "png": encoded(value), "mask.png": encoded(0), "cls": label, "json": {"a": 1}}
            )
    return f"{root}/s-{{000..001}}.tar"


def packed_folder(root: Path) -> str:
    with tarfile.open(root / "packed.tar", "w") as file:
        file.add(folder(root), "train")
    return str(root / "packed.tar")


def table() -> datasets.Dataset:
    columns = {
        "id": list(range(len(CONTENTS))),
        "image": [{"bytes": encoded(value), "path": None} for _, value in CONTENTS],
        "label": [label for label, _ in CONTENTS],
    }
    features = {
        "id": datasets.Value("int64"),
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=list(NAMES)),
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def saved_table(root: Path) -> str:
    table().save_to_disk(root / "saved")
    return str(root / "saved")


def saved_splits(root: Path) -> str:
    datasets.DatasetDict({"train": table().select([0]), "test": table()}).save_to_disk(root / "splits")
    return str(root / "splits")


def parquet(root: Path) -> str:
    table().to_parquet(root / "t.parquet")
    return str(root / "t.parquet")


def bare_parquet(root: Path) -> str:
    """As others than `datasets` write it: bytes, and classes in words."""
    words = [NAMES[label] for label, _ in CONTENTS]
    plain = datasets.Dataset.from_dict({"image": [encoded(value) for _, value in CONTENTS], "label": words})
    (root / "bare" / "data").mkdir(parents=True)
    plain.to_parquet(root / "bare" / "data" / "val-0.parquet")
    return str(root / "bare")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_floors_are_those_of_the_extra() -> None:
    extras = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(extras["data"]) <= set(extras["test"])


@pytest.mark.parametrize(
    "made", [folder, webdataset_shards, packed_folder, saved_table, saved_splits, parquet, bare_parquet]
)
def test_same_samples(tmp_path: Path, made: Callable[[Path], str]) -> None:
    data = made(tmp_path)
    images = open_data(data, "val")
    assert samples(images) == CONTENTS
    assert images.classes == (("0", "1") if made is webdataset_shards else NAMES)
    assert samples(images.select([4, 1])) == [CONTENTS[4], CONTENTS[1]]
    again = open_data(data, "val")
    assert again.fingerprint() == images.fingerprint() != images.select([1, 0]).fingerprint()
    assert [again.name_of(i) for i in range(6)] == [sample.name for sample in images]


def test_shards_are_named_by_folder_pattern_and_timms_prefix(tmp_path: Path) -> None:
    braces = webdataset_shards(tmp_path)
    for data in (str(tmp_path), f"{tmp_path}/s-*.tar", f"wds/{braces}"):
        assert samples(open_data(data)) == CONTENTS
    assert sorted(open_data(braces).files()) == [tmp_path / "s-000.tar", tmp_path / "s-001.tar"]
    assert samples(open_data(f"{tmp_path}/s-001.tar")) == CONTENTS[4:]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves the file open
def test_packed_folders_are_read_as_timm_reads_them(tmp_path: Path) -> None:
    theirs = create_dataset("", root=packed_folder(tmp_path))
    assert [(label, int(np.asarray(image)[0, 0, 0])) for image, label in theirs] == CONTENTS


def test_fashion_mnist(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels, labels = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28), np.array([9, 0, 3], np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, 3, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, 3) + labels.tobytes())
    images = open_data(f"torch/fashion_mnist:{tmp_path}", "train")
    assert [sample.label for sample in images] == [9, 0, 3]
    assert np.array_equal(images[1].pixels, np.repeat(pixels[1][..., None], 3, 2))
    assert images.classes is not None
    assert images.classes[9] == "Ankle boot"


def test_a_file_in_an_archive_is_refused_by_its_own_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name, content in (("good.png", encoded(7)), ("bad.png", b"no image")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    images = open_data(str(tmp_path / "a.tar"))
    assert samples(images[:1]) == [(None, 7)]
    with pytest.raises(ImageError, match=r"Cannot read \S+/a\.tar/bad\.png: it is not a PNG"):
        images[1]


def compressed(root: Path) -> str:
    with tarfile.open(root / "c.tar", "w:gz") as file:
        file.add(folder(root))
    return str(root / "c.tar")


def cut(root: Path) -> str:
    whole = Path(packed_folder(root))
    whole.write_bytes(whole.read_bytes()[:1700])
    return str(whole)


def half_labelled(root: Path) -> str:
    with webdataset.TarWriter(f"{root}/h.tar") as sink:
        sink.write({"__key__": "a", "png": encoded(1), "cls": 1})
        sink.write({"__key__": "b", "png": encoded(1)})
    return f"{root}/h.tar"


def without_images(root: Path) -> str:
    datasets.Dataset.from_dict({"text": ["x"]}).to_parquet(root / "n.parquet")
    return str(root / "n.parquet")


def without_validation(root: Path) -> str:
    datasets.DatasetDict({"train": table(), "extra": table()}).save_to_disk(root / "w")
    return str(root / "w")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (compressed, "is damaged, cut off, compressed"),
        (cut, "unexpected end of data"),
        (half_labelled, "no class for b.png"),
        (lambda root: f"{root}/x-{{0..2}}.tar", "There is no shard .*x-0.tar"),
        (without_images, "no column of images: its columns are text"),
        (without_validation, "no split for val: it has train, extra"),
        (lambda root: f"torch/cifar10:{root}/none", "there is no folder .*/none"),
        (lambda root: "torch/cifar10", "it says no folder. Write torch/cifar10:FOLDER"),
        (lambda root: f"torch/nothing:{root}", "Cannot open the data set torch/nothing"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, made: Callable[[Path], str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_data(made(tmp_path), "val")
