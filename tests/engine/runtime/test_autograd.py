"""Gradients in whatever mode the caller is in, and no inference tensor where it would be met later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.evaluation.noises_under_test import cases_of, read_noises_under_test
from nullspace_cli.engine.evaluation.stability import evaluate
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.models.stem import find_stem
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import Plan, Trainer
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.runtime.autograd import differentiating, ordinary, ordinary_tensors
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.saliency.methods import METHODS, explain, supported
from tests.made import training_images

VIT = ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "num_classes": 5})
CNN = ("resnet10t", {"num_classes": 5})
FLEXIBLE = ("naflexvit_base_patch16_gap", {"depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 5})
KEEPING = ("levit_128s", {"num_classes": 5})
"""It keeps the position biases of its first pass for all later ones."""

MODES: dict[str, Callable[[], Any]] = {
    "none": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return MODES[request.param]


def load(name: str, kwargs: dict[str, Any]) -> Model:
    return load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu", batch_size=4))


def images_for(model: Model) -> Tensor:
    return torch.randn(2, *model.transform.input_size, generator=torch.Generator().manual_seed(0))


def test_a_function_that_differentiates(mode: Callable[[], Any]) -> None:
    @differentiating
    def slope(x: Tensor, *, power: int) -> Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(leaf.pow(power).sum(), leaf)[0]

    with mode():
        found = slope(torch.tensor([3.0]), power=2)
    assert found.tolist() == [6.0]
    assert not found.is_inference()


@pytest.mark.parametrize("grad", [True, False])
def test_ordinary_tensors_leave_gradients_as_they_are(grad: bool) -> None:
    weight = torch.ones(2, requires_grad=True)
    with torch.set_grad_enabled(grad), ordinary_tensors():
        assert (weight * 2).requires_grad == grad
        assert ordinary(weight) is weight
    with torch.inference_mode():
        made = torch.ones(2)
        with ordinary_tensors():
            assert not (made * 2).is_inference()
            assert not (weight * 2).requires_grad
            assert not ordinary(made).is_inference()


@pytest.mark.parametrize("made", [VIT, FLEXIBLE, CNN], ids=["vit", "naflexvit", "cnn"])
def test_the_stem_in_any_mode(mode: Callable[[], Any], made: Any) -> None:
    expected = find_stem(load(*made).module, load(*made).transform.input_size)
    with mode():
        model = load(*made)  # its weights too may be met by autograd later
        found = model.stem()
        levels: tuple[Level, ...] = ("input",) if made is CNN else ("input", "encoder")
        answers = [
            injection_site(model, level).answer(injection_site(model, level).read(images_for(model)))
            for level in levels
        ]
    assert (found.kind, found.names, found.layers) == (expected.kind, expected.names, expected.layers)
    assert (found.weight is None) == (made is CNN)
    for outputs in answers:
        torch.testing.assert_close(outputs.answer, answers[0].answer)
    assert not any(tensor.is_inference() for tensor in model.module.state_dict().values())


@pytest.mark.parametrize("made", [VIT, CNN], ids=["vit", "cnn"])
def test_maps_in_any_mode(mode: Callable[[], Any], made: Any) -> None:
    model = load(*made)
    x = images_for(model)[:, :, :64, :64]
    names = [name for name in supported(model) if name not in ("integrated-gradients", "smoothgrad") or made is VIT]
    classes = torch.tensor([1, 2])
    expected = {name: (explain(model, x, METHODS[name]), explain(model, x, METHODS[name], classes)) for name in names}
    with mode():
        x, classes = x.clone(), classes.clone()
        assert supported(model) == supported(load(*made))
        found = {name: (explain(model, x, METHODS[name]), explain(model, x, METHODS[name], classes)) for name in names}
    for name in names:
        for own, other in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(own, other, msg=f"{name} differs")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return training_images(tmp_path_factory.mktemp("images"), 4)


def learned(model: Model, images: ImageSet) -> Tensor:
    plan = Plan("encoder", (0.5,), "adamw", 2, 0.02, 1.0, 2.0, None, 2, 0, "x", len(images), {})
    site = injection_site(model, "encoder")
    cache = ReferenceCache(model, site, images, range(len(images)), model.transform, Store(2**20), workers=1)
    trainer = Trainer(model, site, cache, plan, Ranks())
    for _ in trainer.steps():
        pass
    return trainer.learners[0].noise.detach()


@pytest.mark.parametrize("made", [VIT, FLEXIBLE], ids=["vit", "naflexvit"])
def test_learning_in_any_mode(images: ImageSet, mode: Callable[[], Any], made: Any) -> None:
    expected = learned(load(*made), images)
    with mode():
        found = learned(load(*made), images)
    torch.testing.assert_close(found, expected)


def test_what_a_layer_keeps_of_a_pass_can_be_differentiated_later(mode: Callable[[], Any]) -> None:
    model = load(*KEEPING)
    x = images_for(model)
    with mode():
        model(x)
        model.forward(x)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.forward(leaf).answer.square().sum(), leaf)
    assert slope.abs().sum() > 0


def test_evaluation_leaves_no_inference_tensors_behind(images: ImageSet, tmp_path: Path) -> None:
    """Nor is it hindered by being asked about a network whose stem only autograd finds."""
    from nullspace_cli.engine.nullspace.basis_file import save_basis

    big = {**VIT[1], "embed_dim": 24, "num_heads": 2}
    basis = save_basis(tmp_path / "basis.safetensors", load(VIT[0], big), find_basis(load(VIT[0], big)))
    model = load(*KEEPING)
    cases = cases_of(read_noises_under_test([basis], model), (), 1, 0)
    evaluate(model, images, cases)
    leaf = images_for(model).requires_grad_()
    assert torch.autograd.grad(model.forward(leaf).answer.sum(), leaf)[0].isfinite().all()
    assert not any(isinstance(value, Tensor) and value.is_inference() for value in _kept(model.module))


def _kept(module: nn.Module) -> list[Any]:
    kept = [value for layer in module.modules() for value in vars(layer).values()]
    return [*kept, *(inner for value in kept if isinstance(value, dict) for inner in value.values())]
