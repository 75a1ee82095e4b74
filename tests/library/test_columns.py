"""Marks on columns of tables, as `datasets` and Ray Data hand them over; and the examples that do so."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config

from nullspace_cli import Stamper
from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.errors import UsageError

ROOT = Path(__file__).parents[2]
SIZES = (448, 480, 448)


def drawings() -> list[NDArray[np.uint8]]:
    return [draw("val", index, size=size)[0] for index, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def stamper() -> Stamper:
    return Stamper(text="(c)", model="demo", nullspace="resize")


def objects(images: list[NDArray[np.uint8]]) -> NDArray[Any]:
    """As Ray gives images of several sizes."""
    made = np.empty(len(images), object)
    made[:] = images
    return made


@pytest.mark.parametrize(
    "column",
    [
        drawings()[0],
        Image.fromarray(drawings()[0]),
        drawings()[:2],
        [Image.fromarray(image) for image in drawings()[:2]],
        np.stack(drawings()[::2]),
        objects(drawings()[:2]),
    ],
    ids=["array", "picture", "arrays", "pictures", "stack", "objects"],
)
def test_a_column_is_marked_as_its_images_are(stamper: Stamper, column: Any) -> None:
    rows = {"id": 7, "photo": column}
    made = pickle.loads(pickle.dumps(stamper.on("photo")))(rows)  # noqa: S301 - ours
    assert made["id"] == 7
    assert type(made["photo"]) is type(column)
    single = isinstance(column, Image.Image) or (isinstance(column, np.ndarray) and column.ndim == 3)
    ours, sources = ([made["photo"]], [column]) if single else (made["photo"], column)
    for marked, source in zip(ours, sources, strict=True):
        assert np.array_equal(np.asarray(marked), np.asarray(stamper(source)))
        assert not np.array_equal(np.asarray(marked), np.asarray(source))


def test_a_column_that_is_not_there(stamper: Stamper) -> None:
    with pytest.raises(UsageError, match="no column 'image'; there are 'id', 'photo'"):
        stamper.on()({"id": 1, "photo": None})


def seen(image: Image.Image) -> NDArray[np.float32]:
    """By timm alone."""
    config = resolve_data_config(timm.create_model("vit_small_patch32_224").pretrained_cfg)
    return np.asarray(create_transform(**config)(image.convert("RGB")))


@pytest.mark.slow
def test_example_of_datasets(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict(
        {"id": [1, 2, 3], "image": [Image.fromarray(image) for image in drawings()]},
        features=datasets.Features({"id": datasets.Value("int64"), "image": datasets.Image()}),
    )
    table.to_parquet(tmp_path / "in.parquet")
    run("mark_dataset.py", tmp_path / "in.parquet", tmp_path / "out.parquet", "2", cache=tmp_path)
    made = datasets.load_dataset(
        "parquet", data_files=[str(tmp_path / "out.parquet")], cache_dir=str(tmp_path / "c"), split="train"
    )
    assert made["id"][:] == [1, 2, 3]
    assert made.features == table.features
    for row, source in zip(made, drawings(), strict=True):
        assert np.array_equal(seen(row["image"]), seen(Image.fromarray(source)))
        assert not np.array_equal(np.asarray(row["image"]), source)


@pytest.mark.slow
def test_example_of_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    (tmp_path / "in").mkdir()
    for index, image in enumerate(drawings()):
        Image.fromarray(image).save(tmp_path / "in" / f"{index}.png")
    run("mark_with_ray.py", tmp_path / "in", tmp_path / "out", cache=tmp_path)
    inputs = [seen(Image.open(path)) for path in (tmp_path / "out").iterdir()]
    assert len(inputs) == 3
    for source in drawings():
        expected = seen(Image.fromarray(source))
        assert any(np.array_equal(expected, given) for given in inputs)


def run(example: str, *arguments: Path | str, cache: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(cache / "hf"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "examples" / example, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
