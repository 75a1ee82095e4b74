"""GradCAM: captum as the oracle on CNNs, a literal loop where channels come last, and what is refused."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.saliency.cnn import gradcam, has_feature_map
from tests.engine.saliency.tiny import load


@pytest.fixture(scope="module")
def demo() -> Model:
    model = load_model(ModelRequest("demo-cnn", device="cpu"))
    return replace(model, module=deepcopy(model.module).double())


@pytest.fixture(scope="module")
def images(demo: Model) -> Tensor:
    return torch.stack([demo.transform.normalize(draw("val", index)[0]) for index in range(3)]).double()


@pytest.mark.parametrize("classes", [None, torch.tensor([3, 0, 7])])
def test_against_captum(demo: Model, images: Tensor, classes: Tensor | None) -> None:
    target = demo.module(images).argmax(1) if classes is None else classes
    oracle = LayerGradCam(demo.module, demo.module.get_submodule("layer4"))
    expected = oracle.attribute(images.clone().requires_grad_(True), target=target, relu_attributions=True)
    found = gradcam(replace(demo, batch_size=2), images, classes)
    torch.testing.assert_close(found, expected[:, 0].detach())
    assert (found.shape, found.dtype) == ((3, 7, 7), torch.float64)
    assert float(found.max()) > 0


@pytest.mark.parametrize(
    ("name", "kwargs", "axis"),
    [
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 2, 2)}, 3),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 1),
        ("mobilenetv3_small_050", {}, 1),
    ],
)
@pytest.mark.parametrize("head", [10, 0])
def test_by_a_literal_loop(name: str, kwargs: dict[str, Any], axis: int, head: int) -> None:
    model = load(name, num_classes=head, **kwargs)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    module: Any = model.module
    features = module.forward_features(x)
    answer = module.forward_head(features)
    torch.testing.assert_close(answer, module(x))
    scalar = answer[0].max() if head else 0.5 * answer.square().sum()
    (slopes,) = torch.autograd.grad(scalar, features)
    A, dA = (tensor[0].detach().double().movedim(axis - 1, 0) for tensor in (features, slopes))
    expected = torch.zeros(7, 7, dtype=torch.float64)
    for channel, slope in zip(A, dA, strict=True):
        expected += slope.mean() * channel
    torch.testing.assert_close(gradcam(model, x.detach())[0], expected.clamp(min=0), rtol=1e-4, atol=1e-7)
    assert has_feature_map(model)


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("deit_tiny_patch16_224", {"depth": 1, "img_size": 64}, r"features of shape \(17, 192\)"),
        ("crossvit_9_240", {}, "several sets of features"),
    ],
)
def test_what_keeps_no_map_is_refused(name: str, kwargs: dict[str, Any], words: str) -> None:
    model = load(name, **kwargs)
    assert not has_feature_map(model)
    with pytest.raises(ModelError, match=rf"{name}.*{words}.*CNNs and hierarchical.*token-gradcam"):
        gradcam(model, torch.zeros(1, *model.transform.input_size))


def test_works_in_inference_mode(demo: Model, images: Tensor) -> None:
    with torch.inference_mode():
        assert gradcam(demo, images.clone()).shape == (3, 7, 7)
