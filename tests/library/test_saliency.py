"""Explanations: the engine's maps, the gradient by hand, targets of all kinds, and threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nullspace_cli import Model, VitnullError, explain, explanation_methods, load_model
from nullspace_cli.engine.saliency.methods import METHODS
from nullspace_cli.engine.saliency.methods import explain as engines


def by_hand(plain: nn.Module, images: Tensor, classes: Tensor | None, mean_std: tuple[Tensor, Tensor]) -> Tensor:
    """The largest |dS/dx| over the channels, x the normalised image."""
    mean, std = mean_std
    x = ((images - mean) / std).requires_grad_()
    logits = plain(x)
    chosen = logits.argmax(1) if classes is None else classes
    (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), x)
    return gradient.abs().amax(1)


@pytest.mark.parametrize(
    "target",
    [None, 4, [1, 2], (1, 2), torch.tensor([1, 2]), torch.tensor(3, dtype=torch.int32), np.array([0, 9])],
    ids=["none", "int", "list", "tuple", "tensor", "scalar tensor", "array"],
)
def test_the_gradient_by_hand(
    target: Any, model: Model, plain: nn.Module, images: Tensor, mean_std: tuple[Tensor, Tensor]
) -> None:
    classes = None if target is None else torch.as_tensor(target).long().expand(2)
    maps = explain(model, images[:2], "gradient", target=target)
    torch.testing.assert_close(maps.float(), by_hand(plain, images[:2], classes, mean_std), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "gradcam"])
def test_maps_are_the_engines(method: str, model: Model, images: Tensor) -> None:
    maps = explain(model, images[:2], method, target=[1, 2])
    expected = engines(model, model.transform.to_normalized(images[:2]), METHODS[method], torch.tensor([1, 2]))
    torch.testing.assert_close(maps, expected)
    assert (maps.dtype, maps.device, len(maps)) == (torch.float64, images.device, 2)
    assert maps.shape[1:] == ((2, 2) if METHODS[method].family == "tokens" and method != "full-lrp" else (32, 32))


def test_a_convolutional_network_has_its_own_methods() -> None:
    cnn = load_model("demo-cnn", device="cpu")
    assert "gradcam" in explanation_methods(cnn)
    assert "rollout" not in explanation_methods(cnn)
    assert explain(cnn, torch.full((1, 3, 224, 224), 0.5), "gradcam").shape == (1, 7, 7)


def test_images_may_be_of_any_precision_and_tracked(model: Model, images: Tensor) -> None:
    expected = explain(model, images[:1], "gradient")
    torch.testing.assert_close(explain(model, images[:1].double().requires_grad_(), "gradient"), expected)
    with torch.inference_mode():
        torch.testing.assert_close(explain(model, images[:1], "gradient"), expected)


def test_two_threads_are_each_answered_as_if_alone(model: Model, images: Tensor) -> None:
    asked = [(images[:1], "attribution"), (images[1:2], "gradient"), (images[2:3], "attribution")] * 3
    alone = [explain(model, *each) for each in asked]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda each: explain(model, *each), asked))
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.equal(ours, theirs)


ask: Any = explain  # without its types, which forbid what is asked here
IMAGES = torch.full((2, 3, 32, 32), 0.5)


@pytest.mark.parametrize("target", ["dog", [0], [0, 1, 2], [0.5, 1], [None, 1], True, [[0], [1]], torch.tensor(0.5)])
def test_targets_that_are_no_classes(target: Any, model: Model) -> None:
    with pytest.raises(VitnullError, match=r"target is .*; expected a class, or one for each of the 2 images"):
        explain(model, IMAGES, "gradient", target=target)


@pytest.mark.parametrize("target", [10, -1, [0, 10]])
def test_targets_that_the_model_has_not(target: Any, model: Model) -> None:
    with pytest.raises(VitnullError, match=r"has no class (10|-1): it has 10 classes, counted from 0"):
        explain(model, IMAGES, "gradient", target=target)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda m: ask(m.module, IMAGES, "gradient"), "model is VisionTransformer; expected a Model"),
        (lambda m: explanation_methods(m.module), "model is VisionTransformer; expected a Model"),
        (lambda m: ask(m, IMAGES, "grad"), "Unknown saliency method 'grad'. Methods: attribution"),
        (lambda m: ask(m, IMAGES, "all"), "method is 'all'; expected one name, of attribution"),
        (lambda m: ask(m, IMAGES, None), "method is None; expected one name"),
        (lambda m: ask(m, IMAGES, ["gradient"]), "method is a list of 1; expected one name"),
        (lambda m: ask(m, IMAGES, "gradcam"), "gradcam cannot explain .* What can: attribution"),
        (lambda m: ask(m, None, "gradient"), "images are NoneType"),
        (lambda m: ask(m, IMAGES[0], "gradient"), r"images have the shape \[3, 32, 32\]"),
        (lambda m: ask(m, IMAGES[:0], "gradient"), r"images have the shape \[0, 3, 32, 32\]"),
        (lambda m: ask(m, 255 * IMAGES, "gradient"), "images reach from 128 to 128"),
        (lambda m: ask(m, IMAGES - 1, "gradient"), "images reach from -0.5 to -0.5.*Do not normalise"),
        (lambda m: ask(m, IMAGES * torch.nan, "gradient"), "images hold values that are not finite"),
        (lambda m: ask(m, (255 * IMAGES).byte(), "gradient"), "images are torch.uint8"),
    ],
)
def test_what_is_refused(refused: Callable[[Any], Any], message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        refused(model)
