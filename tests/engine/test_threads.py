"""One network in several threads: each is answered as if it were alone, and nobody finds the network changed.

The threads meet within their passes: what one of them does to the network for the length of a pass, the other sees.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.models.stem import find_stem
from nullspace_cli.engine.noise.injection_sites import EncoderSite
from nullspace_cli.engine.saliency.cnn import gradcam
from nullspace_cli.engine.saliency.gradients import pixel_gradients
from nullspace_cli.engine.saliency.methods import METHODS, explain, supported

VIT = {"img_size": 32, "depth": 1}
SMALL = {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 32}


def pooled(module: Any, x: Tensor) -> Tensor:
    """What reaches the classifier, by timm's own two halves of a pass."""
    features: Tensor = module.forward_head(module.forward_features(x), pre_logits=True)
    return features


def of_class_token(module: Any, x: Tensor) -> Tensor:
    features: Tensor = module.forward_features(x)[:, 0]
    return features


def of_first_branch(module: Any, x: Tensor) -> Tensor:
    features: Tensor = module.forward_features(x)[0][:, 0]
    return features


PATHS: dict[str, tuple[str, dict[str, Any], Callable[[Any, Tensor], Tensor]]] = {
    "token": ("vit_tiny_patch16_224", VIT, of_class_token),
    "avg": ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg", "fc_norm": True}, pooled),
    "avgmax": ("vit_tiny_patch16_224", {**VIT, "global_pool": "avgmax"}, pooled),
    "max": ("vit_tiny_patch16_224", {**VIT, "global_pool": "max"}, pooled),
    "map": ("vit_base_patch16_siglip_224", {**SMALL, "num_classes": 5}, pooled),
    "distilled": ("deit_tiny_distilled_patch16_224", VIT, of_class_token),
    "registers": ("vit_small_patch14_reg4_dinov2", {**VIT, "img_size": 28, "num_classes": 5}, of_class_token),
    "resnet": ("resnet10t", {}, pooled),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1)}, pooled),
    "efficientnet": ("efficientnet_lite0", {}, pooled),
    "head convolution": ("mobilenetv3_small_050", {}, pooled),
    "NHWC": ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (1, 1), "num_heads": (3, 6)}, pooled),
    "branches": ("crossvit_tiny_240", {}, of_first_branch),
    "no head": ("vit_tiny_patch16_224", {**VIT, "num_classes": 0}, pooled),
    "no head, map": ("resnet10t", {"num_classes": 0}, pooled),
}
"""A model for each way in which features reach a classifier, and how timm itself computes them."""

CONVOLUTIONAL = ("resnet", "efficientnet", "head convolution", "no head, map")
WITH_TOKENS = [path for path in PATHS if path not in (*CONVOLUTIONAL, "branches")]


@pytest.fixture(params=list(PATHS))
def path(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def load(path: str) -> Model:
    name, kwargs, _ = PATHS[path]
    model = load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu"))
    head = model.module.get_classifier()  # type: ignore[operator]
    generator = torch.Generator().manual_seed(1)
    for parameter in head.parameters() if isinstance(head, nn.Module) else ():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)  # some of timm's start at zero
    return model


def size_of(path: str, model: Model) -> tuple[int, int, int]:
    """Convolutions read images of any size; small ones are quick."""
    return (3, 64, 64) if path in CONVOLUTIONAL else model.transform.input_size


def two_images(path: str, model: Model) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, *size_of(path, model), generator=torch.Generator().manual_seed(0))
    return x[:1], 10 * x[1:]


