"""Nullspaces: against scipy's by their projectors, asked of the network itself, saved, and refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nullspace_cli import (
    ImageNullspace,
    Model,
    NearNullspace,
    Nullspace,
    VitnullError,
    check_nullspace,
    find_nullspace,
    load_model,
    wrap,
)
from nullspace_cli.engine.nullspace.stem_basis_file import read_near_basis, read_stem_basis
from tests.conftest import Vitnull
from tests.library.conftest import SMALL

STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scipys(matrix: Tensor) -> Tensor:
    """The projector onto the nullspace."""
    basis = scipy.linalg.null_space(matrix.double().numpy(), rcond=1e-9)
    return torch.from_numpy(basis @ basis.T)


def projector(nullspace: Nullspace) -> Tensor:
    basis = nullspace.basis.flatten(1)
    return basis.mT @ basis


def weight_of(plain: nn.Module) -> Tensor:
    weight: Tensor = plain.get_submodule("patch_embed.proj").weight.detach().double()  # type: ignore[operator]
    return weight


@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_of_a_model(space: Any, model: Model, plain: nn.Module) -> None:
    found = find_nullspace(model, space=space)
    weight = weight_of(plain)
    matrix = (weight / STD if space == "pixel" else weight).flatten(1)
    torch.testing.assert_close(projector(found), scipys(matrix), atol=1e-9, rtol=0)
    assert (found.rank, found.nullity, found.space) == (192, 576, space)
    assert found.basis.shape == (576, 3, 16, 16)
    assert found.basis.dtype == torch.float64
    torch.testing.assert_close(found.singular_values, torch.linalg.svdvals(matrix))
    rows = found.row_space.flatten(1)
    torch.testing.assert_close(rows.mT @ rows, torch.eye(768, dtype=torch.float64) - scipys(matrix), atol=1e-9, rtol=0)


def test_channel_by_channel(model: Model, plain: nn.Module) -> None:
    found = find_nullspace(model, per_channel=True)
    expected = torch.block_diag(*(scipys(channel.flatten(1)) for channel in weight_of(plain).unbind(1)))
    torch.testing.assert_close(projector(found), expected, atol=1e-9, rtol=0)
    assert found.nullity == 3 * 64
    assert found.singular_values.shape == (3, 192)


def test_of_a_kernel_that_lacks_rank() -> None:
    kernel = torch.randn(6, 2, 3, 4, generator=seeded(), dtype=torch.float64)
    kernel[5] = kernel[0] - 2 * kernel[1]
    found = find_nullspace(kernel)
    torch.testing.assert_close(projector(found), scipys(kernel.flatten(1)), atol=1e-12, rtol=0)
    assert (found.rank, found.nullity, tuple(found.basis.shape)) == (5, 19, (19, 2, 3, 4))


def test_of_a_matrix() -> None:
    matrix = torch.randn(7, 20, generator=seeded(), dtype=torch.float64)
    found = find_nullspace(matrix)
    torch.testing.assert_close(projector(found), scipys(matrix), atol=1e-12, rtol=0)
    assert found.basis.shape == (13, 20)
    assert found.row_space.shape == (7, 20)
    x = torch.randn(2, 3, 20, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(found.project(x), x @ scipys(matrix), atol=1e-12, rtol=0)


def test_a_tolerance_decides_what_is_zero() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.1, 1e-3], dtype=torch.float64))
    with pytest.raises(VitnullError, match="full rank 3 and no nullspace"):
        find_nullspace(matrix)
    assert find_nullspace(matrix, rtol=0.01).nullity == 1
    assert find_nullspace(matrix, rtol=0.5).nullity == 2


# Projections


def test_projected_images_are_unseen_patch_by_patch(model: Model, plain: nn.Module) -> None:
    """By the convolution itself; what whole patches leave over stays."""
    images = torch.rand(2, 3, 40, 35, generator=seeded(), dtype=torch.float64)
    found = find_nullspace(model, space="normalized").project(images)
    weight = weight_of(plain)
    seen = torch.nn.functional.conv2d(found, weight, stride=16)
    assert seen.abs().max() < 1e-9
    torch.testing.assert_close(found[..., 32:, :], images[..., 32:, :])
    torch.testing.assert_close(found[..., 32:], images[..., 32:])
    patch = images[1, :, 16:32, :16].flatten() @ scipys(weight.flatten(1))
    torch.testing.assert_close(found[1, :, 16:32, :16].flatten(), patch, atol=1e-9, rtol=0)


def test_patches_are_projected_as_vectors(model: Model) -> None:
    found = find_nullspace(model)
    x = torch.randn(5, 768, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(found.project(x), x @ projector(found), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.project(x[0]), found.project(x)[0])
    assert found.project(x.float()).dtype == torch.float32


def test_an_image_as_wide_as_a_patch_has_numbers_is_an_image(model: Model) -> None:
    found = find_nullspace(model)
    image = torch.rand(3, 16, 768, generator=seeded(), dtype=torch.float64)
    expected = torch.cat([found.project(part) for part in image.split(16, dim=2)], 2)
    torch.testing.assert_close(found.project(image), expected)


# Samples


def test_samples_are_unseen_and_of_the_asked_size(model: Model) -> None:
    found = find_nullspace(model)
    noise = found.sample((40, 35), rms=0.2, generator=seeded(1))
    assert noise.shape == (3, 40, 35)
    assert float(noise.square().mean().sqrt()) == pytest.approx(0.2)
    assert not noise[:, 32:].any()
    assert not noise[:, :, 32:].any()
    whole = noise[:, :32, :32]
    torch.testing.assert_close(found.project(whole), whole, atol=1e-9, rtol=0)
    assert len({round(float(patch.norm()), 6) for half in whole.split(16, 1) for patch in half.split(16, 2)}) == 4


def test_samples_are_standard_normal_in_the_basis(model: Model) -> None:
    found = find_nullspace(model)
    coefficients = found.sample((320, 320)).unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).flatten(2)
    coefficients = coefficients @ found.basis.flatten(1).mT
    assert float(coefficients.mean()) == pytest.approx(0, abs=0.01)
    assert float(coefficients.std()) == pytest.approx(1, abs=0.01)
    assert found.sample().shape == (3, 16, 16)


def test_samples_are_those_of_their_generator(model: Model) -> None:
    found = find_nullspace(model)
    a, again, b = (found.sample((32, 32), generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, again)
    assert not torch.allclose(a, b)
    assert torch.equal(found.sample((32, 32)), found.sample((32, 32), generator=seeded(0)))
    shared = seeded(1)
    assert not torch.allclose(found.sample((32, 32), generator=shared), found.sample((32, 32), generator=shared))


# Files


@pytest.mark.parametrize("compact", [False, True])
def test_a_saved_nullspace_is_what_was_found(compact: bool, model: Model, tmp_path: Path) -> None:
    found = find_nullspace(model)
    path = found.save(tmp_path / "basis.safetensors", compact=compact)
    tensors = load_file(path)
    assert ("basis" in tensors) == (not compact)
    assert torch.equal(tensors["row_space"], found.row_space)
    assert torch.equal(tensors["singular_values"], found.singular_values)
    assert compact or torch.equal(tensors["basis"], found.basis)


def test_a_saved_nullspace_is_read_by_the_command_line(model: Model, vitnull: Vitnull, tmp_path: Path) -> None:
    find_nullspace(model).save(tmp_path / "mine.safetensors")
    answer = vitnull(
        *("eval", "deit_tiny_patch16_224", "mine.safetensors", "--no-pretrained", "--seed", "3"),
        *(word for item in SMALL.items() for word in ("--model-kwargs", "=".join(map(str, item)))),
        *("--data", "demo", "--count", "3", "--json"),
    ).document
    exact = answer["results"][0]
    assert (exact["kind"], exact["transfer"], exact["match_percent"]) == ("exact", False, 100)


def test_a_file_that_is_there_is_kept(model: Model, tmp_path: Path) -> None:
    found, path = find_nullspace(model), tmp_path / "basis.safetensors"
    path.write_text("mine")
    with pytest.raises(VitnullError, match=r"basis\.safetensors"):
        found.save(path)
    assert path.read_text() == "mine"
    found.save(path, overwrite=True)
    assert "row_space" in load_file(path)


def test_a_weights_nullspace_belongs_to_no_file(tmp_path: Path) -> None:
    with pytest.raises(VitnullError, match="names no model"):
        find_nullspace(torch.ones(1, 3)).save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


# What the network says


def changes(plain: nn.Module, x: Tensor, noise: Tensor, mean_std: tuple[Tensor, Tensor]) -> float:
    mean, std = mean_std
    with torch.no_grad():
        before, after = (plain((image - mean) / std).double() for image in (x, x + noise.float()))
    return float((before - after).square().sum(1).mean())


def test_a_models_own_nullspace_passes(
    model: Model, plain: nn.Module, images: Tensor, mean_std: tuple[Tensor, Tensor]
) -> None:
    found = find_nullspace(model)
    check = check_nullspace(model, found, images=images, rms=0.3, generator=seeded(5))
    assert check.passed is True
    assert check.outputs == "logits"
    assert check.residual < 1e-9
    noise = found.sample((32, 32), rms=0.3, generator=seeded(9))
    assert changes(plain, images, noise, mean_std) < 1e-8 < 1e-4 < check.random_logit_mse
    # Another noise of that size moves it about as far.
    strange = torch.randn(3, 32, 32, generator=seeded(3)).double()
    strange *= noise.norm() / strange.norm()
    assert check.random_logit_mse == pytest.approx(changes(plain, images, strange, mean_std), rel=0.9)


def test_another_subspace_of_that_size_does_not_pass(model: Model, images: Tensor) -> None:
    other = torch.randn(192, 3, 16, 16, generator=seeded(7), dtype=torch.float64)
    claimed = find_nullspace(other)
    assert claimed.nullity == find_nullspace(model).nullity
    for shown in (images, None):
        check = check_nullspace(model, claimed, images=shown)
        assert check.passed is False
        assert check.null_logit_mse > 0.1 * check.random_logit_mse


def test_the_wrong_space_does_not_pass(model: Model) -> None:
    """Normalised differences taken for pixels: std differs by the channel."""
    found = find_nullspace(find_nullspace(model, space="normalized").row_space)
    assert check_nullspace(model, found).passed is False
    assert check_nullspace(model, find_nullspace(model, space="normalized")).passed is True


def test_a_network_that_ignores_its_input_says_nothing() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(module[2].weight)  # type: ignore[arg-type]
    blind = wrap(module, mean=[0.5] * 3, std=[0.5] * 3, input_size=(3, 32, 32))
    assert check_nullspace(blind, find_nullspace(blind)).passed is None


# What is refused

MATRIX = torch.eye(3)[:2]
find: Any = find_nullspace  # without their types, which forbid what is asked here
check: Any = check_nullspace


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: find("demo"), "weight is 'demo'; expected a Model, or floats"),
        (lambda m: find(m.module), "weight is VisionTransformer; expected a Model"),
        (lambda m: find(np.eye(3)), r"weight is an array of float64 \[3, 3\]"),
        (lambda m: find(torch.ones(3)), r"weight is a tensor of torch.float32 \[3\]"),
        (lambda m: find(torch.ones(2, 3).long()), "weight is a tensor of torch.int64"),
        (lambda m: find(torch.ones(0, 3)), r"weight is a tensor of torch.float32 \[0, 3\]"),
        (lambda m: find(torch.tensor([[1.0, torch.nan]])), "weight holds values that are not finite"),
        (lambda m: find(torch.zeros(2, 3)), "weight is all 0"),
        (lambda m: find(torch.eye(3)), r"The weight \[3, 3\] has full rank 3"),
        (lambda m: find(m, space="pixels"), "space is 'pixels'; expected one of 'pixel', 'normalized'"),
        (lambda m: find(m, rtol=-1), "rtol is -1; expected a number of at least 0"),
        (lambda m: find(m, rtol=1.5), "rtol is 1.5; expected a number below 1"),
        (lambda m: find(MATRIX).project(torch.ones(4)), r"x is .* \[4\]; expected floats \[..., 3\]"),
        (lambda m: find(MATRIX).project(torch.ones(3).int()), "x is a tensor of torch.int32"),
        (lambda m: find(m).project(torch.ones(1, 32, 32)), r"x is .*expected floats .*\[..., 3, h, w\]"),
        (lambda m: find(m).project((255 * torch.ones(3, 32, 32)).byte()), "x is a tensor of torch.uint8"),
        (lambda m: find(m).project(torch.ones(2, 4, 768)), r"x is .*expected floats \[768\], \[p, 768\]"),
        (lambda m: find(m).project(torch.tensor(1.0)), "x is"),
        (lambda m: find(m).project(np.ones((3, 32, 32))), "x is an array of float64"),
        (lambda m: find(MATRIX).sample((4, 4)), "nullspace of a matrix has no images"),
        (lambda m: find(m).sample((32, 8)), "size's width is 8; expected a whole number of at least 16"),
        (lambda m: find(m).sample(32), r"size is 32; expected \(height, width\)"),
        (lambda m: find(m).sample(rms=-1), "rms is -1; expected a number above 0"),
        (lambda m: find(m).sample(generator=0), "generator is 0; expected a torch.Generator"),
        (lambda m: check(m.module, find(m)), "model is VisionTransformer; expected a Model"),
        (lambda m: check(m, find(m).basis), "nullspace is a tensor of .*find_nullspace"),
        (lambda m: check(m, find(MATRIX)), "not one of patches with 3 channels"),
        (lambda m: check(m, find(torch.ones(1, 1, 16, 16))), "patches with 3 channels"),
        (lambda m: check(m, find(torch.ones(1, 3, 64, 64))), "at least 64"),
        (lambda m: check(m, find(m), rms=0), "rms is 0; expected a number above 0"),
        (lambda m: check(m, find(m), images=torch.ones(2, 3, 8, 8)), "images have the shape"),
        (lambda m: check(m, find(m), images=255 * torch.ones(1, 3, 32, 32)), "images reach from"),
    ],
)
def test_what_is_refused(ask: Callable[[Any], Any], message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        ask(model)


def test_a_convolutional_network_that_reads_everything() -> None:
    cnn = wrap(
        nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
        mean=[0.5] * 3,
        std=[0.5] * 3,
        input_size=(3, 32, 32),
        name="mine",
    )
    with pytest.raises(VitnullError, match="mine has no exact nullspace: its first layers read 3072 numbers by 4096"):
        find(cnn)


# Of whole images


@pytest.fixture(scope="module")
def pit() -> Model:
    """Windows of 16 pixels every 8, on images of 32: 3072 numbers, read by 3 x 3 x 64."""
    return load_model("pit_ti_224", pretrained=False, device="cpu", img_size=32, num_classes=10)


@pytest.fixture(scope="module")
def whole(pit: Model) -> ImageNullspace:
    found = find_nullspace(pit)
    assert isinstance(found, ImageNullspace)
    return found


def seen_of(pit: Model, images: Tensor) -> Tensor:
    """What timm's layer makes of differences of images in [0, 1], its bias left out."""
    weight = pit.module.get_submodule("patch_embed.conv").weight.detach().double()  # type: ignore[operator]
    return torch.nn.functional.conv2d(images / STD, weight, stride=8)


