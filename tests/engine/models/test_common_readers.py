"""What timm's pretrained tags read pictures with, counted again by timm alone."""

import math
from collections import Counter

import pytest
import timm
from timm.data import resolve_data_config

from nullspace_cli.engine.models.common_readers import as_tensor_readers, common_readers, tags_by_transform

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
