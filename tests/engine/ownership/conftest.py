"""Models with random weights: nothing of one is in another."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.ownership.claim import Claim, make_claim


def small_vit(seed: int, patch: int = 16) -> Model:
    """A ViT of one block for images of 4 x 4 patches."""
    kwargs = {"depth": 1, "img_size": 4 * patch, "patch_size": patch, "embed_dim": 48, "num_heads": 3}
    return load_model(ModelRequest("deit_tiny_patch16_224", pretrained=False, kwargs=kwargs, device="cpu", seed=seed))


def with_kernel(model: Model, kernel: Tensor) -> Model:
    """A model of the same kind, with another weight of its patch embedding."""
    other = small_vit(model.seed, kernel.shape[-1])
    with torch.no_grad():
        other.module.get_parameter("patch_embed.proj.weight").copy_(kernel)
    return replace(other, name="changed")


@pytest.fixture(scope="session")
def owner() -> Model:
    return small_vit(1)


@pytest.fixture(scope="session")
def claim(owner: Model) -> Claim:
    return make_claim(owner, pairs=12)