def test_an_image_as_a_whole(pit: Model, whole: ImageNullspace) -> None:
    assert (whole.rank, whole.nullity, whole.image_size) == (576, 2496, (3, 32, 32))
    assert whole.to_dict()["kind"] == "affine"
    assert repr(whole) == "<Nullspace rank 576, nullity 2496, pixel space>"
    x = torch.rand(2, 4, 3, 32, 32, generator=seeded(), dtype=torch.float64)
    null = whole.project(x)
    assert seen_of(pit, null.flatten(0, 1)).abs().max() < 1e-10
    torch.testing.assert_close(whole.project(null), null, atol=1e-10, rtol=0)
    # What is taken away is orthogonal to all that is null: the projection is the nearest.
    assert ((x - null) * whole.sample(generator=seeded(3))).sum((2, 3, 4)).abs().max() < 1e-8
    assert whole.project(x.float()).dtype == torch.float32


def test_noise_over_an_image(pit: Model, whole: ImageNullspace) -> None:
    noise = whole.sample((32, 32), rms=0.2, generator=seeded(1))
    assert noise.square().mean().sqrt() == pytest.approx(0.2)
    assert torch.equal(noise, whole.sample(rms=0.2, generator=seeded(1)))
    assert seen_of(pit, noise[None]).abs().max() < 1e-10
    assert float(whole.sample().square().sum()) == pytest.approx(2496, rel=0.1)
    check = check_nullspace(pit, whole)
    assert check.passed
    normal = find_nullspace(pit, space="normalized")
    assert seen_of(pit, normal.sample()[None] * STD).abs().max() < 1e-10


