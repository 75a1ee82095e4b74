"""Data sets from folders of every accepted layout, and from the embedded demo."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.engine.data.datasets import open_data
from nullspace_cli.engine.errors import DataError, ImageError
from nullspace_cli.engine.files.image_search import images_below


def put(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(path)


def values(data: str, split: str = "val") -> list[tuple[int, int | None]]:
    return [(int(sample.pixels[0, 0, 0]), sample.label) for sample in open_data(data, split)]  # type: ignore[arg-type]


def test_class_folders(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "2.png", 2)
    put(tmp_path / "cat" / "1.PNG", 1)
    put(tmp_path / "ape" / "3.png", 3)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    assert values(str(tmp_path)) == [(3, 0), (1, 1), (2, 1)]
    assert open_data(str(tmp_path)).classes == ("ape", "cat")


def test_class_folders_are_searched_as_by_image_folder(tmp_path: Path) -> None:
    """Inner folders and links belong to the class; an empty class keeps its label; what is hidden is no data."""
    put(tmp_path / "b" / "z.JPeg", 10)
    put(tmp_path / "b" / "inner" / "deeper" / "1.png", 2)
    put(tmp_path / "d.png" / "1.png", 3)  # a folder, whatever its name
    put(tmp_path / "elsewhere" / "1.png", 4)
    put(tmp_path / ".hidden" / "1.png", 9)
    put(tmp_path / "b" / ".trash" / "1.png", 9)
    put(tmp_path / "b" / "._z.png", 9)
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b" / "inner" / "back").symlink_to(tmp_path / "b")
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    data = open_data(str(tmp_path))
    assert data.classes == ("a", "b", "d.png", "elsewhere", "f")
    assert values(str(tmp_path)) == [(10, 1), (2, 1), (4, 1), (3, 2), (4, 3), (4, 4)]
    assert data[1].name == data.name_of(1) == str(tmp_path / "b" / "inner" / "deeper" / "1.png")


def test_a_dangling_link_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "missing.png")
    with pytest.raises(ImageError, match=r"a\.png: there is no such file"):
        open_data(str(tmp_path))[0]


def test_splits(tmp_path: Path) -> None:
    put(tmp_path / "train" / "a" / "1.png", 1)
    put(tmp_path / "val" / "a" / "2.png", 2)
    assert values(str(tmp_path), "train") == [(1, 0)]
    assert values(str(tmp_path), "val") == [(2, 0)]


CLASSES_OF_VOC = ("aeroplane", "person", "train", "tvmonitor")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_called_train_is_a_class_among_others(tmp_path: Path, split: str) -> None:
    for value, name in enumerate(CLASSES_OF_VOC):
        put(tmp_path / name / "1.png", value)
    assert open_data(str(tmp_path), split).classes == CLASSES_OF_VOC  # type: ignore[arg-type]
    assert values(str(tmp_path), split) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    (tmp_path / "train").rename(tmp_path / "val")
    assert open_data(str(tmp_path), split).classes == ("aeroplane", "person", "tvmonitor", "val")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train/a/1.png", "val/a/2.png"], [2]),
        (["val/a/2.png"], [2]),
        (["val/2.png", "val/3.png"], [2, 3]),
        (["train/a/1.png", "val/a/2.png", "noise.csv", "README"], [2]),
        (["train/a/1.png", "val/a/2.png", "cover.png"], [2]),
        (["train/a/1.png", "val/a/2.png", "test/3.png"], [2]),
        (["train/a/1.png", "val/a/2.png", "validation/b/3.png", "Test/c/4.png"], [2]),
        (["train/a/1.png", "val/a/2.png", "annotations/a/1.xml", ".cache/b/4.png", "__MACOSX/val/5.png"], [2]),
        (["a/train/1.png", "b/val/2.png"], [1, 2]),
        (["test/a/1.png", "cat/2.png"], [2, 1]),
    ],
)
def test_layouts(tmp_path: Path, files: list[str], expected: list[int]) -> None:
    for name in files:
        if name.endswith(".png"):
            put(tmp_path / name, int(Path(name).stem) if Path(name).stem.isdigit() else 0)
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    assert [value for value, _ in values(str(tmp_path), "val")] == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/1.png", "val/a/1.png", "old/a/1.png"], "train/ and val/ of .* are splits or classes .*folder old"),
        (["train/1.png", "val/1.png", "cat/1.png", "dog/1.png"], "are splits or classes"),
        (["train/1.png", "cat/1.png"], "train/ of .* is a split or a class .*`data=.*/train`; or move"),
        (["train/a/1.png", "cat/1.png", "dog/1.png"], "is a split or a class"),
        (["train/1.png", "cat/a/1.png", "dog/1.png"], "is a split or a class"),
        (["train/1.png", "test/1.png", "cat/1.png", "dog/1.png"], "is a split or a class"),
        (["train/a/1.png", "1.png"], "is a split or a class .*image 1.png"),
        (["Train/a/1.png", "Val/a/1.png"], "Train/ and Val/ of .* look like splits. Name one of them: `data=.*/Train`"),
        (["training/a/1.png", "validation/a/1.png", "test/a/1.png"], "look like splits"),
        (["train/a/1.png", "validation/a/1.png"], "has no folder val/"),
    ],
)
def test_what_may_be_splits_or_classes_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        put(tmp_path / name, 1)
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path), "val")


def test_folders_as_deep_as_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than Python's stack, and than the longest path."""
    put(tmp_path / "a.png", 1)
    monkeypatch.chdir(tmp_path)

    def deepen(count: int) -> None:
        for _ in range(count):
            Path("d").mkdir()
            os.chdir("d")

    try:
        deepen(1500)
        put(Path("b.png"), 1)
        assert [name.count("/") for name in images_below(tmp_path)] == [0, 1500]
        deepen(600)
        with pytest.raises(DataError, match=r"Cannot list .*: File name too long"):
            list(images_below(tmp_path))
    finally:  # shutil, and so pytest, could not remove them
        while not Path("a.png").exists():
            os.chdir("..")
            Path("d", "b.png").unlink(missing_ok=True)
            Path("d").rmdir()


