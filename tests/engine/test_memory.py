"""Whatever sends images through a network goes on with fewer at a time where memory is short, to the same result.

A layer of the network stands for the allocator: it refuses more than some images at once, as one library or another.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.errors import MemoryShortError, VitnullError
from nullspace_cli.engine.evaluation.noises_under_test import NoiseUnderTest, cases_of
from nullspace_cli.engine.evaluation.stability import evaluate
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import injection_site
from nullspace_cli.engine.noise.noise import Noise
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import Plan, Trainer
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.saliency.faithfulness import faithfulness
from nullspace_cli.engine.saliency.methods import METHODS, choose, explain
from nullspace_cli.engine.workflows.explain import Explained, Explainer, ExplainFiles
from nullspace_cli.engine.workflows.failed_input import Failed
from tests.engine.runtime.test_out_of_memory import SAID
from tests.made import training_images

COUNT = 6
SMALL = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
NO_MEMORY: list[Callable[[], Exception]] = [
    MemoryError,
    lambda: torch.OutOfMemoryError(SAID[0]),
    lambda: RuntimeError(SAID[5]),
    lambda: RuntimeError(SAID[7]),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return training_images(tmp_path_factory.mktemp("images"), COUNT)


def load(name: str = "vit_tiny_patch16_224", **kwargs: Any) -> Model:
    model = load_model(ModelRequest(name, pretrained=False, kwargs=kwargs or SMALL, device="cpu", batch_size=4))
    head = model.module.get_classifier()  # type: ignore[operator]
    head.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


@contextmanager
def room_for(
    model: Model, room: int, error: Callable[[], Exception] = MemoryError, least: float | None = None
) -> Iterator[list[int]]:
    """Refuse more images at once than there is room for, or where `least` is given any brighter one; what passed."""
    passed: list[int] = []

    def allocate(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if len(x) > room or (least is not None and float(x.flatten(1).mean(1).max()) > least):
            raise error()
        passed.append(len(x))

    layer = next(layer for layer in model.module.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    with layer.register_forward_pre_hook(allocate):
        yield passed


@pytest.mark.parametrize("error", NO_MEMORY)
@pytest.mark.parametrize("room", [1, 2, 3])
def test_answers(model: Model, room: int, error: Callable[[], Exception]) -> None:
    x = torch.randn(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    with room_for(model, room, error) as passed:
        found = model(x)
    assert sum(passed) == COUNT
    assert max(passed) <= room
    torch.testing.assert_close(found.features, expected.features)
    torch.testing.assert_close(found.logits, expected.logits)
    with room_for(model, 0, error), pytest.raises(type(error())):
        model(x)


def plan_of(limits: tuple[float, ...], level: Any) -> Plan:
    return Plan(level, limits, "sgd", 2, 0.01, 1.0, 2.0, 0.0, 6, 0, "x", COUNT, {})


def learning_of(model: Model, images: ImageSet, plan: Plan, **options: Any) -> Trainer:
    site = injection_site(model, plan.level)
    cache = ReferenceCache(model, site, images, range(COUNT), model.transform, Store(2**20), workers=1)
    return Trainer(model, site, cache, plan, Ranks(), **options)


def learned(trainer: Trainer) -> Tensor:
    for _ in trainer.steps():
        pass
    return torch.cat([learner.noise.detach() for learner in trainer.learners])


LIMITS = tuple(0.25 * (k + 1) for k in range(5))


@pytest.mark.parametrize("level", ["encoder", "input"])
@pytest.mark.parametrize("error", NO_MEMORY)
@pytest.mark.parametrize("room", [1, 2, 3])
def test_learning_many_noises(
    model: Model, images: ImageSet, level: Any, room: int, error: Callable[[], Exception]
) -> None:
    """What does not fit is images times noises: it is lowered to one image with one noise."""
    plan, said = plan_of(LIMITS, level), list[str]()
    expected, trainer = learned(learning_of(model, images, plan)), learning_of(model, images, plan, notice=said.append)
    sizes: list[int] = []
    block = model.module.get_submodule("blocks.0")

    def allocate(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > room:
            raise error()
        sizes.append(len(inputs[0]))

    with block.register_forward_pre_hook(allocate):
        found = learned(trainer)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert sum(sizes) == COUNT * len(LIMITS) * plan.rounds
    assert max(sizes) <= room
    assert said[0] == "out of memory with 4 images at once; going on with 2"
    assert trainer.images == COUNT * len(LIMITS) * plan.rounds


def test_the_unit_is_one_image_with_one_noise(model: Model, images: ImageSet) -> None:
    """With memory enough: four pairs at once, of the images first, and the last two images with two noises each."""
    trainer, sizes = learning_of(model, images, plan_of(LIMITS, "encoder")), list[int]()
    count = lambda _, inputs: sizes.append(len(inputs[0]))  # noqa: E731
    with model.module.get_submodule("blocks.0").register_forward_pre_hook(count):
        next(trainer.steps())
    assert sizes == [4, 4, 4, 4, 4, 4, 4, 2]


@pytest.mark.parametrize("level", ["encoder", "input"])
@pytest.mark.parametrize("error", NO_MEMORY)
def test_readings(model: Model, images: ImageSet, level: Any, error: Callable[[], Exception]) -> None:
    site, said = injection_site(model, level), list[str]()
    expected = ReferenceCache(model, site, images, range(COUNT), model.transform, Store(2**20), workers=1)
    with room_for(model, 1, error):
        found = ReferenceCache(
            model, site, images, range(COUNT), model.transform, Store(2**20), workers=1, notice=said.append
        )
        for own, other in zip(found(range(1)), expected(range(1)), strict=True):
            torch.testing.assert_close(own, other)
    for own, other in zip(found(range(COUNT)), expected(range(COUNT)), strict=True):
        torch.testing.assert_close(own, other)
    assert said == [f"out of memory with {size} images at once; going on with {size // 2}" for size in (4, 2)]


def brightest(model: Model, images: ImageSet) -> tuple[int, float]:
    """The image of the largest mean, and a number between its mean and the next."""
    means = [float(model.transform(sample.pixels).mean()) for sample in images]
    second, first = sorted(means)[-2:]
    return means.index(first), (first + second) / 2


@pytest.mark.parametrize("error", NO_MEMORY)
def test_an_image_that_does_not_fit_is_left_out_of_a_data_set(images: ImageSet, error: Callable[[], Exception]) -> None:
    model = load("resnet10t", num_classes=5)
    place, least = brightest(model, images)
    name = images.name_of(place)
    site, skipped = injection_site(model, "input"), dict[str, str]()
    arguments: Any = (model, site, images, range(COUNT), model.transform, Store(2**20))
    with room_for(model, COUNT, error, least):
        found = ReferenceCache(*arguments, workers=1, skip=lambda name, error: skipped.update({name: str(error)}))
        with pytest.raises(MemoryShortError, match="does not fit into memory"):
            ReferenceCache(*arguments, workers=1)
    assert found.missing == [place]
    assert list(skipped) == [name]
    assert skipped[name].startswith(f"{name} does not fit into memory (")

    noise = Noise(torch.zeros(1, *site.shape), "input", "m", model.weights_sha256, (1.0,) * 3, 0.1, None, Path("n"))
    cases, said = cases_of([NoiseUnderTest(noise, transfer=False)], (), 1, 0), list[str]()
    with room_for(model, COUNT, error, least):
        whole = evaluate(model, images, cases, skip_bad=True, notice=said.append)
        with pytest.raises(MemoryShortError, match=f"^{name} does not fit"):
            evaluate(model, images, cases)
    assert whole.skipped == [name]
    assert len(whole.names) == COUNT - 1
    assert any(text.startswith(f"{name} does not fit into memory") for text in said)


def test_an_image_too_large_to_decode_is_left_out(
    model: Model, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ImageSet.__getitem__

    def starved(self: ImageSet, index: Any) -> Any:
        if index == 2:
            raise MemoryError
        return read(self, index)

    monkeypatch.setattr(ImageSet, "__getitem__", starved)
    site, skipped = injection_site(model, "input"), list[str]()
    arguments: Any = (model, site, images, range(COUNT), model.transform, Store(2**20))
    found = ReferenceCache(*arguments, workers=2, skip=lambda name, _: skipped.append(name))
    assert (found.missing, skipped) == ([2], [images.name_of(2)])
    with pytest.raises(VitnullError, match=r"2\.png does not fit into memory"):
        ReferenceCache(*arguments, workers=2)


@pytest.mark.parametrize("error", NO_MEMORY[1:3])
@pytest.mark.parametrize(
    "name", ["attribution", "rollout", "full-lrp", "gradient", "smoothgrad", "integrated-gradients"]
)
def test_maps(model: Model, name: str, error: Callable[[], Exception]) -> None:
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = explain(model, x, METHODS[name])
    with room_for(model, 1, error) as passed:
        found = explain(model, x, METHODS[name])
    assert max(passed) == 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_maps_of_features_and_faithfulness() -> None:
    model = load("resnet10t", num_classes=5)
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = explain(model, x, METHODS["gradcam"])
    expected = faithfulness(model, x, maps)
    with room_for(model, 1, NO_MEMORY[2]):
        found = explain(model, x, METHODS["gradcam"])
        curves = faithfulness(model, x, maps)
    torch.testing.assert_close(found, maps, rtol=1e-4, atol=1e-6)
    assert curves == expected


@pytest.mark.parametrize("error", NO_MEMORY)
def test_explaining_a_folder(tmp_path: Path, images: ImageSet, error: Callable[[], Exception]) -> None:
    model = load("resnet10t", num_classes=5)
    place, least = brightest(model, images)
    sources = [Path(images.name_of(k)) for k in range(COUNT)]
    jobs = [ExplainFiles(source, {"gradcam": tmp_path / f"{source.stem}.gradcam.png"}) for source in sources]
    said: list[str] = []
    explainer = Explainer(model, choose(model, ["gradcam"]), group=4, force=True, notice=said.append)
    expected = [item for group in explainer.each(jobs) for item in group]
    with room_for(model, 3, error, least):
        found = [item for group in explainer.each(jobs) for item in group]
    for k, (own, other) in enumerate(zip(found, expected, strict=True)):
        assert isinstance(other, Explained)
        if k == place:
            assert isinstance(own, Failed)
            assert str(own.error).startswith(f"{sources[k]} does not fit into memory")
        else:
            assert isinstance(own, Explained)
            torch.testing.assert_close(own.maps["gradcam"], other.maps["gradcam"])
            assert own.record["prediction"] == pytest.approx(other.record["prediction"])
    assert said


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12))
def test_results_do_not_depend_on_the_room(room: int, batch: int, count: int) -> None:
    layer = nn.Linear(4, 3).requires_grad_(False)

    class Net(nn.Module):
        num_classes = 3

        def __init__(self) -> None:
            super().__init__()
            self.head = layer

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > room:
                raise RuntimeError(SAID[4])
            return self.head(x.flatten(1))

        def get_classifier(self) -> nn.Module:
            return self.head

    model = Model(Net(), "n", "random", "0" * 64, None, torch.device("cpu"), "none", batch, 0, None)  # type: ignore[arg-type]
    x = torch.randn(count, 1, 2, 2)
    outputs = model(x)
    np.testing.assert_allclose(outputs.features, x.flatten(1))
    np.testing.assert_allclose(outputs.answer, layer(x.flatten(1)), rtol=1e-5, atol=1e-6)
