"""The eval transform against timm's own, and its linear view against PIL's float resize."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from nullspace_cli.engine.errors import ImageError, ModelError
from nullspace_cli.engine.transforms.eval_transform import CROP_MODES, INTERPOLATIONS, EvalTransform
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from tests.versions import FILTERS_BEYOND_SQUARES, filters_beyond_squares

Array = NDArray[Any]

CONFIG: dict[str, Any] = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
SIZES = [(32, 32), (36, 36), (45, 70), (70, 45), (37, 36), (5, 3), (1, 1), (31, 200), (200, 9), (64, 33), (101, 97)]
CROP_PCTS = [0.875, 0.9, 0.95, 1.0, 1.15]


def transform_of(**changes: Any) -> EvalTransform:
    return EvalTransform.from_data_config(CONFIG | changes)


def random_image(width: int, height: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_image(width: int, height: int) -> Array:
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(3 * x + 2 * y + phase) for phase in (0, 1, 2)]
    return np.rint(127.5 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def as_tensor(pixels: Array, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(pixels).movedim(-1, -3).to(dtype) / 255


# --- timm's transform


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_squashed_is_torchvisions_plain_resize(crop_mode: str) -> None:
    plain = transforms.Compose(
        [
            transforms.Resize((24, 41)),
            transforms.ToTensor(),
            transforms.Normalize(CONFIG["mean"], CONFIG["std"]),
        ]
    )
    transform = transform_of(input_size=(3, 24, 41), crop_mode=crop_mode, crop_pct=0.95).squashed()
    for width, height in SIZES:
        pixels = random_image(width, height)
        assert torch.equal(transform(pixels), plain(Image.fromarray(pixels)))


@pytest.mark.parametrize("crop_pct", CROP_PCTS)
@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("input_size", [(3, 32, 32), (3, 24, 41), (3, 40, 17)])
def test_same_bits_as_timm(
    input_size: tuple[int, int, int], interpolation: str, crop_mode: str, crop_pct: float
) -> None:
    config = CONFIG | {
        "input_size": input_size,
        "interpolation": interpolation,
        "crop_mode": crop_mode,
        "crop_pct": crop_pct,
    }
    if crop_mode == "center" and input_size[1] != input_size[2] and not FILTERS_BEYOND_SQUARES:
        config["interpolation"] = "bilinear"
    reference, transform = create_transform(**config, is_training=False), EvalTransform.from_data_config(config)
    for width, height in SIZES:
        pixels = random_image(width, height)
        assert torch.equal(transform(pixels), reference(Image.fromarray(pixels))), (width, height)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", [(32, 32), pytest.param((24, 41), marks=filters_beyond_squares)])
def test_grey_is_what_timm_makes_of_a_picture_in_mode_l(size: tuple[int, int], crop_mode: str) -> None:
    config = CONFIG | {"input_size": (1, *size), "mean": (0.45,), "std": (0.23,), "crop_mode": crop_mode}
    reference, transform = create_transform(**config, is_training=False), EvalTransform.from_data_config(config)
    for width, height in SIZES:
        pixels = random_image(width, height)
        assert torch.equal(transform(pixels), reference(Image.fromarray(pixels).convert("L"))), (width, height)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 120),
    st.integers(1, 120),
    st.sampled_from(CROP_MODES),
    st.floats(0.5, 1.5),
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
)
def test_same_geometry_as_timm(width: int, height: int, crop_mode: str, crop_pct: float, size: tuple[int, int]) -> None:
    """With nearest resampling of an image of coordinates, the output tells where each pixel came from."""
    config = CONFIG | {
        "input_size": (3, *size),
        "interpolation": "nearest",
        "crop_mode": crop_mode,
        "crop_pct": crop_pct,
    }
    transform = EvalTransform.from_data_config(config)
    height_told, width_told = (math.floor(side / crop_pct) for side in size)
    assume(FILTERS_BEYOND_SQUARES or crop_mode != "center" or height_told == width_told)
    try:
        geometry = transform.geometry(width, height)
    except ImageError:
        return
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([y + 1, x + 1, x + y], axis=2).astype(np.uint8)
    assert torch.equal(transform(pixels), create_transform(**config, is_training=False)(Image.fromarray(pixels)))
    assert geometry.source == (width, height)
    assert geometry.crop == size
    assert transform.resize(pixels).shape[1::-1] == geometry.resized


def test_geometry_by_hand() -> None:
    geometry = transform_of(input_size=(3, 224, 224)).geometry(500, 375)
    assert (geometry.resized, geometry.top, geometry.left) == ((341, 256), 16, 58)  # 42.5 and 58.5 round to even
    border = transform_of(input_size=(3, 224, 224), crop_mode="border", crop_pct=1.0).geometry(500, 375)
    assert (border.resized, border.top, border.left, border.fill) == ((224, 168), -28, 0, (124, 116, 104))


def test_the_steps_make_the_whole() -> None:
    transform, pixels = transform_of(), smooth_image(60, 50)
    seen = transform.input_pixels(pixels)
    np.testing.assert_array_equal(seen, transform.crop(transform.resize(pixels)))
    assert torch.equal(transform(pixels), transform.normalize(seen))
    assert torch.equal(transform.normalize(np.stack([seen, seen[::-1]]))[0], transform(pixels))


def test_input_is_left_alone_and_may_be_read_only() -> None:
    for size in [(32, 32), (36, 36), (50, 60)]:
        pixels = random_image(*size)
        before = pixels.copy()
        pixels.setflags(write=False)
        transform_of()(pixels)
        transform_of().input_pixels(pixels)[:] = 0
        np.testing.assert_array_equal(pixels, before)
        turned = transform_of().normalize(pixels[::-1, ::-1])
        assert torch.equal(turned, transform_of().normalize(pixels).flip(-1, -2))


@pytest.mark.parametrize(
    ("crop_mode", "size"), [("border", (4000, 1)), ("center", (1, 2_000_000)), ("center", (3000, 3))]
)
def test_too_elongated(crop_mode: str, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="too elongated"):
        transform_of(input_size=(3, 224, 224), crop_mode=crop_mode).geometry(*size)


# --- spaces


def test_spaces_and_deltas() -> None:
    transform = transform_of()
    x, y = torch.rand(2, 4, 3, 5, 6, dtype=torch.float64)
    mean, std = (torch.tensor(CONFIG[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(transform.to_normalized(x), (x - mean) / std)
    torch.testing.assert_close(transform.to_pixels(transform.to_normalized(x)), x)
    torch.testing.assert_close(
        transform.delta_to_normalized(x - y), transform.to_normalized(x) - transform.to_normalized(y)
    )
    torch.testing.assert_close(transform.delta_to_pixels(x - y), transform.to_pixels(x) - transform.to_pixels(y))
    with pytest.raises(TypeError, match="as floats"):
        transform.to_normalized(torch.zeros(3, 2, 2, dtype=torch.uint8))


# --- the data config


def test_config_from_timm_or_json() -> None:
    assert transform_of() == transform_of(mean=list(CONFIG["mean"]), input_size=[3, 32, 32])
    assert transform_of(crop_pct=None, crop_mode=None) == transform_of(crop_pct=0.875, crop_mode="center")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": (1, 32, 32)}, "are not 1 numbers each"),
        ({"input_size": (3, 0, 32)}, "input_size"),
        ({"input_size": (32, 32)}, "input_size"),
        ({"mean": (0.5,)}, "mean"),
        ({"mean": (0.5, math.nan, 0.5)}, r"mean\[1\] is nan; expected a number"),
        ({"mean": "0.5"}, r"mean is '0.5' \(text\); expected a list"),
        ({"mean": (0.5, "0.5", 0.5)}, r"mean\[1\] is '0.5' \(text\); expected a number"),
        ({"mean": (0.5, True, 0.5)}, r"mean\[1\] is true; expected a number"),
        ({"mean": (300, 0.5, 0.5), "crop_mode": "border"}, "pads with its mean colour"),
        ({"std": (0.5, 0.0, 0.5)}, r"std\[1\] is 0.0; expected a number of at least 1e-06"),
        ({"std": (0.5, [0.5], 0.5)}, r"std\[1\] is a list of 1; expected a number"),
        ({"input_size": "3x32x32"}, r"input_size is '3x32x32' \(text\)"),
        ({"input_size": (3, 32.0, 32)}, r"input_size\[1\] is 32.0; expected a whole number"),
        ({"input_size": (3, 10**9, 10**9)}, "expected at most 4096 channels and 33554432 pixels"),
        ({"interpolation": 3}, "interpolation is 3; expected one of 'nearest', 'box'"),
        ({"crop_pct": "0.9"}, r"crop_pct is '0.9' \(text\); expected a number above 0"),
        ({"crop_pct": 5e-324}, "crop_pct is 5e-324; expected a fraction"),
        ({"interpolation": "random"}, "interpolation is 'random'"),
        ({"interpolation": None}, "lacks interpolation"),
        ({"crop_pct": -1.0}, "crop_pct"),
        ({"crop_pct": math.nan}, "crop_pct"),
        ({"crop_pct": 33.0, "input_size": (3, 40, 32)}, "crop_pct"),
        ({"crop_mode": "middle"}, "crop_mode is 'middle'"),
        ({"crop_border_pixels": 4}, "has crop_border_pixels"),
    ],
)
def test_config_that_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        transform_of(**changes)


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_a_model_of_other_channels_takes_no_pictures(channels: int) -> None:
    transform = transform_of(input_size=(channels, 32, 32), mean=(0.5,) * channels, std=(0.5,) * channels)
    assert transform.to_normalized(torch.ones(2, channels, 4, 4)).unique().tolist() == [1.0]
    with pytest.raises(ModelError, match=f"reads {channels} channels"):
        transform(random_image(40, 40))


# --- the linear view


def float_reference(transform: EvalTransform, pixels: Array) -> Array:
    """PIL's resize of each channel in mode F, then the crop, without any rounding to 8 bits."""
    height, width, _ = pixels.shape
    geometry = transform.geometry(width, height)
    (crop_height, crop_width), (resized_width, resized_height) = geometry.crop, geometry.resized
    out = np.tile(np.array(geometry.fill) / 255, (crop_height, crop_width, 1))
    for channel in range(3):
        image = Image.fromarray(pixels[..., channel].astype(np.float32) / 255)
        resized = np.asarray(image.resize(geometry.resized, Image.Resampling[transform.interpolation.upper()]))
        for y in range(crop_height):
            for x in range(crop_width):
                row, column = y + geometry.top, x + geometry.left
                if 0 <= row < resized_height and 0 <= column < resized_width:
                    out[y, x, channel] = resized[row, column]
    return out


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("crop_mode", "crop_pct", "size"),
    [
        ("center", 0.875, (75, 50)),
        ("center", 1.15, (50, 75)),
        ("center", 0.875, (36, 50)),
        ("squash", 1.0, (10, 90)),
        ("border", 0.9, (91, 40)),
    ],
)
def test_view_is_pils_float_resize(interpolation: str, crop_mode: str, crop_pct: float, size: tuple[int, int]) -> None:
    transform = transform_of(interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct)
    pixels = random_image(*size)
    view = ResizeOperator(transform, *size)
    seen = view.apply(as_tensor(pixels)).movedim(0, -1).numpy()
    np.testing.assert_allclose(seen, float_reference(transform, pixels), atol=1e-6)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_coefficients_for_many_sizes(interpolation: str) -> None:
    for size in range(1, 90, 4):
        for crop in (1, 7, 30, 64):
            transform = transform_of(
                input_size=(3, crop, crop), interpolation=interpolation, crop_mode="squash", crop_pct=1.0
            )
            noise = np.random.default_rng(size).random((2, size), dtype=np.float32)
            expected = np.asarray(Image.fromarray(noise).resize((crop, 2), Image.Resampling[interpolation.upper()]))
            cols = ResizeOperator(transform, size, size).cols
            np.testing.assert_allclose(noise @ cols.to_dense().numpy().T, expected, atol=1e-6)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_rows_sum_to_one_inside_and_padding_is_the_fill(interpolation: str) -> None:
    view = ResizeOperator(transform_of(interpolation=interpolation, crop_mode="border", crop_pct=1.0), 80, 40)
    row_sums, column_sums = (matrix.to_dense().sum(dim=1) for matrix in (view.rows, view.cols))
    torch.testing.assert_close(row_sums[8:24], torch.ones(16, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(column_sums, torch.ones(32, dtype=torch.float64), rtol=0, atol=1e-14)
    assert not row_sums[:8].any()
    assert not row_sums[24:].any()
    assert not view.fill[:, 8:24].any()
    assert (view.fill[:, :8, 0] * 255).T.round().tolist() == [[124, 116, 104]] * 8


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_an_axis_that_keeps_its_size_is_copied(interpolation: str) -> None:
    view = ResizeOperator(transform_of(interpolation=interpolation, crop_mode="squash", crop_pct=1.0), 50, 32)
    assert view.rows._nnz() == 32
    assert torch.equal(view.rows.to_dense(), torch.eye(32, dtype=torch.float64))


def test_memory_is_that_of_the_taps() -> None:
    view = ResizeOperator(transform_of(), 4000, 3000)
    assert view.rows.shape == (32, 3000)
    assert view.rows.is_sparse
    assert view.rows._nnz() <= 32 * (2 * math.ceil(2 * 3000 / 36) + 1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(INTERPOLATIONS),
    st.sampled_from(CROP_MODES),
    st.sampled_from(CROP_PCTS),
    st.tuples(st.integers(2, 20), st.integers(2, 20)),
)
def test_adjoint(
    width: int, height: int, interpolation: str, crop_mode: str, crop_pct: float, size: tuple[int, int]
) -> None:
    transform = transform_of(input_size=(3, *size), interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct)
    try:
        view = ResizeOperator(transform, width, height)
    except ImageError:
        return
    generator = torch.Generator().manual_seed(width * 61 + height)
    x = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    left, right = ((view.apply(x) - view.fill) * y).sum(), (x * view.adjoint(y)).sum()
    assert view.adjoint(y).shape == x.shape
    assert abs(left - right) <= 1e-10 * (1 + x.norm() * y.norm())


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("crop_mode", "size"), [("center", (75, 50)), ("border", (91, 40)), ("squash", (20, 30))])
def test_view_is_within_pils_rounding_of_the_transform(
    interpolation: str, crop_mode: str, size: tuple[int, int]
) -> None:
    transform = transform_of(interpolation=interpolation, crop_mode=crop_mode)
    pixels = smooth_image(*size)
    seen = ResizeOperator(transform, *size).apply(as_tensor(pixels))
    assert (seen - as_tensor(transform.input_pixels(pixels))).abs().max() * 255 <= 1.3


def test_batches_precision_and_gradient() -> None:
    view = ResizeOperator(transform_of(), 50, 40)
    images = torch.rand(2, 5, 3, 40, 50, dtype=torch.float64)
    seen = view.apply(images)
    torch.testing.assert_close(seen[1, 4], view.apply(images[1, 4]))
    single = view.to(dtype=torch.float32)
    assert single.apply(images.float()).dtype == torch.float32
    torch.testing.assert_close(single.apply(images.float()), seen.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(single.adjoint(seen.float()), view.adjoint(seen).float(), rtol=0, atol=1e-5)
    assert view.rows.dtype == torch.float64
    x = images[0, 0].clone().requires_grad_()
    y = torch.rand(3, 32, 32, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((view.apply(x) * y).sum(), x)
    torch.testing.assert_close(gradient, view.adjoint(y))


def test_importing_needs_neither_timm_nor_torchvision() -> None:
    code = (
        "import sys, nullspace_cli.engine.transforms.eval_transform\n"  # what it brings along
        "sys.exit(bool({'timm', 'torchvision'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