def test_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    put(tmp_path / "b.png", 2)
    put(tmp_path / "a.png", 1)
    assert values(str(tmp_path)) == [(1, None), (2, None)]
    assert open_data(str(tmp_path)).classes is None


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        open_data(str(tmp_path / "none"))
    with pytest.raises(DataError, match="holds no images"):
        open_data(str(tmp_path))
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images"):
        open_data(str(tmp_path / "empty"))
    put(tmp_path / "train" / "a" / "1.png", 1)
    with pytest.raises(DataError, match="has no folder val/"):
        open_data(str(tmp_path), "val")
    with pytest.raises(DataError, match=r"1\.png is no folder"):
        open_data(str(tmp_path / "train" / "a" / "1.png"))
    (tmp_path / "train" / "round").symlink_to("round")
    with pytest.raises(DataError, match=r"Cannot list .*round: "):
        open_data(str(tmp_path), "train")


def test_images_beside_folders_of_images_are_refused(tmp_path: Path) -> None:
    """Whether they are a flat folder or class folders with a stray image, only the user knows."""
    put(tmp_path / "1.png", 1)
    (tmp_path / "notes").mkdir()
    assert values(str(tmp_path)) == [(1, None)]
    put(tmp_path / "cat" / "inner" / "1.png", 1)
    with pytest.raises(DataError, match=r"images, as 1\.png, and folders of images, as cat\."):
        open_data(str(tmp_path))


def test_images_are_decoded_late_and_never_replaced(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_text("not an image")
    data = open_data(str(tmp_path))
    assert len(data) == 2
    assert data[0].name.endswith("a.png")
    with pytest.raises(ImageError, match=r"b\.png"):
        data[1]


def test_demo_draws_its_splits() -> None:
    train, val = open_data("demo", "train"), open_data("demo", "val")
    assert (len(train), len(val), val.classes) == (2000, 500, CLASSES)
    assert [sample.label for sample in val[:12]] == [*range(10), 0, 1]
    assert np.array_equal(val[3].pixels, draw("val", 3)[0])
    assert np.array_equal(train[3].pixels, draw("train", 3)[0])
    assert not np.array_equal(train[3].pixels, val[3].pixels)
    assert val[10:20][3].name == "demo/val/00013"


def test_the_fingerprint_is_of_classes_names_and_sizes(tmp_path: Path) -> None:
    def fingerprint(folder: str = "data") -> str:
        return open_data(str(tmp_path / folder)).fingerprint()

    image = tmp_path / "data" / "a" / "1.png"
    put(image, 1)
    put(tmp_path / "data" / "b" / "2.png", 1)
    first = fingerprint()
    os.utime(image, (1, 1))
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert fingerprint() == fingerprint("copy") == first

    seen = {first, open_data(str(tmp_path / "data"))[:1].fingerprint()}
    for change in (
        lambda: (tmp_path / "data" / "empty").mkdir(),
        lambda: image.rename(image.with_name("3.png")),
        lambda: (tmp_path / "data" / "a").rename(tmp_path / "data" / "c"),
        lambda: (tmp_path / "data" / "b" / "2.png").write_bytes(bytes(5)),
        lambda: (tmp_path / "data" / "b" / "4.png").write_bytes(b""),
    ):
        change()
        assert fingerprint() not in seen
        seen.add(fingerprint())


def test_the_fingerprint_of_what_is_gone(tmp_path: Path) -> None:
    put(tmp_path / "1.png", 1)
    data = open_data(str(tmp_path))
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match=r"Cannot read .*1\.png: No such file"):
        data.fingerprint()


def test_the_fingerprint_of_drawings() -> None:
    train, val = open_data("demo", "train"), open_data("demo", "val")
    assert len({data.fingerprint() for data in (train, val, train[:500], train[500:1000])}) == 4
    assert val.fingerprint() == open_data("demo", "val").fingerprint()
