"""The file of a claim: what it gives away, what it binds, and that whoever changes it is found out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from nullspace_cli.engine.errors import ArtifactError, NoNullspaceError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.ownership.claim import Claim, make_claim
from nullspace_cli.engine.ownership.claim_file import read_claim, save_claim
from tests.engine.ownership.conftest import small_vit
from tests.made import contents_of, write_unchecked


@pytest.fixture
def file(claim: Claim, tmp_path: Path) -> Path:
    return save_claim(tmp_path / "a.claim.safetensors", claim, reveal=True)


def test_a_claim_gives_nothing_away(claim: Claim, tmp_path: Path) -> None:
    path = save_claim(tmp_path / "a.claim.safetensors", claim)
    with safe_open(path, framework="pt") as opened:
        assert list(opened.keys()) == []
    with pytest.raises(ArtifactError, match=r"nothing to check a suspect with.*`reveal=True`"):
        read_claim(path)


def test_what_is_revealed_is_the_same_claim(claim: Claim, file: Path) -> None:
    read = read_claim(file, claim.digest)
    assert read.digest == claim.digest
    assert torch.equal(read.patch_map.weight, claim.patch_map.weight)
    assert read.recipe.transform == {
        key: list(value) if isinstance(value, tuple) else value for key, value in claim.recipe.transform.items()
    }


def test_equal_claims_are_equal_files(owner: Model, file: Path, tmp_path: Path) -> None:
    again = save_claim(tmp_path / "b.claim.safetensors", make_claim(small_vit(1), pairs=12), reveal=True)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"pairs": 13}, {"files_sha256": {"a.pth": "0" * 64}}], ids=["seed", "pairs", "file"]
)
def test_the_digest_binds(owner: Model, claim: Claim, change: dict[str, Any]) -> None:
    assert make_claim(owner, **{"pairs": 12, **change}).digest != claim.digest
    assert len(claim.digest) == 64


def test_a_file_by_another_name_is_the_same(owner: Model) -> None:
    one, other = (make_claim(owner, files_sha256={name: "0" * 64}) for name in ("a.pth", "b.pth"))
    assert one.digest == other.digest


def bend(document: dict[str, Any], *path: str, to: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = to


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors, about: tensors["weight"].view(-1)[7].add_(1e-3), "its weight is not the one"),
        (lambda tensors, about: bend(about, "seed", to=5), "was changed: its digest"),
        (lambda tensors, about: bend(about, "weights_sha256", to="0" * 64), "was changed: its digest"),
        (lambda tensors, about: bend(about, "parameters", "rtol", to=0.5), "was changed: its digest"),
        (lambda tensors, about: bend(about, "parameters", "digest", to="0" * 64), "was changed: its digest"),
        (lambda tensors, about: bend(about, "parameters", "data_config", "std", to=[0.5] * 3), "was changed: its dig"),
        (lambda tensors, about: bend(about, "parameters", "pairs", to=1), "parameters.pairs is 1"),
        (lambda tensors, about: tensors.pop("weight"), "lacks the tensor weight"),
    ],
)
def test_whoever_changes_a_claim_is_found_out(
    file: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], reason: str
) -> None:
    tensors, about = contents_of(file)
    change(tensors, about)
    write_unchecked(file, tensors, about)
    with pytest.raises(ArtifactError, match=reason):
        read_claim(file)


def test_a_nullspace_that_its_own_network_reads(claim: Claim, tmp_path: Path) -> None:
    """Whoever calls small what is not could claim any directions."""
    made = Claim(replace(claim.recipe, rtol=0.7), claim.patch_map)
    path = save_claim(tmp_path / "a.claim.safetensors", made, reveal=True)
    with pytest.raises(NoNullspaceError, match=r"of what is called so \(rtol 0.7\) it reads"):
        read_claim(path)


def test_another_claim_than_was_published(file: Path) -> None:
    with pytest.raises(ArtifactError, match=f"is another claim.*{'0' * 64}"):
        read_claim(file, "0" * 64)


@pytest.mark.parametrize(
    ("name", "kwargs", "reason"),
    [
        # Its row space is all the lowest frequencies, and so is its mirror image's.
        ("demo", {}, "no nullspace to claim with"),
        ("demo-cnn", {}, "no exact patch nullspace"),
        ("deit_tiny_patch16_224", {"depth": 1, "patch_size": 8}, "has no exact nullspace"),
    ],
)
def test_models_with_nothing_to_claim(name: str, kwargs: dict[str, Any], reason: str) -> None:
    model = load_model(ModelRequest(name, pretrained=name.startswith("demo"), kwargs=kwargs, device="cpu"))
    with pytest.raises(NoNullspaceError, match=reason):
        make_claim(model)