@contextmanager
def meeting(module: nn.Module, parties: int = 2) -> Iterator[None]:
    """Passes begin when `parties` of them are about to."""
    barrier = threading.Barrier(parties)

    def wait(_: nn.Module, __: Any) -> None:
        barrier.wait(60)

    with module.register_forward_pre_hook(wait):
        yield


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def state_of(module: nn.Module) -> list[Any]:
    """All that a thread could leave behind on a network, but for the hooks of these tests."""
    return [
        (
            name,
            [key for key in vars(layer) if key != "_forward_pre_hooks"],
            [(id(parameter), parameter.requires_grad, parameter._version) for parameter in layer.parameters(False)],
            [id(part) for part in layer.children()],
            [list(getattr(layer, hooks)) for hooks in ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")],
            list(layer._forward_pre_hooks) if name else None,
        )
        for name, layer in module.named_modules()
    ]


def test_each_thread_has_its_own_features_and_logits(path: str) -> None:
    model, of = load(path), PATHS[path][2]
    images = two_images(path, model)
    with torch.no_grad():
        expected = [(of(model.module, x).flatten(1), model.module(x)) for x in images]
    before = state_of(model.module)
    with meeting(model.module):
        found = at_once(*(lambda x=x: model.forward(x) for x in images))
        asked = at_once(*(lambda x=x: model(x) for x in images))
    for outputs, again, (features, answer) in zip(found, asked, expected, strict=True):
        torch.testing.assert_close(outputs.features, features)
        torch.testing.assert_close(outputs.answer, answer)
        assert (outputs.logits is None) == (path.startswith("no head"))
        torch.testing.assert_close(again.features, features)
    assert not torch.allclose(found[0].features, found[1].features)
    assert state_of(model.module) == before


def test_half_precision_and_full_precision_at_once() -> None:
    model = load("token")
    images, half = two_images("token", model), replace(model, amp="bf16")
    with torch.no_grad():
        plain = of_class_token(model.module, images[0])
        with torch.autocast("cpu", torch.bfloat16):
            rough = of_class_token(model.module, images[1]).float()
    with meeting(model.module):
        full, low = at_once(lambda: model(images[0]), lambda: half(images[1]))
    torch.testing.assert_close(full.features, plain)
    torch.testing.assert_close(low.features, rough)


@pytest.mark.parametrize("path", WITH_TOKENS, indirect=True)
def test_each_thread_has_its_own_noise_on_the_tokens(path: str) -> None:
    model, of = load(path), PATHS[path][2]
    module: Any = model.module
    layer = module.stem[0] if path == "convnext" else module.patch_embed
    images, site = two_images(path, model), EncoderSite(model)
    generator = torch.Generator().manual_seed(2)
    noises = [torch.randn(1, *site.shape, generator=generator) for _ in images]
    expected = []
    for x, noise in zip(images, noises, strict=True):

        def add(_: nn.Module, __: Any, tokens: Tensor, noise: Tensor = noise) -> Tensor:
            last = tokens.shape[-1] == noise.shape[-1]  # [b, m, d] or NHWC; else NCHW
            return tokens + (noise if last else noise.mT).reshape(1, *tokens.shape[1:])

        with torch.no_grad(), layer.register_forward_hook(add):
            expected.append((of(module, x).flatten(1), module(x)))
    before = state_of(module)
    with torch.no_grad(), meeting(module):
        found = at_once(
            *(
                lambda x=x, noise=noise: site.answer(site.read(x) + noise)
                for x, noise in zip(images, noises, strict=True)
            )
        )
    for outputs, (features, answer) in zip(found, expected, strict=True):
        torch.testing.assert_close(outputs.features, features)
        torch.testing.assert_close(outputs.answer, answer)
    assert state_of(module) == before


def test_noise_in_one_thread_does_not_reach_another_without() -> None:
    model = load("token")
    x, site = two_images("token", model)[0], EncoderSite(model)
    with torch.no_grad():
        clean, tokens = model.module(x), site.read(x)
        with meeting(model.module):
            noisy, plain = at_once(lambda: site.answer(tokens + 1), lambda: model.forward(x))
    torch.testing.assert_close(plain.answer, clean)
    assert not torch.allclose(noisy.answer, clean)


def test_gradients_of_each_thread(path: str) -> None:
    model = load(path)
    images = two_images(path, model)
    expected = []
    for x in images:
        leaf = x.clone().requires_grad_()
        expected.append(torch.autograd.grad(model.module(leaf).square().sum(), leaf)[0])

    def gradient(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model.forward(leaf).answer.square().sum(), leaf)[0]

    with meeting(model.module):
        found = at_once(*(lambda x=x: gradient(x) for x in images))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)


def test_the_stem_is_found_while_others_ask(path: str) -> None:
    """It watches all layers and differentiates by all parameters: of a copy."""
    model = load(path)
    x, size = two_images(path, model)[0], size_of(path, model)
    with torch.no_grad():
        expected = model.module(x)
    alone, before = find_stem(model.module, size), state_of(model.module)
    with meeting(model.module, 3):
        first, second, outputs = at_once(
            lambda: find_stem(model.module, size), lambda: find_stem(model.module, size), lambda: model.forward(x)
        )
    for stem in (first, second):
        assert (stem.kind, stem.names, stem.layers) == (alone.kind, alone.names, alone.layers)
        assert alone.weight is None or torch.equal(stem.weight, alone.weight)
    torch.testing.assert_close(outputs.answer, expected)
    assert not outputs.answer.requires_grad
    assert state_of(model.module) == before


@pytest.mark.parametrize("path", ["token", "avg", "resnet"], indirect=True)
def test_maps_of_each_thread(path: str) -> None:
    """All methods that the model has, in one thread beside the other; gradients and GradCAM against plain autograd."""
    model = load(path)
    module: Any = model.module
    images = two_images(path, model)
    methods = [METHODS[name] for name in supported(model)]
    alone = [{method.name: explain(model, x, method) for method in methods} for x in images]
    before = state_of(module)
    found = at_once(
        *(lambda x=x: {method.name: explain(model, x, method) for method in methods} for x in images),
        lambda: [model(images[0]) for _ in range(20)],
    )
    for x, maps, own in zip(images, alone, found, strict=False):
        for name, values in own.items():
            torch.testing.assert_close(values, maps[name], msg=f"{name} differs")
        leaf = x.clone().requires_grad_()
        answer = module(leaf)
        (slope,) = torch.autograd.grad(answer[0, answer.argmax()], leaf)
        torch.testing.assert_close(own["gradient"], slope.double().abs().amax(1))
        torch.testing.assert_close(pixel_gradients(model, x), slope.double())
        if "gradcam" in own:
            torch.testing.assert_close(gradcam(model, x), own["gradcam"])
    assert state_of(module) == before
