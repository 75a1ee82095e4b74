"""The embedded models: plain timm architectures, small files, and as accurate as their card says."""

import json

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.demo.models import DEMO_MODELS, WEIGHTS
from nullspace_cli.engine.data.datasets import open_data
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.basis import patch_map_of


def accuracy(name: str, images: torch.Tensor, labels: torch.Tensor) -> float:
    model = load_model(ModelRequest(name, device="cpu"))
    logits = model(model.transform.to_normalized(images)).logits
    assert logits is not None
    return float((logits.argmax(1) == labels).double().mean())


def drawn(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [draw(split, index) for index in range(count)]
    images = torch.stack([torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 for pixels, _ in pairs])
    return images, torch.tensor([label for _, label in pairs])


def test_files_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) <= 8_000_000


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_plain_timm_loads_them(name: str) -> None:
    spec = DEMO_MODELS[name]
    module = timm.create_model(spec.architecture, **spec.model_kwargs)
    module.load_state_dict(load_file(WEIGHTS / spec.weights))
    with safe_open(WEIGHTS / spec.weights, framework="pt") as file:
        metadata = json.loads(file.metadata()["model"])
    assert metadata["architecture"] == spec.architecture
    assert tuple(metadata["classes"]) == CLASSES


def test_the_nullspace_leaves_room() -> None:
    model = load_model(ModelRequest("demo", device="cpu"))
    patch_map = patch_map_of(model)
    assert patch_map
    assert patch_map.patch_size == (32, 32)
    assert patch_map.nullspace().nullity >= 2 * patch_map.embed_dim


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_accuracy_on_validation_images(name: str) -> None:
    data = open_data("demo", "val")[:200]
    images = torch.stack([torch.from_numpy(sample.pixels.copy()).permute(2, 0, 1).float() / 255 for sample in data])
    assert accuracy(name, images, torch.tensor([sample.label for sample in data])) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("name", DEMO_MODELS)
def test_accuracy_on_a_held_out_draw(name: str) -> None:
    assert accuracy(name, *drawn("test", 2000)) >= 0.95
