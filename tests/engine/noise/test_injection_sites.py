"""Where noise enters: the network behind its patch embedding is the network, for whatever timm calls a transformer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import EncoderSite, InputSite, injection_site

MODELS: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 1}, (4, 192)),
    ("vit_tiny_patch16_224", {"img_size": (32, 48), "depth": 1, "num_classes": 0}, (6, 192)),
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 1, "dynamic_img_size": True}, (4, 192)),
    ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}, (4, 192)),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "depth": 1, "num_classes": 3}, (4, 384)),
    ("vit_small_patch16_dinov3", {"img_size": 32, "depth": 1, "num_classes": 3}, (4, 384)),
    ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 1, "num_classes": 3}, (4, 192)),
    ("beit_base_patch16_224", {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 3}, (4, 48)),
    ("vit_base_patch16_siglip_224", {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 3}, (4, 48)),
    ("mixer_s32_224", {"img_size": 64}, (4, 512)),
    ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (1, 1), "num_heads": (3, 6)}, (196, 96)),
    ("naflexvit_base_patch16_gap", {"depth": 1, "embed_dim": 48, "num_heads": 3}, (576, 48)),
    ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, (3136, 32)),
    ("pit_ti_224", {}, (729, 64)),
    ("convnext_atto", {"depths": (1, 1, 1, 1)}, (3136, 40)),
]


def load(name: str, **kwargs: Any) -> Model:
    return load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu"))


def images_for(model: Model) -> Tensor:
    return torch.randn(2, *model.transform.input_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "kwargs", "shape"), MODELS)
def test_the_network_behind_its_tokens_is_the_network(
    name: str, kwargs: dict[str, Any], shape: tuple[int, int]
) -> None:
    model = load(name, **kwargs)
    site, x = EncoderSite(model), images_for(model)
    assert site.shape == shape
    with torch.no_grad():
        tokens = site.read(x)
        assert tokens.shape == (2, *shape)
        clean = model.forward(x)
        given = tokens.clone()
        again = site.answer(tokens)
        assert torch.equal(tokens, given), "NaFlexViT adds the position embedding in place"
        moved = site.answer(tokens + torch.randn(1, *shape))
    assert torch.equal(again.features, clean.features)
    assert torch.equal(again.answer, clean.answer)
    assert not torch.equal(moved.features, clean.features)
    assert torch.equal(model.forward(x).answer, clean.answer), "the patch embedding is itself again"


def test_noise_is_added_before_class_token_and_position_embedding() -> None:
    """By timm's own parts of a ViT, one after another."""
    model = load("vit_tiny_patch16_224", img_size=32, depth=2)
    x, vit = images_for(model), model.module
    noise = torch.randn(1, 4, 192)
    with torch.no_grad():
        tokens = vit.patch_embed(x) + noise  # type: ignore[operator]
        tokens = torch.cat([vit.cls_token.expand(2, -1, -1), tokens], 1) + vit.pos_embed  # type: ignore[operator]
        literal = vit.forward_head(vit.norm(vit.blocks(tokens)))  # type: ignore[operator]
        site = EncoderSite(model)
        torch.testing.assert_close(site.answer(site.read(x) + noise).logits, literal)


@pytest.mark.parametrize("level", ["encoder", "input"])
def test_gradients_reach_the_noise_and_nothing_else(level: Any) -> None:
    model = load("vit_tiny_patch16_224", img_size=32, depth=1)
    site = injection_site(model, level)
    with torch.no_grad():
        inputs = site.read(images_for(model))
    noise = torch.zeros(1, *site.shape, requires_grad=True)
    site.answer(inputs + noise).answer.square().sum().backward()
    assert noise.grad is not None
    assert noise.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert isinstance(site, EncoderSite if level == "encoder" else InputSite)


def test_the_patch_embedding_is_itself_again_after_an_error() -> None:
    model = load("vit_tiny_patch16_224", img_size=32, depth=1)
    site, x = EncoderSite(model), images_for(model)
    before = model.forward(x).answer
    with pytest.raises(RuntimeError):
        site.answer(torch.zeros(2, 9, 192))
    assert torch.equal(model.forward(x).answer, before)


@pytest.mark.parametrize("name", ["resnet10t", "crossvit_tiny_240"])
def test_no_patch_tokens(name: str) -> None:
    with pytest.raises(ModelError, match=rf'{name}.* has no patch tokens.*`site="input"`'):
        injection_site(load(name), "encoder")
