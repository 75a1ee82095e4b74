"""Perturbation curves against a literal loop over images and pixels, and what they say of known maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.saliency.cnn import gradcam
from nullspace_cli.engine.saliency.faithfulness import FRACTIONS, Curve, faithfulness
from nullspace_cli.engine.saliency.methods import upsampled


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(ModelRequest("demo-cnn", device="cpu"))


@pytest.fixture(scope="module")
def images(model: Model) -> Tensor:
    return torch.stack([model.transform.normalize(draw("val", index)[0]) for index in range(4)])


def predicted(model: Model, image: Tensor) -> int:
    with torch.no_grad():
        return int(model.module(image[None]).argmax())


def test_by_a_literal_loop(model: Model, images: Tensor) -> None:
    noise = torch.rand(4, 224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = upsampled(gradcam(model, images), (224, 224)) + 1e-6 * noise  # no two pixels are equal
    labels = torch.tensor([0, 1, 2, 4])  # the last is wrong: these images' classes are 0, ..., 3
    found = faithfulness(replace(model, batch_size=3), images, maps, labels)
    expected = {name: np.zeros(10) for name in ("positive", "negative", "positive_label", "negative_label")}
    for image, values, label in zip(images, maps, labels.tolist(), strict=True):
        for name, order in (("positive", (-values).flatten().argsort()), ("negative", values.flatten().argsort())):
            for step in range(10):
                masked = image.clone()
                masked.view(3, -1)[:, order[: round(step / 10 * 224 * 224)]] = 0
                after = predicted(model, masked)
                expected[name][step] += (after == predicted(model, image)) / 4
                expected[f"{name}_label"][step] += (after == label) / 4
    for name, accuracy in expected.items():
        curve = getattr(found, name)
        assert curve.accuracy == pytest.approx(accuracy.tolist())
        assert curve.auc == pytest.approx(np.trapezoid(accuracy, np.arange(10) / 10))
    assert found.positive.accuracy[0] == 1
    assert len({round(sum(accuracy), 9) for accuracy in expected.values()}) == 4


class Pixel(nn.Module):
    """Class 1 if the image's last pixel is bright, else 0."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)
        self.head.weight.data = torch.tensor([[0.0], [1.0]])
        self.head.bias.data = torch.tensor([0.5, 0.0])

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images[:, :1, -1, -1])


def test_the_faithful_map_has_the_extreme_areas(model: Model) -> None:
    toy = replace(model, module=Pixel().requires_grad_(False))
    images = torch.ones(2, 3, 10, 10)
    maps = torch.zeros(2, 10, 10, dtype=torch.float64)
    maps[:, -1, -1] = 1
    found = faithfulness(toy, images, maps)
    assert list(found.positive.accuracy) == [1, *[0] * 9]
    assert list(found.negative.accuracy) == [1] * 10
    assert found.negative.auc == pytest.approx(0.9)
    assert found.positive_label is None
    assert found.negative_label is None


def test_fractions_are_exact_to_the_pixel(model: Model) -> None:
    toy = replace(model, module=Pixel().requires_grad_(False))
    maps = (
        torch.arange(100, dtype=torch.float64).roll(10).reshape(1, 10, 10)
    )  # the last pixel is the eleventh from above
    found = faithfulness(toy, torch.ones(1, 3, 10, 10), maps)
    assert list(found.positive.accuracy) == [1, 1, *[0] * 8]
    assert list(found.negative.accuracy) == [*[1] * 9, 0]


def test_maps_are_upsampled_and_ties_are_random(model: Model) -> None:
    toy = replace(model, module=Pixel().requires_grad_(False))
    images = torch.ones(1, 3, 20, 20)
    coarse = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    assert list(faithfulness(toy, images, coarse).positive.accuracy) == [1, *[0] * 9]
    gone = [faithfulness(toy, images, 0 * coarse, seed=seed).positive.accuracy for seed in range(40)]
    assert faithfulness(toy, images, 0 * coarse, seed=3).positive.accuracy == gone[3]
    assert np.mean(gone, axis=0) == pytest.approx([1 - fraction for fraction in FRACTIONS], abs=0.25)
    assert Curve((2, *[0] * 9), 2).auc == pytest.approx(0.05)


def test_a_model_without_classes_is_refused() -> None:
    model = load_model(ModelRequest("resnet10t", pretrained=False, kwargs={"num_classes": 0}, device="cpu"))
    with pytest.raises(ModelError, match=r"resnet10t.* has no classes.*head"):
        faithfulness(model, torch.zeros(1, 3, 64, 64), torch.zeros(1, 2, 2))