def test_a_file_of_whole_images(pit: Model, whole: ImageNullspace, tmp_path: Path) -> None:
    basis, _ = read_stem_basis(whole.save(tmp_path / "p.safetensors"), pit)
    assert basis.describe() == whole.to_dict()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda whole, model: whole.basis, "no basis of 2496 dimensions of whole images"),
        (lambda whole, model: whole.row_space, "no row_space of"),
        (lambda whole, model: whole.singular_values, "no singular_values of"),
        (lambda whole, model: whole.project(torch.zeros(3, 32, 40)), r"expected floats \[\.\.\., 3, 32, 32\]"),
        (lambda whole, model: whole.sample((32, 40)), r"expected \(32, 32\), or None for it"),
        (lambda whole, model: check_nullspace(wrapped(), whole), "images of 3 x 32 x 32; Sequential reads 3 x 32 x 40"),
    ],
)
def test_what_whole_images_do_not_have(
    ask: Callable[[ImageNullspace, Model], object], words: str, pit: Model, whole: ImageNullspace
) -> None:
    with pytest.raises(VitnullError, match=words):
        ask(whole, pit)


# Hardly read


def test_what_is_hardly_read_of_whole_images(pit: Model) -> None:
    found = find_nullspace(pit, rtol=0.7)
    assert isinstance(found, NearNullspace)
    eye = torch.eye(3072, dtype=torch.float64).reshape(-1, 3, 32, 32)
    sigma = torch.linalg.svdvals(seen_of(pit, eye).flatten(1))
    assert (found.nullity, found.rank) == (3072 - int((sigma > 0.7 * sigma[0]).sum()), 3072 - found.nullity)
    assert 2496 < found.nullity < 3072
    assert found.output_bound == pytest.approx(0.7 * float(sigma[0]), rel=1e-3)
    assert found.to_dict()["nullity"] == found.nullity
    images = torch.rand(2, 3, 32, 32, generator=seeded(), dtype=torch.float64)
    left = found.filter(torch.cat([images, images[:1] * 0]))
    for noise in (*left[:2], found.sample(rms=0.1, generator=seeded(1))):
        assert 1e-3 * found.output_bound < seen_of(pit, noise[None]).norm() / noise.norm() <= found.output_bound
    assert not left[2].any()
    # What no output reads is left as it is.
    null = find_nullspace(pit).sample(generator=seeded(2))
    torch.testing.assert_close(found.filter(null), null, atol=1e-9, rtol=0)
    check = check_nullspace(pit, found)
    assert check.passed is False
    assert check.null_change < check.random_change
    assert repr(found).startswith("<NearNullspace rtol 0.7, output_bound ")


def test_a_file_of_what_is_hardly_read(pit: Model, tmp_path: Path) -> None:
    found = find_nullspace(pit, rtol=0.7)
    basis, _ = read_near_basis(found.save(tmp_path / "n.safetensors"), pit)
    assert basis.rtol == 0.7
    assert torch.equal(basis.draw(4), found.sample(generator=seeded(4)))


@pytest.mark.parametrize("name", ["basis", "row_space", "singular_values"])
def test_what_a_filter_does_not_have(name: str, pit: Model) -> None:
    found = find_nullspace(pit, rtol=0.7)
    with pytest.raises(VitnullError, match=f"no {name} of what is hardly read of whole images. Use `filter`"):
        getattr(found, name)
    with pytest.raises(VitnullError, match="no projection of what is hardly read"):
        found.project(torch.zeros(3, 32, 32))


def wrapped() -> Model:
    module = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(80, 2))
    return wrap(module, mean=[0.5] * 3, std=[0.5] * 3, input_size=(3, 32, 40))
