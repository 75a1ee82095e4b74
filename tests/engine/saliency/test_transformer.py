"""What all token methods have in common: batches, grids, exact null vectors, refusals, and a model left as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.saliency import transformer
from nullspace_cli.engine.saliency.attention import attention_gradcam, raw_attention, rollout, token_gradcam
from nullspace_cli.engine.saliency.relevance import attribution, full_lrp, partial_lrp
from tests.engine.saliency.tiny import KINDS, images_for, tiny

Method = Callable[..., Tensor]
TOKEN_METHODS: list[Method] = [raw_attention, rollout, attention_gradcam, token_gradcam, attribution, partial_lrp]
METHODS: list[Method] = [*TOKEN_METHODS, full_lrp]


def method_name(method: Method) -> str:
    return method.__name__


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny(request.param)


def state(model: Model) -> dict[str, Any]:
    """All that a method might leave behind in a module."""
    modules = dict(model.module.named_modules())
    return {
        "parameters": {name: (p.dtype, p.requires_grad, p.grad, id(p)) for name, p in model.module.named_parameters()},
        "buffers": {name: (b.dtype, id(b)) for name, b in model.module.named_buffers()},
        "fused": {name: m.fused_attn for name, m in modules.items() if hasattr(m, "fused_attn")},
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules.items()},
        "training": {name: m.training for name, m in modules.items()},
    }


# Maps


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_a_batch_is_its_images_one_by_one(model: Model, method: Method) -> None:
    images = images_for(model)
    classes = torch.tensor([2, 0, 3]) if model.has_head else None
    maps = method(model, images, classes)
    singles = [method(model, images[i : i + 1], None if classes is None else classes[i : i + 1]) for i in range(3)]
    assert maps.dtype == torch.float64
    assert maps.abs().max() > 1e-6
    torch.testing.assert_close(maps, torch.cat(singles), rtol=1e-9, atol=1e-12 * float(maps.abs().max()))


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_passes_of_bounded_memory_make_the_same_maps(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("plain")
    images, classes = images_for(model), torch.tensor([2, 0, 3])
    whole = method(model, images, classes)
    sizes = []
    trace = transformer.WatchedTransformer.trace

    def spied(self: transformer.WatchedTransformer, images: Tensor, **kwargs: Any) -> transformer.Trace:
        sizes.append(len(images))
        return trace(self, images, **kwargs)

    monkeypatch.setattr(transformer.WatchedTransformer, "trace", spied)
    monkeypatch.setattr(transformer, "ATTENTION_NUMBERS", 2 * 2 * 2 * 5 * 5)  # images, blocks, heads, tokens
    parts = method(model, images, classes)
    assert set(sizes) == {2, 1}
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_the_class_is_each_images_own_by_default(method: Method) -> None:
    model = tiny("plain")
    images = images_for(model, 8)
    logits = model(images).logits
    assert logits is not None
    model.module.head.bias.sub_(logits.mean(0))  # type: ignore[union-attr, operator]
    own = (logits - logits.mean(0)).argmax(1)
    assert len(own.unique()) > 1
    assert torch.equal(method(model, images), method(model, images, own))
    if method not in (raw_attention, rollout):
        assert not torch.equal(method(model, images), method(model, images, (own + 1) % 4))


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_grids_may_be_oblong(method: Method) -> None:
    model = tiny("oblong")
    assert method(model, images_for(model, 1)).shape == ((1, 32, 48) if method is full_lrp else (1, 2, 3))


@pytest.mark.parametrize("method", TOKEN_METHODS, ids=method_name)
def test_an_exact_null_vector_is_not_seen(model: Model, method: Method) -> None:
    kernels: Any = model.module.patch_embed.proj.weight  # type: ignore[union-attr]
    weight: Tensor = kernels.double()
    W, r = weight.flatten(1), int(weight.shape[-1])
    images, classes = images_for(model), torch.tensor([2, 0, 3])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    patches = noise.unfold(2, r, r).unfold(3, r, r)  # a view of the noise: [b, 3, gh, gw, r, r]
    flat = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)
    null = flat - torch.linalg.lstsq(W, (flat @ W.mT).flatten(0, 2).mT).solution.mT.reshape(flat.shape)
    patches.copy_(null.unflatten(3, (3, r, r)).permute(0, 3, 1, 2, 4, 5))
    assert noise.square().mean().sqrt() > 0.5
    clean, noisy = method(model, images, classes), method(model, images + noise, classes)
    assert clean.abs().max() > 0
    assert (noisy - clean).abs().max() <= 1e-12 * clean.abs().max()


# The model


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_the_model_is_left_as_it_was(method: Method) -> None:
    model = tiny("plain")
    images = images_for(model)
    before, answer = state(model), model(images)
    method(model, images.float())
    assert state(model) == before
    assert torch.equal(model(images).features, answer.features)


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_the_model_is_left_as_it_was_when_it_fails(method: Method) -> None:
    model = tiny("plain")

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    model.module.blocks[1].register_forward_hook(fail)  # type: ignore[union-attr, index]
    before = state(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        method(model, images_for(model))
    assert state(model) == before


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_the_callers_grad_mode_does_not_matter(method: Method) -> None:
    model = tiny("plain")
    images = images_for(model)
    maps = method(model, images)
    with torch.inference_mode():
        assert torch.equal(method(model, images.clone()), maps)
    with torch.no_grad():
        assert torch.equal(method(model, images), maps)


# Refusals


@pytest.mark.parametrize(
    ("name", "kwargs", "reason"),
    [
        ("swin_tiny_patch4_window7_224", {"embed_dim": 12, "depths": (1, 1, 1, 1)}, "no single sequence"),
        ("pvt_v2_b0", {}, "no single sequence"),
        ("twins_svt_small", {"depths": (1, 1, 1, 1)}, "without plain self-attention"),
        ("xcit_nano_12_p16_224", {"depth": 1}, "no grid of patch tokens"),
        ("cait_xxs24_224", {"depth": 1}, "without plain self-attention"),
        ("vit_small_patch16_18x2_224", {"depth": 1, "embed_dim": 12, "num_heads": 2}, "without plain self-attention"),
        ("vit_dlittle_patch16_reg1_gap_256", {"depth": 1, "embed_dim": 32, "num_heads": 2}, "difference of two"),
        ("vit_base_patch16_siglip_224", {"depth": 1, "embed_dim": 12, "num_heads": 2}, "'map' pooling"),
        ("vit_tiny_patch16_224", {"depth": 1, "global_pool": ""}, "all of its tokens"),
        ("resnet10t", {}, "no single sequence"),
    ],
)
def test_other_architectures_are_refused(name: str, kwargs: dict[str, Any], reason: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    model = load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu"))
    with pytest.raises(ModelError, match=f"(?s){name}.*{reason}.*Supported are.*VisionTransformer.*Beit and Eva"):
        rollout(model, torch.zeros(1, *model.transform.input_size))


def test_attention_that_turns_out_not_to_be_square_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("plain")
    model.module.blocks[0].attn.attn_drop.register_forward_hook(lambda *args: args[2][..., :-1])  # type: ignore[union-attr, index]
    model.module.blocks[0].attn.forward = lambda x, **_: x  # type: ignore[union-attr, index]
    with pytest.raises(ModelError, match="not one square matrix"):
        rollout(model, images_for(model))
