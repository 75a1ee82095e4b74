"""The network of a run: its weights are read when something asks for them, and once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from nullspace_cli.engine.errors import ArtifactError, ModelError, NoNullspaceError
from nullspace_cli.engine.files.writing import write_bytes
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace import first_layer
from nullspace_cli.engine.nullspace import lazy_model as networks
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.basis_file import save_basis
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, PatchSpace

CNN, VIT = ModelRequest("demo-cnn", device="cpu"), ModelRequest("demo", device="cpu")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were loaded, each a little late, as a large one would be."""
    names: list[str] = []

    def counted(request: ModelRequest) -> Model:
        names.append(request.name)
        time.sleep(0.05)
        return load_model(request)

    monkeypatch.setattr(networks, "load_model", counted)
    return names


def test_weights_are_not_read_until_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "load_model", lambda request: pytest.fail("the weights were read"))
    network = LazyModel(VIT)
    assert network.transform.input_size == (3, 224, 224)
    about = network.describe()
    assert (about["model"], about["weights"], about["weights_sha256"]) == ("demo", None, None)
    assert about["data_config"]["interpolation"] == "bicubic"


def test_what_is_known_after_loading(loads: list[str]) -> None:
    network = LazyModel(CNN)
    before = network.transform
    assert network.model.name == "demo-cnn"
    assert network.transform == before
    assert network.transform is network.model.transform
    assert network.describe() == network.model.describe()
    assert len(network.describe()["weights_sha256"]) == 64
    assert loads == ["demo-cnn"]


def test_loaded_once_by_several_threads(loads: list[str]) -> None:
    network, together = LazyModel(VIT), threading.Barrier(4)

    def ask(i: int) -> Model:
        together.wait()
        if i % 2:
            _ = network.patches
        return network.model

    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(ask, range(4)))
    assert loads == ["demo"]
    assert all(model is network.model for model in models)
    assert network.patches is network.patches


def test_a_model_that_cannot_be_had_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def unplugged(request: ModelRequest) -> Model:
        raise ModelError("no connection")

    network = LazyModel(CNN)
    monkeypatch.setattr(networks, "load_model", unplugged)
    with pytest.raises(ModelError, match="no connection"):
        _ = network.model
    monkeypatch.setattr(networks, "load_model", load_model)
    assert network.model.name == "demo-cnn"


def test_patches_are_the_models_own() -> None:
    network = LazyModel(VIT)
    found = find_basis(network.model)
    assert torch.equal(network.patches.row_space, found.nullspace.row_space.flatten(1))
    assert isinstance(network.reading, PatchMap)
    assert torch.equal(network.reading.weight, found.patch_map.weight)
    assert isinstance(network.first_layer, PatchSpace)


def test_a_cnn_has_no_patches() -> None:
    network = LazyModel(CNN)
    assert network.reading is None
    with pytest.raises(NoNullspaceError, match="overlapping windows"):
        _ = network.patches


def test_rows_come_from_the_basis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(VIT)
    found = find_basis(model)
    path = save_basis(tmp_path / "demo.safetensors", model, found, compact=True)
    monkeypatch.setattr(first_layer, "find_basis", lambda model, stem: pytest.fail("the nullspace was computed"))
    patches = LazyModel(VIT, path).patches
    assert torch.equal(patches.row_space, found.nullspace.row_space.flatten(1))
    assert patches.patch_map.embed_dim == 192


def test_a_basis_of_other_weights(tmp_path: Path) -> None:
    other = load_model(ModelRequest("demo", pretrained=False, device="cpu"))
    path = save_basis(tmp_path / "other.safetensors", other, find_basis(other), compact=True)
    with pytest.raises(ArtifactError, match="other weights"):
        _ = LazyModel(VIT, path).patches


def test_a_file_that_is_no_basis_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "load_model", lambda request: pytest.fail("the weights were read"))
    write_bytes(tmp_path / "photo.png", b"no basis")
    for name in ("photo.png", "missing.safetensors"):
        with pytest.raises(ArtifactError, match=name):
            LazyModel(VIT, tmp_path / name)
