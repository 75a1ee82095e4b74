"""Data sets from folders of every accepted layout, and from the embedded demo."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.engine.data import open_data
from nullspace_cli.engine.errors import DataError, ImageError


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


def test_splits(tmp_path: Path) -> None:
    put(tmp_path / "train" / "a" / "1.png", 1)
    put(tmp_path / "val" / "a" / "2.png", 2)
    assert values(str(tmp_path), "train") == [(1, 0)]
    assert values(str(tmp_path), "val") == [(2, 0)]


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
    put(tmp_path / "train" / "a" / "1.png", 1)
    with pytest.raises(DataError, match="has no folder val/"):
        open_data(str(tmp_path), "val")


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
