"""Small vision transformers for the tests of token methods."""

from typing import Any

import torch
from torch import Tensor

from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest

SIZE = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 32}),
    "oblong": ("vit_tiny_patch16_224", {"img_size": (32, 48), "qk_norm": True, "init_values": 0.5}),
    "gap": ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg", "class_token": False}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "num_classes": 0}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 32}),
    "beit": ("beit_base_patch16_224", {"img_size": 32}),
    "rotary": ("eva02_tiny_patch14_224", {"img_size": 28}),
}


def load(name: str, **kwargs: Any) -> Model:
    """A timm model with random weights."""
    return load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu"))


def tiny(kind: str, **kwargs: Any) -> Model:
    """A small model, all of whose parameters are random: none at zero, attention far from uniform."""
    name, arguments = KINDS[kind]
    model = load(name, **{**SIZE, **arguments, **kwargs})
    generator = torch.Generator().manual_seed(0)
    for parameter in model.module.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def images_for(model: Model, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *model.transform.input_size, generator=generator, dtype=torch.float64)
