"""Noise: learned as its generator says, saved and read again, and measured against the plain network by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nullspace_cli import (
    LearnedNoise,
    Model,
    Noise,
    VitnullError,
    evaluate_noise,
    find_nullspace,
    learn_noise,
    load_model,
    load_noise,
)
from tests.conftest import Vitnull
from tests.library.conftest import SMALL

MeanStd = tuple[Tensor, Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def learned(model: Model, images: Tensor) -> LearnedNoise:
    return learn_noise(model, images, limit=4, epochs=8, lr=0.2, step_images=3, generator=seeded(1))


def test_the_loss_falls(learned: LearnedNoise) -> None:
    assert len(learned.losses) == 8 * 2
    assert sum(learned.losses[-2:]) < 0.7 * sum(learned.losses[:2])
    assert learned.to_dict()["loss_first"] == learned.losses[0]


def test_it_starts_from_uniform_noise_on_the_tokens(learned: LearnedNoise) -> None:
    assert learned.delta.shape == learned.init.shape == (1, 4, 192)
    assert 3.9 < learned.init.abs().max() <= 4
    assert (learned.level, learned.limit) == ("encoder", 4)
    assert "\n" not in repr(learned)


def test_the_first_loss_is_that_of_the_start(
    learned: LearnedNoise, plain: nn.Module, images: Tensor, mean_std: MeanStd
) -> None:
    """||f(x with v) - f(x)||_2, mean over a step's images, whichever three of the six those are."""
    mean, std = mean_std
    x = (images - mean) / std
    with torch.no_grad():
        clean = plain(x)
        embed: Any = plain.get_submodule("patch_embed")
        with embed.register_forward_hook(lambda _, __, tokens: tokens + learned.init):
            noisy = plain(x)
    each = (noisy - clean).norm(dim=1).sort().values
    assert float(each[:3].mean()) - 1e-5 <= learned.losses[0] <= float(each[3:].mean()) + 1e-5


def test_the_same_generator_gives_the_same_noise(model: Model, images: Tensor) -> None:
    def learn(generator: torch.Generator | None) -> Tensor:
        return learn_noise(model, images[:2], epochs=2, generator=generator).delta

    assert torch.equal(learn(seeded(5)), learn(seeded(5)))
    assert not torch.allclose(learn(seeded(5)), learn(seeded(6)))
    assert torch.equal(learn(None), learn(None))


def test_each_step_is_told(model: Model, images: Tensor) -> None:
    told: list[tuple[int, float]] = []
    noise = learn_noise(model, images[:3], epochs=2, step_images=2, callback=lambda *step: told.append(step))
    assert told == list(enumerate(noise.losses, 1))
    assert len(told) == 2 * 2


