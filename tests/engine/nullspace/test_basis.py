"""The nullspace of real architectures: the known nullities, the check through the network, and what has none."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nullspace_cli.engine.errors import ArtifactError, ModelError, NoNullspaceError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import injection_site
from nullspace_cli.engine.nullspace.basis import PatchBasis, find_basis
from nullspace_cli.engine.nullspace.basis_file import load_row_space, save_basis
from nullspace_cli.engine.nullspace.check import check_basis
from nullspace_cli.engine.nullspace.patch_embedding import Nullspace, PatchMap, Space
from nullspace_cli.engine.nullspace.sampling import equal_norm_noise, null_noise


def load(name: str, **kwargs: Any) -> Model:
    return load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu"))


@pytest.fixture(scope="module")
def demo() -> Model:
    return load_model(ModelRequest("demo", device="cpu"))


@pytest.fixture(scope="module")
def found(demo: Model) -> PatchBasis:
    return find_basis(demo)


@pytest.mark.parametrize(
    ("name", "kwargs", "n", "d", "joint", "per_channel"),
    [
        ("vit_small_patch32_224", {}, 3072, 384, 2688, 640),
        ("vit_base_patch32_224", {}, 3072, 768, 2304, 256),
        ("vit_large_patch32_224", {}, 3072, 1024, 2048, 0),
        ("vit_tiny_patch16_224", {}, 768, 192, 576, 64),
        ("deit_tiny_patch16_224", {}, 768, 192, 576, 64),
        ("vit_small_patch16_224", {}, 768, 384, 384, 0),
        ("deit_small_patch16_224", {}, 768, 384, 384, 0),
        ("vit_small_patch14_dinov2", {"img_size": 56}, 588, 384, 204, 0),
        ("naflexvit_base_patch16_gap", {"embed_dim": 192, "num_heads": 3}, 768, 192, 576, 64),
    ],
)
def test_known_nullities(name: str, kwargs: dict[str, Any], n: int, d: int, joint: int, per_channel: int) -> None:
    described = find_basis(load(name, depth=1, **kwargs)).describe()
    assert (described["patch_dim"], described["embed_dim"]) == (n, d)
    assert (described["rank"], described["nullity"]) == (d, joint)
    assert described["nullity_per_channel"] == [per_channel] * 3


def test_full_rank_is_decided_by_the_numbers() -> None:
    model = load("vit_base_patch16_224", depth=1)
    with pytest.raises(NoNullspaceError, match=r"full rank .*vit_small_patch32_224") as caught:
        find_basis(model)
    assert (caught.value.report["rank"], caught.value.report["nullity"]) == (768, 0)
    with torch.no_grad():
        model.module.get_parameter("patch_embed.proj.weight")[5:105] = 0
    assert find_basis(model).nullspace.nullity == 100


def test_per_channel_may_be_empty_where_the_joint_one_is_not() -> None:
    with pytest.raises(NoNullspaceError, match=r"per channel: .* 256 numbers to 384 .*Leave out `per_channel`"):
        find_basis(load("vit_small_patch16_224", depth=1), per_channel=True)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("resnet10t", "affine", ["overlapping windows", "conv1.0", "vit_small_patch32_224"]),
        ("tf_efficientnet_lite0", "affine", ["conv_stem", "window 3 x 3"]),
        ("crossvit_tiny_240", "affine", ["several layers", "patch_embed.0.proj", "patch_embed.1.proj"]),
    ],
)
def test_models_without_a_patch_nullspace(name: str, kind: str, words: list[str]) -> None:
    with pytest.raises(NoNullspaceError) as caught:
        find_basis(load(name))
    assert caught.value.report["kind"] == kind
    assert all(word in str(caught.value) for word in (name, *words))


def test_windows_within_patches() -> None:
    """TNT unfolds patches, and then convolves each with zeros around it: one matrix [16 x 24, 3 x 16 x 16]."""
    model = load("tnt_s_patch16_224", depth=1)
    found = find_basis(model)
    assert (found.nullspace.rank, found.nullspace.nullity) == (384, 384)
    assert check_basis(model, found).passed
    with pytest.raises(ModelError, match="no patch tokens"):
        injection_site(model, "encoder")


@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_check_passes_through_the_whole_network(demo: Model, space: Space) -> None:
    check = check_basis(demo, find_basis(demo, space=space))
    assert check.passed is True
    assert check.null_logit_mse < 1e-8 * check.random_logit_mse
    assert check.residual < 1e-13


def test_check_fails_for_directions_that_are_not_null(demo: Model, found: PatchBasis) -> None:
    nullspace = found.nullspace
    wrong = Nullspace(nullspace.row_space, nullspace.row_space[:20], nullspace.singular_values, 0.1, "pixel")
    check = check_basis(demo, PatchBasis(found.patch_map, wrong))
    assert check.passed is False
    assert check.residual > 0.1


def test_check_of_a_constant_network_says_nothing() -> None:
    model = load("vit_tiny_patch16_224", depth=1)
    with torch.no_grad():
        model.module.get_parameter("head.weight").zero_()
    assert check_basis(model, find_basis(model)).passed is None


def test_check_uses_features_without_a_head() -> None:
    model = load("vit_tiny_patch16_224", depth=1, num_classes=0)
    check = check_basis(model, find_basis(model))
    assert (check.passed, check.outputs) == (True, "features")


def test_other_channels_and_odd_sizes() -> None:
    model = load("vit_tiny_patch16_224", depth=1, in_chans=1, img_size=(48, 72), embed_dim=24)
    basis = find_basis(model)
    assert basis.describe()["in_chans"] == 1
    assert basis.nullspace.nullity == 256 - 24
    noise = null_noise(basis.pixel_basis, (48, 72), 0.1, 0)
    assert noise.shape == (1, 48, 72)
    assert not noise[:, :, 64:].any()
    assert check_basis(model, basis).passed


@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_null_noise_is_in_pixel_units(demo: Model, space: Space) -> None:
    basis = find_basis(demo, space=space)
    noise = null_noise(basis.pixel_basis, (224, 224), 0.3, seed=1)
    assert noise.square().mean().sqrt() == pytest.approx(0.3)
    tokens = (
        basis.patch_map.patchify(demo.transform.delta_to_normalized(noise)) @ basis.patch_map.matrix("normalized").mT
    )
    assert tokens.abs().max() < 1e-12
    control = equal_norm_noise(noise, torch.Generator().manual_seed(0))
    assert control.norm() == pytest.approx(noise.norm())


def test_saved_row_space_comes_back(demo: Model, found: PatchBasis, tmp_path: Path) -> None:
    path = save_basis(tmp_path / "b.safetensors", demo, found)
    assert torch.equal(load_row_space(path, demo), found.nullspace.row_space.flatten(1))
    small = save_basis(tmp_path / "c.safetensors", demo, found, compact=True)
    assert torch.equal(load_row_space(small, demo), found.nullspace.row_space.flatten(1))
    assert small.stat().st_size < path.stat().st_size / 5
    with pytest.raises(ArtifactError, match="other weights"):
        load_row_space(path, load("vit_tiny_patch16_224", depth=1))
    normalized = find_basis(demo, space="normalized")
    path = save_basis(tmp_path / "n.safetensors", demo, normalized)
    rows, own = load_row_space(path, demo), found.nullspace.row_space.flatten(1)
    torch.testing.assert_close(rows.mT @ rows, own.mT @ own)  # the same projector, whichever the file's space


def test_patch_map_is_the_models_own_layer(demo: Model, found: PatchBasis) -> None:
    assert isinstance(found.patch_map, PatchMap)
    x = torch.rand(2, 3, 224, 224)
    tokens = found.patch_map.patchify(x.double()) @ found.patch_map.matrix("normalized").mT
    layer = demo.module.get_submodule("patch_embed.proj")
    expected = layer(x).flatten(2).mT - layer.bias
    torch.testing.assert_close(tokens.float(), expected, rtol=1e-4, atol=1e-4)
