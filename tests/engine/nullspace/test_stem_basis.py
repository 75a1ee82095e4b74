"""Nullspaces of whole images: of models as timm builds them, held against the dense matrix of their own first layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from nullspace_cli.engine.documents.artefacts import Provenance, write_tensors
from nullspace_cli.engine.documents.kinds import STEM_BASIS
from nullspace_cli.engine.errors import ArtifactError, NoNullspaceError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.noise import exact_noise
from nullspace_cli.engine.nullspace.basis_file import read_basis
from nullspace_cli.engine.nullspace.check import check_basis
from nullspace_cli.engine.nullspace.patch_embedding import Space
from nullspace_cli.engine.nullspace.stem_basis import StemBasis, find_first_layer_basis
from nullspace_cli.engine.nullspace.stem_basis_file import read_stem_basis, save_stem_basis

PIT: dict[str, Any] = {"img_size": 32, "in_chans": 1}


def load(name: str, **kwargs: Any) -> Model:
    return load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu"))


@pytest.fixture(scope="module")
def pit() -> Model:
    """Windows of 16 pixels every 8, of images of 32: 1024 numbers, read by 3 x 3 x 64."""
    return load("pit_ti_224", **PIT)


@pytest.fixture(scope="module")
def found(pit: Model) -> StemBasis:
    basis = find_first_layer_basis(pit)
    assert isinstance(basis, StemBasis)
    return basis


def dense(model: Model, space: Space) -> NDArray[np.float64]:
    """The first layer's matrix [outputs, inputs], by timm's own layer."""
    layer = model.module.get_submodule("patch_embed.conv")
    pixels = torch.eye(1024).reshape(1024, 1, 32, 32)
    with torch.no_grad():
        seen = layer(pixels) - layer(torch.zeros(1, 1, 32, 32))
    std = model.transform.std[0] if space == "pixel" else 1.0
    return seen.flatten(1).double().numpy().T / std


@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_against_the_dense_matrix(pit: Model, space: Space) -> None:
    basis = find_first_layer_basis(pit, space=space)
    assert isinstance(basis, StemBasis)
    _, sigma, rows = np.linalg.svd(dense(pit, space), full_matrices=False)
    described = basis.describe()
    assert (described["inputs"], described["outputs"], described["rank"]) == (1024, 576, int((sigma > 1e-6).sum()))
    assert described["nullity"] == 448
    assert described["nullity_share"] == 448 / 1024
    assert described["sigma_max"] == pytest.approx(sigma[0], rel=1e-5)
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    flat = images.flatten(1).numpy()
    nearest = basis.projection(images).images.flatten(1).numpy()
    np.testing.assert_allclose(nearest, flat - flat @ rows.T @ rows, atol=1e-5)  # timm's layer is one in float32


def test_an_estimate_stands_beside_the_proof(found: StemBasis) -> None:
    estimate = found.estimate(seed=0)
    assert 0 < estimate.standard_error < 0.1 * found.counted.nullity
    assert abs(estimate.nullity - found.counted.nullity) < 4 * estimate.standard_error


@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_null_noise_is_in_pixel_units(pit: Model, space: Space) -> None:
    basis = find_first_layer_basis(pit, space=space)
    noise = basis.pixel_noise((32, 32), 0.3, seed=1)
    assert noise.square().mean().sqrt() == pytest.approx(0.3)
    assert np.abs(dense(pit, "pixel") @ noise.flatten().numpy()).max() < 1e-5
    assert basis.residual(noise) < 1e-12
    assert check_basis(pit, basis).passed
    with pytest.raises(ArtifactError, match=r"images of 32 x 32; asked for noise of 32 x 40"):
        basis.pixel_noise((32, 40), 0.3, seed=1)


@pytest.mark.slow
def test_two_branches_and_a_resize() -> None:
    """CrossViT reads images of 120 by patches of 12, and of 112, after a resize, by patches of 16."""
    model = load("crossvit_tiny_240", img_size=120)
    basis = find_first_layer_basis(model)
    described = basis.describe()
    assert (described["kind"], described["inputs"]) == ("affine", 3 * 120 * 120)
    assert described["rank"] == described["outputs"] == 96 * 100 + 192 * 49
    check = check_basis(model, basis)
    assert check.passed
    assert check.null_logit_mse < 1e-8 * check.random_logit_mse


def test_the_file_is_enough(pit: Model, found: StemBasis, tmp_path: Path) -> None:
    path = save_stem_basis(tmp_path / "p.safetensors", pit, found)
    basis, provenance = read_stem_basis(path, pit)
    assert basis.describe() == found.describe()
    assert (provenance.model, provenance.weights_sha256) == (pit.name, pit.weights_sha256)
    assert torch.equal(basis.pixel_noise((32, 32), 0.1, 4), found.pixel_noise((32, 32), 0.1, 4))
    with pytest.raises(ArtifactError, match="holds a stem_basis; expected a basis"):
        read_basis(path)


def test_noise_to_evaluate(pit: Model, found: StemBasis, tmp_path: Path) -> None:
    path = save_stem_basis(tmp_path / "p.safetensors", pit, found)
    noise = exact_noise(path, pit, 0.2, seed=5)
    pixels = noise.delta[0].double() * torch.tensor(pit.transform.std, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(pixels, found.pixel_noise((32, 32), 0.2, 5), atol=1e-6, rtol=0)
    with pytest.raises(ArtifactError, match=r"nullspace of images of 1 x 32 x 32; vit_tiny.* reads 3 x 224 x 224"):
        exact_noise(path, load("vit_tiny_patch16_224", depth=1), 0.2, seed=5)


def test_a_file_that_is_not_the_models(pit: Model, found: StemBasis, tmp_path: Path) -> None:
    path = save_stem_basis(tmp_path / "p.safetensors", pit, found)
    tensors = load_file(path)
    tensors["0.kernel"] = tensors["0.kernel"].flip(2)
    parameters = read_stem_basis(path)[1].parameters
    provenance = Provenance(STEM_BASIS, "pixel", pit.name, pit.weights_sha256, 0, parameters)
    other = write_tensors(tmp_path / "o.safetensors", tensors, provenance)
    with pytest.raises(ArtifactError, match="is not the nullspace of pit_ti_224"):
        read_stem_basis(other, pit)
    read_stem_basis(other, load("pit_ti_224", **{**PIT, "num_classes": 3}))  # other weights: a transfer


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tf_efficientnet_lite0", r"reads? 150528 numbers by 401408 outputs.*conv_stem: convolution 3 -> 32"),
        ("vit_tiny_r_s16_p8_224", r"reads? 150528 numbers by 802816 outputs, and the rank is proven to be full"),
    ],
)
def test_more_outputs_than_inputs(name: str, words: str) -> None:
    with pytest.raises(NoNullspaceError, match=words) as caught:
        find_first_layer_basis(load(name))
    assert caught.value.report["outputs"] > caught.value.report["inputs"] == 150528
