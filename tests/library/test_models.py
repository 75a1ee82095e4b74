"""Networks as models: what a wrapped one answers, against running it by hand, and what is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from nullspace_cli import (
    Model,
    VitnullError,
    explain,
    explanation_methods,
    find_nullspace,
    learn_noise,
    load_model,
    wrap,
)

SETTINGS: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25, 0.5, 1.0), "input_size": (3, 32, 32)}


class Patches(nn.Module):
    """A patch embedding, dropout and a head, whose answer comes as somebody likes it."""

    def __init__(self, give: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.drop, self.head, self.give = nn.Conv2d(3, 8, 8, 8), nn.Dropout(0.5), nn.Linear(8, 4), give

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.embed(x).square().mean((2, 3))
        return features

    def forward(self, x: Tensor) -> Any:
        return self.give(self.head(self.drop(self.features(x))))


class Answer:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def normalised(images: Tensor) -> Tensor:
    return (images - 0.5) / torch.tensor([0.25, 0.5, 1.0])[:, None, None]


@pytest.mark.parametrize(
    "give",
    [
        lambda logits: logits,
        lambda logits: (logits, None),
        lambda logits: [logits],
        lambda logits: {"loss": None, "logits": logits},
        Answer,
    ],
    ids=["tensor", "tuple", "list", "dictionary", "object"],
)
def test_a_network_of_ones_own_answers_as_it_does(give: Callable[[Tensor], Any], images: Tensor) -> None:
    module = Patches(give)
    outputs = wrap(module, **SETTINGS).predict(images)
    x = normalised(images)
    features = module.features(x)
    assert outputs.logits is not None
    torch.testing.assert_close(outputs.logits, module.head(features).detach())
    torch.testing.assert_close(outputs.features, features.detach())


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("vit_tiny_patch16_224", {"depth": 1, "img_size": 32}), ("resnet10t", {})],
)
def test_timms_networks_are_the_same_by_both_roads(name: str, kwargs: dict[str, Any]) -> None:
    loaded = load_model(name, pretrained=False, device="cpu", num_classes=5, **kwargs)
    module = timm.create_model(name, pretrained=False, num_classes=5, **kwargs)
    module.load_state_dict(loaded.module.state_dict())
    transform, size = loaded.transform, (3, 32, 32)
    wrapped = wrap(module, mean=transform.mean, std=transform.std, input_size=size)
    x = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    ours, theirs = wrapped(x), loaded(x)
    assert ours.logits is not None
    assert theirs.logits is not None
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.features, theirs.features)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits, module.eval()(x))
    assert wrapped.num_classes == 5


def test_timms_networks_are_explained_by_both_roads(model: Model, plain: nn.Module, images: Tensor) -> None:
    """All methods are there for them, not only those that any network has."""
    transform = model.transform
    wrapped = wrap(plain, mean=transform.mean, std=transform.std, input_size=transform.input_size)
    assert explanation_methods(wrapped) == explanation_methods(model)
    for method in ("attribution", "rollout"):
        torch.testing.assert_close(explain(wrapped, images, method), explain(model, images, method))


def test_a_network_of_ones_own_is_explained_by_its_gradients() -> None:
    methods = explanation_methods(wrap(Patches(), **SETTINGS))
    assert set(methods) == {"gradient", "input-x-gradient", "integrated-gradients", "smoothgrad"}
    with pytest.raises(VitnullError, match="gradcam cannot explain Patches"):
        explain(wrap(Patches(), **SETTINGS), torch.ones(1, 3, 32, 32), "gradcam")


def test_a_sequence_of_layers_can_be_wrapped(images: Tensor) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, 3))
    model = wrap(module, **SETTINGS)
    torch.testing.assert_close(model.predict(images).answer, module(normalised(images)).detach())
    assert (model.name, model.num_classes, model.device.type) == ("Sequential", 3, "cpu")


def test_a_network_without_a_linear_end_gives_features(images: Tensor) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.LayerNorm(64))
    outputs = wrap(module, **SETTINGS).predict(images)
    assert outputs.logits is None
    torch.testing.assert_close(outputs.features, module(normalised(images)).detach())


@pytest.mark.parametrize("classes", [64, [f"class {i}" for i in range(64)]], ids=["counted", "named"])
def test_classes_that_are_given_make_logits_of_any_answer(classes: Any, images: Tensor) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.LayerNorm(64))
    model = wrap(module, classes=classes, **SETTINGS)
    outputs = model.predict(images)
    assert outputs.logits is not None
    torch.testing.assert_close(outputs.logits, module(normalised(images)).detach())
    assert model.num_classes == 64
    assert model.label(2) == (None if classes == 64 else "class 2")


def test_a_wrapped_network_serves_everything_else(images: Tensor) -> None:
    """Its patch embedding is found, its tokens take noise, its gradient is its own."""
    module = Patches()
    model = wrap(module, **SETTINGS)
    assert find_nullspace(model).nullity == 192 - 8
    assert learn_noise(model, images, epochs=1).delta.shape == (1, 16, 8)
    x = normalised(images).requires_grad_()
    module.eval()(x)[:, 1].sum().backward()
    assert x.grad is not None
    expected = x.grad.abs().amax(1)
    torch.testing.assert_close(explain(model, images, "gradient", target=1).float(), expected)


def test_the_module_is_left_as_it_was(images: Tensor) -> None:
    module = Patches().train()
    module.head.weight.requires_grad_(False)
    before = {name: (value.clone(), value.requires_grad) for name, value in module.named_parameters()}
    model = wrap(module, **SETTINGS)
    model.predict(images)
    explain(model, images, "gradient")
    learn_noise(model, images, epochs=1)
    assert all(part.training for part in module.modules())
    for name, value in module.named_parameters():
        assert torch.equal(value, before[name][0])
        assert value.requires_grad == before[name][1]
        assert value.grad is None
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert [name for part in module.modules() for name in hooks if getattr(part, name)] == []


def test_the_copy_shares_the_modules_weights(images: Tensor) -> None:
    module = Patches()
    model = wrap(module, **SETTINGS)
    before = model.predict(images).answer
    with torch.no_grad():
        module.head.bias.add_(1)
    torch.testing.assert_close(model.predict(images).answer, before + 1)


def test_the_same_weights_have_the_same_hash() -> None:
    a, b = (wrap(Patches(), **SETTINGS) for _ in range(2))
    other = Patches()
    with torch.no_grad():
        other.head.bias.add_(1)
    assert a.weights_sha256 == b.weights_sha256 != wrap(other, **SETTINGS).weights_sha256


def test_settings_may_be_any_sequences() -> None:
    model = wrap(Patches(), mean=torch.tensor([0.5] * 3), std=[0.25, 0.5, 1], input_size=[3, 32, 32])  # type: ignore[arg-type]
    assert model.transform.mean == (0.5, 0.5, 0.5)
    assert model.transform.input_size == (3, 32, 32)


def on_two_devices() -> nn.Module:
    module = Patches()
    module.head = copy.deepcopy(module.head).to("meta")
    return module


def not_finite() -> nn.Module:
    module = Patches()
    with torch.no_grad():
        module.head.bias[0] = torch.nan
    return module


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (Patches, {"classes": 5}, "Patches gives 4 numbers an image, and 5 classes were named"),
        (Patches, {"classes": ["a", "b"]}, "gives 4 numbers an image, and 2 classes"),
        (Patches, {"classes": "abcd"}, "classes is 'abcd'; expected their names, one text each"),
        (Patches, {"classes": []}, "classes is a list of 0"),
        (Patches, {"input_size": (3, 4, 4)}, "Patches does not take an image of 3 x 4 x 4"),
        (Patches, {"input_size": (1, 32, 32)}, r"mean .* are not 1 numbers each"),
        (Patches, {"input_size": 32}, "input_size is no sequence of numbers"),
        (Patches, {"mean": 0.5}, "mean, std or input_size is no sequence"),
        (Patches, {"mean": (0.5,)}, "not 3 numbers each"),
        (Patches, {"std": (0, 1, 1)}, r"std\[0\] is 0"),
        (Patches, {"crop_pct": 0}, "crop_pct is 0; expected a number above 0"),
        (Patches, {"interpolation": "cubic"}, "interpolation is 'cubic' .*'bicubic'"),
        (Patches, {"batch_size": 0}, "batch_size is 0; expected a whole number of at least 1"),
        (lambda: Patches().half(), {}, r"weights of torch.float16; expected torch.float32. Give `module.float\(\)`"),
        (lambda: Patches().double(), {}, "weights of torch.float64"),
        (lambda: nn.Flatten(), {}, "Flatten has no weights"),
        (on_two_devices, {}, "several devices: cpu, meta. Move it to one"),
        (not_finite, {}, "Patches"),
        (lambda: nn.Conv2d(3, 4, 8, 8), {}, r"answers one image with shape \[1, 4, 4, 4\]; expected logits"),
        (lambda: Patches(lambda logits: "dog"), {}, "answers one image with str"),
        (lambda: "resnet18", {}, "module is 'resnet18'; expected a torch.nn.Module.*load_model"),
    ],
)
def test_what_cannot_be_wrapped(module: Callable[[], Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VitnullError, match=message):
        wrap(module(), **{**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "no_such_vit"}, "has no model 'no_such_vit'"),
        ({"name": None}, "name is None; expected a model's name.*wrap"),
        ({"device": "tpu"}, "Unknown device 'tpu'"),
        ({"amp": "int8"}, "amp is 'int8'; expected one of 'none', 'bf16', 'fp16'"),
        ({"batch_size": 1.5}, "batch_size is 1.5; expected a whole number"),
        ({"checkpoint": "/nowhere/a.safetensors"}, "/nowhere/a.safetensors"),
    ],
)
def test_what_cannot_be_loaded(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(VitnullError, match=message):
        load_model(**{"name": "demo", "device": "cpu", **arguments})


def test_a_device_may_be_torchs() -> None:
    loaded = load_model("demo", device=torch.device("cpu"))
    assert loaded.device == torch.device("cpu")


def test_random_weights_are_those_of_the_seed(model: Model) -> None:
    again, other = (
        load_model(
            "deit_tiny_patch16_224", pretrained=False, device="cpu", seed=seed, depth=1, img_size=32, num_classes=10
        )
        for seed in (3, 4)
    )
    assert again.weights_sha256 == model.weights_sha256 != other.weights_sha256


def test_a_model_is_printed_in_a_line(model: Model) -> None:
    assert "\n" not in repr(model)
    assert model.name in repr(model)
