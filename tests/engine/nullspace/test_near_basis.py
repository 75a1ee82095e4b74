"""Near nullspaces of whole images: held against the dense matrix of timm's own first layer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nullspace_cli.engine.errors import ArtifactError, ModelError, NoNullspaceError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.noise.noise import exact_noise
from nullspace_cli.engine.nullspace import near_basis
from nullspace_cli.engine.nullspace.check import check_basis
from nullspace_cli.engine.nullspace.near_basis import NearBasis, find_basis_within
from nullspace_cli.engine.nullspace.patch_embedding import Space
from nullspace_cli.engine.nullspace.stem_basis import StemBasis
from nullspace_cli.engine.nullspace.stem_basis_file import read_near_basis, read_stem_basis, save_stem_basis
from tests.engine.nullspace.test_stem_basis import PIT, dense, load

RTOL = 0.3


@pytest.fixture(scope="module")
def pit() -> Model:
    return load("pit_ti_224", **PIT)


def near(model: Model, space: Space = "pixel") -> NearBasis:
    found = find_basis_within(model, space=space, rtol=RTOL)
    assert isinstance(found, NearBasis)
    return found


@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_noise_is_read_as_little_as_promised(pit: Model, space: Space) -> None:
    found, matrix = near(pit, space), dense(pit, "pixel")
    _, sigma, rows = np.linalg.svd(matrix, full_matrices=False)
    noise = found.pixel_noise((32, 32), 0.2, seed=3)
    assert noise.square().mean().sqrt() == pytest.approx(0.2)
    v = noise.flatten().numpy()
    read = np.linalg.norm(matrix @ v) / np.linalg.norm(v)
    assert 0.001 * sigma[0] < read <= RTOL * sigma[0]
    assert found.residual(noise) == pytest.approx(read / sigma[0], rel=1e-3)
    # Nothing is left along what is read by more.
    assert np.abs(rows[sigma > 1.001 * RTOL * sigma[0]] @ v).max() < 1e-4 * np.linalg.norm(v)
    assert found.counted is not None
    assert found.counted.rank == (sigma > RTOL * sigma[0]).sum() < found.image_map.outputs
    bound = sigma[0] * (1 if space == "pixel" else pit.transform.std[0])
    assert found.describe()["output_bound"] == pytest.approx(RTOL * bound, rel=1e-3)
    check = check_basis(pit, found)
    assert 0 < check.null_change < check.random_change
    with pytest.raises(ArtifactError, match=r"images of 32 x 32; asked for noise of 32 x 40"):
        found.pixel_noise((32, 40), 0.3, seed=1)


def test_a_count_that_would_take_too_long(pit: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_basis, "WORK", 1e6)
    assert near(pit).counted is None


def test_the_file_is_enough(pit: Model, tmp_path: Path) -> None:
    found = near(pit)
    path = save_stem_basis(tmp_path / "n.safetensors", pit, found)
    basis, provenance = read_near_basis(path, pit)
    assert basis.describe() == found.describe()
    assert (provenance.model, provenance.weights_sha256) == (pit.name, pit.weights_sha256)
    noise = found.pixel_noise((32, 32), 0.1, 4)
    assert torch.equal(basis.pixel_noise((32, 32), 0.1, 4), noise)
    sampled = exact_noise(path, pit, 0.1, seed=4)
    assert (sampled.kind, sampled.rtol) == ("near", RTOL)
    assert torch.equal(sampled.delta[0], pit.transform.delta_to_normalized(noise).float())
    with pytest.raises(ArtifactError, match="holds a near_basis; expected a stem_basis"):
        read_stem_basis(path)


def test_a_file_that_promises_too_much(pit: Model, tmp_path: Path) -> None:
    found = near(pit)
    for branch in found.image_map.branches:
        branch.kernel.copy_(branch.kernel.flip(2))
    path = save_stem_basis(tmp_path / "o.safetensors", pit, found)
    with pytest.raises(ArtifactError, match=r"is not the nullspace of pit_ti_224.* more than its rtol 0.3"):
        read_near_basis(path, pit)


def test_a_small_rtol_is_what_counts_as_zero(pit: Model) -> None:
    assert isinstance(find_basis_within(pit, rtol=1e-5), StemBasis)


@pytest.mark.parametrize("rtol", [None, RTOL])
def test_what_reads_nothing(rtol: float | None) -> None:
    model = load("pit_ti_224", **PIT)
    with torch.no_grad():
        model.module.get_parameter("patch_embed.conv.weight").zero_()
    with pytest.raises(ModelError, match="all its kernels are 0"):
        find_basis_within(model, rtol=rtol)


def test_what_reads_everything_by_more() -> None:
    with pytest.raises(NoNullspaceError, match=r"has no near nullspace at rtol 0.01.*Raise `rtol`") as caught:
        find_basis_within(load("vit_tiny_r_s16_p8_224", img_size=32), rtol=0.01)
    assert caught.value.report["nullity"] is None
