"""Networks with compiled blocks: against the same that are not compiled, by a backend that needs no compiler."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.errors import ModelError, UsageError
from nullspace_cli.engine.models import compiled as compilation
from nullspace_cli.engine.models.compiled import compiled
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from tests.conftest import Vitnull

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
"""torch's compiler looks at it."""

TRY = compilation._try
VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 5, "img_size": 32}


def load(name: str, **kwargs: Any) -> Model:
    return load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu"))


def on_any_device(model: Model, patch: pytest.MonkeyPatch, backend: Any = "aot_eager") -> Model:
    """`compiled`, of a model that says that it is on a card."""
    patch.setattr(compilation, "BACKEND", backend)
    patch.setattr(compilation, "_try", lambda found: TRY(replace(found, device=model.device)))
    return replace(compiled(replace(model, device=torch.device("cuda"))), device=model.device)


@pytest.mark.parametrize(
    ("name", "kwargs", "level", "blocks"),
    [
        ("vit_tiny_patch16_224", VIT, "encoder", 2),
        ("vit_tiny_patch16_224", VIT, "input", 2),
        ("resnet10t", {"num_classes": 5}, "input", 0),
        ("convnext_atto", {"num_classes": 5, "depths": (1, 1, 1, 1)}, "input", 4),
    ],
)
def test_answers_and_gradients_are_those_of_the_model(
    monkeypatch: pytest.MonkeyPatch, name: str, kwargs: dict[str, Any], level: Level, blocks: int
) -> None:
    calls: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(1)
        return graph.forward

    torch._dynamo.reset()
    model = load(name, **kwargs)
    if not blocks:
        with pytest.raises(ModelError, match=r"no repeated blocks to compile.*`compile`"):
            on_any_device(model, monkeypatch)
        return
    other = on_any_device(model, monkeypatch, backend)
    assert calls
    assert len(list(compilation._blocks(model.module))) == blocks
    plain = injection_site(model, level)
    images = torch.randn(3, *model.transform.input_size, generator=torch.Generator().manual_seed(0))
    found = []
    for site in (plain, plain.on(other)):
        noise = torch.full((1, *site.shape), 0.1, requires_grad=True)
        outputs = site.answer(site.read(images) + noise)
        (slope,) = torch.autograd.grad(outputs.answer.square().sum(), noise)
        found.append((outputs.answer.detach(), outputs.features.detach(), slope))
    for own, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs a C++ compiler")
def test_inductor_itself_gives_the_gradient_for_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    model = load("vit_tiny_patch16_224", **VIT)
    plain = injection_site(model, "encoder")
    site = plain.on(on_any_device(model, monkeypatch, "inductor"))
    for count in (5, 3):  # the last step of a round has fewer images
        values = torch.randn(count, *plain.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
        slopes = [torch.autograd.grad(own.answer(values).answer.square().sum(), values)[0] for own in (plain, site)]
        torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Tensor:
        raise RuntimeError("no compiler found")

    torch._dynamo.reset()
    with pytest.raises(ModelError, match=r"cannot be compiled here: .*no compiler found.*`compile`"):
        on_any_device(load("vit_tiny_patch16_224", **VIT), monkeypatch, broken)


def test_never_on_the_cpu(vitnull: Vitnull, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pays on a GPU alone"):
        compiled(load("vit_tiny_patch16_224", **VIT))
    outcome = vitnull("learn-noise", "demo", "--data", "demo", "--compile", expect=2)
    assert "Leave out --compile." in outcome.message