def test_nothing_is_left_of_learning_on_the_model(model: Model, images: Tensor) -> None:
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    learn_noise(model, images[:2], epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert all(parameter.grad is None for parameter in model.module.parameters())


# Files


@pytest.mark.parametrize("site", ["tokens", "input"])
def test_saved_noise_is_read_as_it_was(site: Any, model: Model, images: Tensor, tmp_path: Path) -> None:
    noise = learn_noise(model, images[:2], site=site, epochs=1, limit=0.5)
    read = load_noise(noise.save(tmp_path / "noise.safetensors"))
    assert type(read) is Noise
    assert torch.equal(read.delta, noise.delta)
    for name in ("level", "limit", "model", "weights_sha256", "std", "transform"):
        assert getattr(read, name) == getattr(noise, name)
    ours, again = (evaluate_noise(model, images, each).results()[0]["logit_mse"] for each in (noise, read))
    assert ours == again
    with pytest.raises(VitnullError, match=r"noise\.safetensors"):
        noise.save(tmp_path / "noise.safetensors")


def test_saved_noise_is_read_by_the_command_line(
    learned: LearnedNoise, model: Model, vitnull: Vitnull, tmp_path: Path
) -> None:
    learned.save(tmp_path / "mine.safetensors")
    answer = vitnull(
        *("eval", "deit_tiny_patch16_224", "mine.safetensors", "--no-pretrained", "--seed", "3"),
        *(word for item in SMALL.items() for word in ("--model-kwargs", "=".join(map(str, item)))),
        *("--data", "demo", "--count", "2", "--json"),
    ).document
    first = answer["results"][0]
    assert (first["kind"], first["level"], first["transfer"], first["limit"]) == ("learned", "encoder", False, 4)
    assert first["noise_norm"] == pytest.approx(learned.norm)


# Measured


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return 0.5 * torch.randn(3, 32, 32, generator=seeded(2), dtype=torch.float64)


def test_figures_are_those_of_the_plain_network(
    model: Model, plain: nn.Module, images: Tensor, noise: Tensor, mean_std: MeanStd
) -> None:
    mean, std = mean_std
    with torch.no_grad():
        before, after = (plain((image - mean) / std).double() for image in (images, images + noise.float()))
    labels = before.argmax(1)
    labels[0] = (labels[0] + 1) % 10
    evaluation = evaluate_noise(model, images, noise, labels=labels, controls=())
    (figures,) = evaluation.results()
    match = (before.argmax(1) == after.argmax(1)).double()
    assert figures["match_percent"] == pytest.approx(100 * float(match.mean()))
    assert figures["logit_mse"] == pytest.approx(float((before - after).square().sum(1).mean()), rel=1e-4)
    change = (before.softmax(1) - after.softmax(1)).square().sum(1).mean()
    assert figures["probability_mse"] == pytest.approx(float(change), rel=1e-4)
    assert evaluation.accuracy == pytest.approx(100 * 5 / 6)
    assert figures["accuracy"]["clean"] == evaluation.accuracy
    correct = (after.argmax(1) == labels).double()
    assert figures["accuracy"]["noisy"] == pytest.approx(100 * float(correct.mean()))
    assert figures["sigma"] == pytest.approx(float(noise.square().mean().sqrt()))
    rows = list(evaluation.per_image())
    assert [row["before"]["class"] for row in rows] == before.argmax(1).tolist()
    assert [row["match"] for row in rows] == [bool(same) for same in match]


def test_noise_on_the_tokens_is_added_there(
    model: Model, plain: nn.Module, images: Tensor, learned: LearnedNoise, mean_std: MeanStd
) -> None:
    mean, std = mean_std
    x = (images - mean) / std
    embed: Any = plain.get_submodule("patch_embed")
    with torch.no_grad():
        before = plain(x).double()
        with embed.register_forward_hook(lambda _, __, tokens: tokens + learned.delta):
            after = plain(x).double()
    (figures,) = evaluate_noise(model, images, learned, controls=()).results()
    assert figures["logit_mse"] == pytest.approx(float((before - after).square().sum(1).mean()), rel=1e-4)


def test_null_noise_changes_nothing(model: Model, images: Tensor) -> None:
    null = find_nullspace(model).sample((32, 32), rms=0.5)
    results = evaluate_noise(model, images, null, controls=("shuffle", "uniform"), trials=3).results()
    exact, shuffled, uniform = results
    assert exact["match_percent"] == 100
    assert exact["logit_mse"] < 1e-6 * shuffled["logit_mse"]
    assert exact["logit_mse"] < 1e-6 * uniform["logit_mse"]
    assert [result["control"] for result in results] == ["none", "shuffle", "uniform"]
    assert [result["trials"] for result in results] == [1, 3, 3]
    assert uniform["noise_norm"] == pytest.approx(exact["noise_norm"], rel=1e-5)


def test_controls_are_drawn_by_the_generator(model: Model, images: Tensor, noise: Tensor) -> None:
    def figure(generator: torch.Generator | None) -> float:
        control: float = evaluate_noise(model, images, [noise], generator=generator).results()[1]["logit_mse"]
        return control

    assert figure(seeded(1)) == figure(seeded(1)) != figure(seeded(2))
    assert figure(None) == figure(None)


def test_a_network_without_a_head_is_measured_by_its_features(images: Tensor, noise: Tensor) -> None:
    headless = load_model("deit_tiny_patch16_224", pretrained=False, device="cpu", **{**SMALL, "num_classes": 0})
    evaluation = evaluate_noise(headless, images, noise)
    assert evaluation.outputs == "features"
    assert evaluation.results()[0]["match_percent"] is None
    assert evaluation.results()[0]["feature_mse"] > 0
    assert learn_noise(headless, images, epochs=1).losses[0] > 0


def test_anothers_noise_on_tokens_means_nothing(learned: LearnedNoise, images: Tensor) -> None:
    other = load_model("deit_tiny_patch16_224", pretrained=False, device="cpu", seed=9, **SMALL)
    with pytest.raises(VitnullError, match="means nothing to"):
        evaluate_noise(other, images, learned)


# What is refused

learn: Any = learn_noise  # without their types, which forbid what is asked here
measure: Any = evaluate_noise
IMAGES = torch.full((2, 3, 32, 32), 0.5)
NOISE = torch.ones(3, 32, 32)

NO_IMAGES: list[tuple[Any, str]] = [
    (None, "images are NoneType; expected floats in"),
    ("demo", "images are str"),
    (IMAGES.numpy(), "images are ndarray"),
    ((255 * IMAGES).byte(), "images are torch.uint8"),
    (255 * IMAGES, r"images reach from 128 to 128; expected floats in \[0, 1\]"),
    (4 * IMAGES - 3, "images reach from -1 to -1.*Do not normalise them"),
    (IMAGES * torch.nan, "images hold values that are not finite"),
    (IMAGES[0], r"images have the shape \[3, 32, 32\]; expected .* \[b, 3, 32, 32\]"),
    (IMAGES[:0], r"images have the shape \[0, 3, 32, 32\]"),
    (IMAGES[..., :16], r"images have the shape \[2, 3, 32, 16\]"),
    (IMAGES[:, :1], r"images have the shape \[2, 1, 32, 32\]"),
]


@pytest.mark.parametrize(("images", "message"), NO_IMAGES)
@pytest.mark.parametrize("ask", [learn, lambda m, x: measure(m, x, NOISE)], ids=["learn", "evaluate"])
def test_images_of_another_kind(ask: Callable[..., Any], images: Any, message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        ask(model, images)


def test_noise_that_is_not_finite(learned: LearnedNoise, model: Model, images: Tensor, tmp_path: Path) -> None:
    broken = replace(learned, delta=learned.delta / 0)
    with pytest.raises(VitnullError, match=r"noises\[0\] holds values that are not finite"):
        measure(model, images, broken)
    with pytest.raises(VitnullError, match="its tensor noise would hold values that are not finite"):
        broken.save(tmp_path / "noise.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"site": "encoder"}, "site is 'encoder'; expected one of 'tokens', 'input'"),
        ({"preset": "adam"}, "preset is 'adam'; expected one of 'adamw', 'sgd', 'paper-accum'"),
        ({"limit": 0}, "limit is 0; expected a number above 0"),
        ({"limit": float("nan")}, "limit is nan"),
        ({"limit": "1"}, "limit is '1'"),
        ({"epochs": 0}, "epochs is 0; expected a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"lr": -1}, "lr is -1; expected a number above 0"),
        ({"p": 0.5}, "p is 0.5; expected a number of at least 1"),
        ({"step_images": 0.5}, "step_images is 0.5; expected a whole number"),
        ({"memory": -1}, "memory is -1; expected a number of at least 0"),
        ({"generator": 1}, "generator is 1; expected a torch.Generator"),
        ({"callback": 1}, "callback is 1; expected a function"),
    ],
)
def test_settings_of_learning_that_make_no_sense(settings: dict[str, Any], message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        learn_noise(model, IMAGES, **settings)


@pytest.mark.parametrize(
    ("noises", "settings", "message"),
    [
        (None, {}, "noises is None; expected a Noise, a tensor or a list"),
        ("a.safetensors", {}, "noises is 'a.safetensors'.*load_noise"),
        (Path("a.safetensors"), {}, "noises is PosixPath"),
        ([], {}, "noises is empty"),
        ([NOISE, 3], {}, r"noises\[1\] is 3; expected a Noise, or floats \[3, 32, 32\]"),
        (NOISE[None], {}, r"noises\[0\] is a tensor of torch.float32 \[1, 3, 32, 32\]"),
        (NOISE.int(), {}, r"noises\[0\] is a tensor of torch.int32"),
        (0 * NOISE, {}, r"noises\[0\] is all 0, or not finite"),
        (torch.nan * NOISE, {}, r"noises\[0\] is all 0, or not finite"),
        (NOISE, {"labels": [0]}, "labels is a list of 1; expected 2 whole numbers"),
        (NOISE, {"labels": 3}, "labels is 3; expected 2 whole numbers"),
        (NOISE, {"labels": [0.5, 1]}, "labels is a list of 2; expected 2 whole numbers"),
        (NOISE, {"labels": [0, None]}, "labels is a list of 2"),
        (NOISE, {"labels": [0, 10]}, "labels has 10; .* has 10 classes, counted from 0"),
        (NOISE, {"labels": [-1, 0]}, "labels has -1"),
        (NOISE, {"controls": ["noise"]}, "each of controls is 'noise'; expected one of 'shuffle', 'uniform'"),
        (NOISE, {"controls": "shuffle"}, "controls is 'shuffle'; expected a list"),
        (NOISE, {"trials": 0}, "trials is 0; expected a whole number of at least 1"),
        (NOISE, {"generator": 3}, "generator is 3"),
    ],
)
def test_what_cannot_be_measured(noises: Any, settings: dict[str, Any], message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        measure(model, IMAGES, noises, **settings)


@pytest.mark.parametrize(
    ("path", "message"), [(None, "path is None"), ("/nowhere/a.safetensors", "no file /nowhere/a.safetensors")]
)
def test_files_that_are_no_noise(path: Any, message: str) -> None:
    with pytest.raises(VitnullError, match=message):
        load_noise(path)


@pytest.mark.parametrize("ask", [lambda m: learn(m, IMAGES), lambda m: measure(m, IMAGES, NOISE)])
def test_a_network_must_be_wrapped_first(ask: Callable[[Any], Any], model: Model) -> None:
    with pytest.raises(VitnullError, match="model is VisionTransformer; expected a Model, as load_model and wrap"):
        ask(model.module)
