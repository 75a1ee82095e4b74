"""What timm's pretrained tags read pictures with, counted again by timm alone."""

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
from timm.data import resolve_data_config
from timm.models import _registry

from nullspace_cli.engine.models.common_readers import as_tensor_readers, common_readers, tags_by_transform
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

Combination = tuple[tuple[int, int, int], str, float, str]


@pytest.fixture(scope="module")
def counted() -> Counter[Combination]:
    """Tags by input size, filter, crop_pct and crop_mode."""
    counts: Counter[Combination] = Counter()
    for name in timm.list_models(pretrained=True):
        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        counts[config["input_size"], config["interpolation"], config["crop_pct"], config["crop_mode"]] += 1
    return counts


def test_the_tags_are_timms(counted: Counter[Combination]) -> None:
    ours = {(t.input_size, t.interpolation, t.crop_pct, t.crop_mode): tags for t, tags in tags_by_transform()}
    assert ours == counted


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it is remembered in this test: nothing is yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path / "vitnull" / "readers.json"
    tags_by_transform.cache_clear()


def read_again() -> tuple[tuple[EvalTransform, int], ...]:
    tags_by_transform.cache_clear()
    return tags_by_transform()


def test_what_has_been_counted_is_remembered_of_these_versions_alone(file: Path) -> None:
    found = read_again()
    written = json.loads(file.read_text())
    assert read_again() == found
    for other in ({**written, "versions": ["0.9.0", "0.1.0"], "readers": []}, {**written, "readers": [{"tags": 1}]}):
        file.write_text(json.dumps(other))
        assert read_again() == found
        assert json.loads(file.read_text()) == written
    fewer = {**written, "readers": written["readers"][:3]}
    file.write_text(json.dumps(fewer))
    assert read_again() == found[:3], "seen to be read"


def test_networks_that_others_registered_are_no_tags_of_timms(
    file: Path, monkeypatch: pytest.MonkeyPatch, counted: Counter[Combination]
) -> None:
    def resnet10t(**kwargs: object) -> object:
        return timm.create_model("resnet14t", **kwargs)

    monkeypatch.setitem(_registry._model_entrypoints, "resnet10t", resnet10t)
    tags = len(timm.list_pretrained("resnet10t"))
    assert tags > 0
    assert sum(number for _, number in read_again()) == counted.total() - tags


@pytest.mark.usefixtures("file")
def test_the_second_run_does_not_import_timm() -> None:
    program = (
        "import sys; from nullspace_cli.engine.models.common_readers import common_readers; "
        "print(len(common_readers(1600, 1200).readers), 'timm' in sys.modules)"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    )
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("True", "False")


def resized(combination: Combination, width: int, height: int) -> tuple[float, float]:
    """What an image is resized to, up to rounding."""
    (_, h, w), _, crop_pct, mode = combination
    h, w = math.floor(h / crop_pct), math.floor(w / crop_pct)
    if mode == "squash":
        return w, h
    ratio = (max if mode == "border" else min)(height / h, width / w)
    return width / ratio, height / ratio


@pytest.mark.parametrize(("width", "height"), [(1600, 1200), (700, 500), (448, 3000)])
def test_the_fewest_readers_of_nine_tenths_of_those_that_can_be_served(
    counted: Counter[Combination], width: int, height: int
) -> None:
    found = common_readers(width, height)
    chosen = {
        (t.input_size, t.interpolation, t.crop_pct, t.crop_mode) for t in (reader.transform for reader in found.readers)
    }
    servable = {}
    for combination, tags in counted.items():
        across, down = resized(combination, width, height)
        if width / across >= 2 - 1e-2 and height / down >= 2 - 1e-2:
            servable[combination] = tags
    assert found.tags == counted.total()
    assert found.servable == sum(servable.values())
    assert chosen <= set(servable)
    assert found.covered == sum(counted[combination] for combination in chosen) >= 0.9 * found.servable
    # Each tag is of one combination: no set of fewer covers more than the most used ones do.
    fewer = sorted(servable.values(), reverse=True)[: len(chosen) - 1]
    assert sum(fewer) < 0.9 * found.servable


def test_a_picture_too_small_for_all_has_no_common_reader() -> None:
    found = common_readers(64, 64)
    assert (found.readers, found.covered, found.servable) == ((), 0, 0)


def test_tensors_are_resized_by_the_same_transform() -> None:
    readers = common_readers(1600, 1200).readers
    twins = as_tensor_readers(readers)
    assert [twin.name for twin in twins] == [
        reader.name.replace("/bi", "/torch-bi", 1) for reader in readers if "/bi" in reader.name
    ]
    assert all(twin.tensor_resize is not None and twin.tensor_resize.antialias for twin in twins)
