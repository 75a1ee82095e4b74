"""The gradient family: captum and literal loops as oracles, and what theory says of exact null vectors."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import Tensor, nn

from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.patch_embedding import sample_null
from nullspace_cli.engine.saliency import gradients
from tests.engine.saliency.tiny import load

ATTRIBUTIONS: dict[str, Callable[..., Tensor]] = {
    "gradient": gradients.pixel_gradients,
    "input-x-gradient": gradients.input_x_gradients,
    "integrated-gradients": partial(gradients.path_gradients, steps=6),
    "smoothgrad": partial(gradients.smooth_gradients, samples=4),
}
CLASSES = torch.tensor([3, 0, 7])


def wide(model: Model) -> Model:
    return replace(model, module=deepcopy(model.module).double())


@pytest.fixture(scope="module")
def vit() -> Model:
    """Its three std differ, and its patch embedding has a nullity of 576."""
    return load("deit_tiny_patch16_224", depth=2, img_size=64, num_classes=10)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(params=["vit", "cnn"])
def model(request: pytest.FixtureRequest) -> Model:
    return wide(request.getfixturevalue(request.param))


# Against captum, and against the definitions


def test_against_captum(model: Model, images: Tensor) -> None:
    small, x = replace(model, batch_size=2), images.clone().requires_grad_(True)
    oracle = Saliency(model.module).attribute(x, target=CLASSES, abs=False)
    torch.testing.assert_close(gradients.pixel_gradients(small, images, CLASSES), oracle)
    oracle = InputXGradient(model.module).attribute(x, target=CLASSES).detach()
    torch.testing.assert_close(gradients.input_x_gradients(small, images, CLASSES), oracle)
    oracle = IntegratedGradients(model.module).attribute(x, target=CLASSES, n_steps=8).detach()
    torch.testing.assert_close(gradients.path_gradients(small, images, CLASSES, steps=8), oracle)


def test_smoothgrad_by_a_literal_loop(vit: Model, images: Tensor) -> None:
    model, x = wide(vit), images[:1]
    std = torch.tensor(model.transform.std, dtype=torch.float64)[:, None, None]
    noise = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = torch.zeros_like(x)
    for sample in noise:
        noisy = (x + 0.2 * sample / std).requires_grad_(True)
        model.module(noisy)[0, 3].backward()
        assert noisy.grad is not None
        expected += noisy.grad / 5
    found = gradients.smooth_gradients(model, x, CLASSES[:1], samples=5, noise=0.2, seed=4)
    torch.testing.assert_close(found, expected)


def test_integrated_gradients_are_complete(model: Model, images: Tensor) -> None:
    with torch.no_grad():
        values = [model.module(x).gather(1, CLASSES[:, None])[:, 0] for x in (images, torch.zeros_like(images))]
    sums = gradients.path_gradients(model, images, CLASSES).sum((1, 2, 3))
    smooth = not any(isinstance(layer, nn.ReLU) for layer in model.module.modules())  # kinks cost the rule its accuracy
    torch.testing.assert_close(sums, values[0] - values[1], rtol=1e-8 if smooth else 0.02, atol=0)


def test_maps_are_made_of_attributions(vit: Model, images: Tensor) -> None:
    x = images[:1]
    for explain, attribute in (
        (gradients.gradient, gradients.pixel_gradients),
        (gradients.smoothgrad, gradients.smooth_gradients),
    ):
        assert torch.equal(explain(vit, x), attribute(vit, x).abs().max(1).values)
    for explain, attribute in (
        (gradients.input_x_gradient, gradients.input_x_gradients),
        (gradients.integrated_gradients, gradients.path_gradients),
    ):
        red, green, blue = attribute(vit, x).unbind(1)
        torch.testing.assert_close(explain(vit, x), (red + green + blue).abs())


# Batches, classes, models without a head, side effects


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_batch_equals_single_and_top1_is_the_default(name: str, model: Model, images: Tensor) -> None:
    attribute = ATTRIBUTIONS[name]
    sizes: list[int] = []
    small = replace(model, batch_size=2)
    with model.module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0]))):
        together = attribute(small, images)
    assert max(sizes) == 2
    top1 = model.module(images).argmax(1)
    for index, (image, chosen) in enumerate(zip(images, top1, strict=True)):
        alone = attribute(model, image[None], chosen[None])
        torch.testing.assert_close(together[index], alone[0], rtol=1e-9, atol=1e-12)
    assert (together.dtype, together.device.type, together.shape) == (torch.float64, "cpu", images.shape)


def test_without_a_head_the_features_norm_is_explained(images: Tensor) -> None:
    model = wide(load("vit_tiny_patch16_224", depth=1, img_size=64, num_classes=0))
    nn.init.normal_(
        model.module.get_parameter("norm.weight")
    )  # behind an untrained norm all features have the same length
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(t: float) -> Tensor:
        with torch.no_grad():
            return 0.5 * model.module(images + t * direction).square().sum(1)

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    for attribute in (gradients.pixel_gradients, lambda *args: gradients.smooth_gradients(*args, samples=2, noise=0)):
        torch.testing.assert_close((attribute(model, images) * direction).sum((1, 2, 3)), slope, rtol=1e-6, atol=0)
    total = gradients.path_gradients(model, images).sum((1, 2, 3))
    expected = value(0) - 0.5 * model.module(torch.zeros_like(images)).square().sum(1)
    torch.testing.assert_close(total, expected, rtol=1e-8, atol=0)


def test_works_in_inference_mode_and_in_full_precision_and_leaves_the_model_alone(vit: Model, images: Tensor) -> None:
    expected = gradients.gradient(vit, images)
    model = replace(vit, module=deepcopy(vit.module).requires_grad_(True), amp="bf16")
    with torch.inference_mode():
        found = gradients.gradient(model, images.clone())
    torch.testing.assert_close(found, expected)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.module.parameters())
    assert not images.requires_grad


# What theory says: x and x + v have the same tokens


@pytest.fixture(scope="module")
def pair(vit: Model, images: Tensor) -> tuple[Model, Tensor, Tensor]:
    basis = find_basis(vit, space="normalized").nullspace.basis
    v = sample_null(basis, vit.transform.input_size[1:], torch.Generator().manual_seed(2))
    return wide(vit), images, images + v


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.parametrize("name", ["gradient", "smoothgrad"])
def test_null_noise_leaves_slopes(name: str, pair: tuple[Model, Tensor, Tensor]) -> None:
    model, x, moved = pair
    assert relative(ATTRIBUTIONS[name](model, x), ATTRIBUTIONS[name](model, moved)) < 1e-12


@pytest.mark.parametrize("name", ["input-x-gradient", "integrated-gradients"])
def test_null_noise_moves_contributions_within_patches_only(name: str, pair: tuple[Model, Tensor, Tensor]) -> None:
    model, x, moved = pair
    before, after = (ATTRIBUTIONS[name](model, images) for images in (x, moved))
    assert relative(before, after) > 0.1
    patches = [attributions.unfold(2, 16, 16).unfold(3, 16, 16).sum((1, 4, 5)) for attributions in (before, after)]
    assert relative(*patches) < 1e-9
