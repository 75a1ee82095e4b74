"""Readers against timm's and torchvision's own transforms."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.transforms.eval_transform import INTERPOLATIONS
from nullspace_cli.engine.transforms.readers import TENSOR_FILTERS, spelled_out
from tests.versions import filters_beyond_squares

Array = NDArray[Any]

SIZES = [(32, 32), (36, 36), (45, 70), (70, 45), (5, 3), (1, 1), (31, 200), (64, 33), (101, 97), (640, 480)]


def random_image(width: int, height: int) -> Array:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor_of(pixels: Array) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).movedim(-1, 0)


def torchvisions(name: str, library: Any = transforms, **size: Any) -> Any:
    """The resize by that name as torchvision spells it."""
    mode, aliased = name.removeprefix("torch-").removesuffix("-aliased"), name.endswith("-aliased")
    return library.Resize(**size, interpolation=InterpolationMode(mode), antialias=not aliased)


@pytest.mark.parametrize("crop_pct", ["0.875", "0.9", "1"])
@pytest.mark.parametrize("name", TENSOR_FILTERS)
def test_resizes_of_tensors_are_torchvisions(name: str, crop_pct: str) -> None:
    reader = spelled_out(f"32/{name}/{crop_pct}")
    reference = transforms.Compose([torchvisions(name, size=int(32 / float(crop_pct))), transforms.CenterCrop(32)])
    for width, height in SIZES:
        pixels = random_image(width, height)
        assert np.array_equal(reader.input_pixels(pixels), reference(tensor_of(pixels)).movedim(0, -1).numpy())


@pytest.mark.parametrize("name", TENSOR_FILTERS)
def test_a_squash_is_torchvisions_resize_to_two_sides(name: str) -> None:
    reader = spelled_out(f"24x41/{name}/squash")
    for width, height in SIZES:
        pixels = random_image(width, height)
        expected = torchvisions(name, size=(24, 41))(tensor_of(pixels))
        assert np.array_equal(reader.input_pixels(pixels), expected.movedim(0, -1).numpy())


@pytest.mark.parametrize("name", sorted(TENSOR_FILTERS.keys() - {"torch-bicubic-aliased"}))
def test_torchvisions_integers_are_a_level_off_at_most(name: str) -> None:
    """Its second version resizes 8-bit tensors in whole numbers; one filter by much, clipping between two passes."""
    reader = spelled_out(f"64/{name}/squash")
    pixels = random_image(200, 150)
    other = torchvisions(name, v2, size=(64, 64))(tensor_of(pixels)).movedim(0, -1).numpy()
    assert np.abs(reader.input_pixels(pixels).astype(int) - other).max() <= 1


@pytest.mark.parametrize("size", ["32", pytest.param("24x41", marks=filters_beyond_squares)])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_pillows_filters_are_timms_transform(interpolation: str, size: str) -> None:
    reader = spelled_out(f"{size}/{interpolation}/0.9")
    assert reader.in_two_passes
    reference = create_transform(
        **{"input_size": reader.transform.input_size, "interpolation": interpolation, "crop_pct": 0.9},
        **{"mean": (0, 0, 0), "std": (1, 1, 1), "is_training": False},
    )
    for width, height in SIZES:
        pixels = random_image(width, height)
        expected = reference(Image.fromarray(pixels)).movedim(0, -1).numpy()
        assert np.array_equal(reader.input_pixels(pixels).astype(np.float32) / 255, expected)


@pytest.mark.parametrize("text", [f"24x41/{name}/{crop}" for name in TENSOR_FILTERS for crop in ("0.9", "squash")])
def test_operators_of_tensor_resizes_round_to_what_is_read(text: str) -> None:
    reader = spelled_out(text)
    assert not reader.in_two_passes
    for width, height in SIZES:
        pixels = random_image(width, height)
        seen = reader.operator(width, height).apply(tensor_of(pixels).double() / 255) * 255
        error = (seen.clamp(0, 255) - tensor_of(reader.input_pixels(pixels))).abs().max()
        assert error <= 0.5 + 1e-3, (width, height)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("224/bicubic/0.875", "224/bicubic/0.875"),
        (" 224 / Bicubic / .9", "224/bicubic/0.9"),
        ("224x224/lanczos/1.0", "224/lanczos/1"),
        ("256x128/torch-bilinear-aliased/Squash", "256x128/torch-bilinear-aliased/squash"),
    ],
)
def test_equal_readers_have_one_name(text: str, name: str) -> None:
    assert spelled_out(text).name == name
    assert spelled_out(name) == spelled_out(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("224/bicubic", "it has 2 parts, and not 3"),
        ("/bicubic/1", "'' is no size"),
        ("0/bicubic/1", "'0' is no size"),
        ("224x/bicubic/1", "'224x' is no size"),
        ("99999/bicubic/1", "input_size is [3, 99999, 99999]"),
        ("224/cubic/1", "there is no filter 'cubic'"),
        ("224/bicubic/0", "'0' is no share"),
        ("224/bicubic/1.01", "'1.01' is no share"),
        ("224/bicubic/nan", "'nan' is no share"),
        ("224/bicubic/x", "'x' is no share"),
        ("224/bicubic/1e-9", "crop_pct is 1e-09"),
    ],
)
def test_what_is_no_reader_is_refused_with_the_form(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as refusal:
        spelled_out(text)
    assert reason in str(refusal.value)
    assert "Expected SIZE/FILTER/CROP_PCT, as 224/bicubic/0.875, or a model's name." in str(refusal.value)
