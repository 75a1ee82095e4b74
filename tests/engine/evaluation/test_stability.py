"""The one pass over the data: what it costs, and what it makes of the figures. tests/cli holds them against timm."""

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nullspace_cli.engine.data.datasets import ImageSet, open_data
from nullspace_cli.engine.errors import DataError, ModelError
from nullspace_cli.engine.evaluation.noises_under_test import Case, NoiseUnderTest, cases_of, with_realised
from nullspace_cli.engine.evaluation.stability import Evaluation, evaluate, spread
from nullspace_cli.engine.evaluation.tables import write_csv
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model, Outputs
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from nullspace_cli.engine.noise.noise import Noise
from nullspace_cli.engine.runtime.distributed import Ranks

T = TypeVar("T")
TINY = {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 64}
COUNT = 10


@pytest.fixture(scope="module")
def vit() -> Model:
    return load_model(ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=TINY, batch_size=4, device="cpu"))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return open_data("demo").select(range(COUNT))


def noise_of(model: Model, level: Level, delta: Float[Tensor, "1 *shape"]) -> Noise:
    return Noise(delta, level, model.name, model.weights_sha256, model.transform.std, 0.5, None, Path(f"{level}.st"))


def noise_under_test(model: Model, level: Level, scale: float = 1.0) -> NoiseUnderTest:
    shape = injection_site(model, level).shape
    return NoiseUnderTest(
        noise_of(model, level, scale * torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))), False
    )


def plain(model: Model, *noises: NoiseUnderTest) -> list[Case]:
    return cases_of(noises, (), 1, 0)


def count_calls(module: nn.Module, calls: Counter[str], name: str) -> Callable[[], None]:
    return module.register_forward_hook(lambda *_: calls.update([name])).remove


# What it costs


@pytest.mark.parametrize(("level", "convolutions"), [("encoder", 1), ("input", 1 + 5)])
def test_passes(vit: Model, images: ImageSet, level: Level, convolutions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two draws of each control make five noises: six passes for each of three batches, and each image read once."""
    cases = cases_of([noise_under_test(vit, level)], ("shuffle", "uniform"), 2, 0)
    calls: Counter[str] = Counter()
    read = ImageSet.__getitem__

    def watched(self: ImageSet, index: Any) -> Any:
        calls["image"] += 1
        return read(self, index)

    monkeypatch.setattr(ImageSet, "__getitem__", watched)
    conv = vit.module.get_submodule("patch_embed.proj")
    removes = [count_calls(vit.module.get_submodule("blocks"), calls, "pass"), count_calls(conv, calls, "conv")]
    probes = 1 if level == "encoder" else 0  # the shape of the tokens is found by embedding one image of zeros
    try:
        evaluate(vit, images, cases)
    finally:
        for remove in removes:
            remove()
    assert calls == {"pass": 3 * 6, "conv": 3 * convolutions + probes, "image": COUNT}


def test_memory_that_is_short(vit: Model, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = plain(vit, noise_under_test(vit, "input"))
    expected = evaluate(vit, images, cases)
    forward = Model.forward

    def starved(self: Model, x: Tensor) -> Outputs:
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return forward(self, x)

    monkeypatch.setattr(Model, "forward", starved)
    notices: list[str] = []
    found = evaluate(vit, images, cases, notice=notices.append)
    assert notices == ["out of memory with 4 images at once; going on with 2"]
    assert found.names == expected.names
    np.testing.assert_allclose(found.noisy, expected.noisy, rtol=1e-4)


@pytest.mark.gpu
def test_a_card_with_room_is_given_several_noises_at_once(vit: Model, images: ImageSet) -> None:
    """Eight at a time: three images alone, then with two noises each, and with what is left at their level."""
    request = ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=TINY, batch_size=8, device="cuda")
    card, some, sizes = load_model(request), images.select(range(3)), list[int]()

    def cases(model: Model) -> list[Case]:
        return plain(model, *(noise_under_test(model, level, scale) for level, scale in noises))

    noises: list[tuple[Level, float]] = [("encoder", 1.0), ("encoder", 3.0), ("encoder", 9.0), ("input", 1.0)]
    expected = evaluate(vit, some, cases(vit))
    count = lambda _, inputs: sizes.append(len(inputs[0]))  # noqa: E731
    with card.module.get_submodule("blocks").register_forward_pre_hook(count):
        found = evaluate(card, some, cases(card))
    assert sizes == [3, 6, 3, 3]
    np.testing.assert_allclose(found.clean, expected.clean, rtol=1e-5)
    np.testing.assert_allclose(found.noisy, expected.noisy, rtol=1e-4, atol=1e-9)


# What becomes of the figures


def test_levels_together_are_as_alone(vit: Model, images: ImageSet) -> None:
    noises = [noise_under_test(vit, level) for level in ("encoder", "input")]
    together = evaluate(vit, images, plain(vit, *noises))
    for i, alone in enumerate(noises):
        found = evaluate(vit, images, plain(vit, alone))
        np.testing.assert_allclose(found.noisy[0], together.noisy[i], rtol=1e-4, atol=1e-10)


def test_trials_are_averaged(vit: Model, images: ImageSet) -> None:
    noise = noise_under_test(vit, "input", 2.0)
    draws = cases_of([noise], ("shuffle",), 2, 7)
    one, two, both = (evaluate(vit, images, cases) for cases in (draws[:2], draws[::2], draws))
    (_, a), (_, b), (real, control) = (found.results() for found in (one, two, both))
    assert real == one.results()[0]
    assert (real["trials"], control["trials"]) == (1, 2)
    assert control["match_trials"] == [a["match_percent"], b["match_percent"]]
    assert a["logit_mse"] != b["logit_mse"]
    for name in ("match_percent", "logit_mse", "feature_cosine", "confidence_change"):
        assert control[name] == pytest.approx((a[name] + b[name]) / 2)
    assert control["accuracy"] is None
    assert control["noise_norm"] == pytest.approx(real["noise_norm"], rel=1e-6)


def test_controls_do_not_depend_on_the_company(vit: Model) -> None:
    first, second = noise_under_test(vit, "encoder"), noise_under_test(vit, "input")
    alone = cases_of([second], ("shuffle", "uniform"), 2, 0)
    after = cases_of([first, second], ("shuffle", "uniform"), 2, 0)[5:]
    for a, b in zip(alone, after, strict=True):
        assert (a.control, a.trial) == (b.control, b.trial)
        assert torch.equal(a.noise.delta, b.noise.delta)
    other = cases_of([second], ("shuffle", "uniform"), 2, 1)
    assert not any(torch.equal(a.noise.delta, b.noise.delta) for a, b in zip(alone[1:], other[1:], strict=True))


@pytest.mark.parametrize("level", ["input", "encoder"])
def test_answers_that_are_no_numbers_are_refused(vit: Model, images: ImageSet, level: Level) -> None:
    noise = noise_under_test(vit, level)
    huge = replace(noise, noise=replace(noise.noise, delta=torch.full_like(noise.noise.delta, 3e38)))
    layer = "layer patch_embed.proj" if level == "input" else "layer blocks.0.norm1"
    message = f"{images.name_of(0)} with the noise of {huge.noise.source} .*first to hold such is what its {layer}"
    with pytest.raises(ModelError, match=message):
        evaluate(vit, images, plain(vit, noise, huge))


def test_spread() -> None:
    found = spread(50, 500, 0)
    assert [position // 10 for position in found] == list(range(50))
    assert len({position % 10 for position in found}) > 5
    assert found == spread(50, 500, 0) != spread(50, 500, 1)
    assert spread(7, 7, 0) == spread(9, 7, 0) == list(range(7))
    assert spread(1, 5, 0)[0] in range(5)


def test_csv_of_a_model_without_a_head(images: ImageSet, tmp_path: Path) -> None:
    model = load_model(
        ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs={**TINY, "num_classes": 0}, device="cpu")
    )
    results = evaluate(model, images, plain(model, noise_under_test(model, "input"))).results()
    with write_csv(tmp_path / "r.csv", results).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {row[name] for name in ("match_percent", "match_low", "match_trials", "logit_mse", "accuracy_noisy")} == {""}
    assert float(row["feature_mse"]) == results[0]["feature_mse"]


# Pixels that bring tokens about


def test_pixels_of_tokens_that_pixels_can_reach(vit: Model, images: ImageSet) -> None:
    site = injection_site(vit, "encoder")
    v = 0.5 * (2 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1)
    delta = site.read(v) - site.read(torch.zeros_like(v))
    noises = with_realised(
        [NoiseUnderTest(noise_of(vit, "encoder", delta), False), noise_under_test(vit, "input")], vit, 1.0
    )
    assert [(s.noise.level, s.describe()["realised"]) for s in noises] == [
        ("encoder", False),
        ("input", True),
        ("input", False),
    ]
    pixels = noises[1]
    assert float(pixels.noise.delta.abs().max()) <= 1
    assert pixels.residual == pytest.approx(0, abs=1e-5)
    tokens, realised, _ = evaluate(vit, images, plain(vit, *noises)).results()
    assert realised["logit_mse"] == pytest.approx(tokens["logit_mse"], rel=1e-3)
    assert (realised["residual"], realised["solver"]["bound"]) == (pixels.residual, 1.0)


def test_the_residual_is_the_networks_own(vit: Model) -> None:
    """Out of reach, within so small a bound."""
    (_, pixels) = with_realised([noise_under_test(vit, "encoder")], vit, 0.01)
    kernel = vit.module.get_parameter("patch_embed.proj.weight").detach().double()
    moved = torch.nn.functional.conv2d(pixels.noise.delta.double(), kernel, stride=16).flatten(2).mT
    wanted = noise_under_test(vit, "encoder").noise.delta.double()
    assert pixels.residual == pytest.approx(float((moved - wanted).norm() / wanted.norm()), rel=1e-4)
    assert pixels.residual is not None
    assert pixels.residual > 0.5


def test_tokens_of_overlapping_windows_have_no_pixels() -> None:
    model = load_model(ModelRequest("pvt_v2_b0", pretrained=False, kwargs={"depths": (1, 1, 1, 1)}, device="cpu"))
    with pytest.raises(ModelError, match="does not embed patches by one linear map"):
        with_realised([noise_under_test(model, "encoder")], model, 1.0)


# Several processes, without the processes


class Two(Ranks):
    """One rank of two that is told what the other one found."""

    def __init__(self, rank: int, other: Any) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "other", other)

    def gather(self, part: T) -> list[T]:
        return [part, self.other] if self.rank == 0 else [self.other, part]  # type: ignore[attr-defined]


def test_parts_are_put_back_into_order(vit: Model, images: ImageSet) -> None:
    cases = cases_of([noise_under_test(vit, "encoder")], ("shuffle",), 1, 0)
    caught: list[Any] = []

    class Catching(Ranks):
        def gather(self, part: T) -> list[T]:
            caught.append(part)
            return [part]

    evaluate(vit, images, cases, ranks=Catching(1, 2))
    whole, shared = evaluate(vit, images, cases), evaluate(vit, images, cases, ranks=Two(0, caught[0]))
    assert shared.names == whole.names
    np.testing.assert_allclose(shared.clean, whole.clean, rtol=1e-5)
    np.testing.assert_allclose(shared.noisy, whole.noisy, rtol=1e-4, atol=1e-12)


def test_nothing_readable(vit: Model, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_text("no picture")
    found: Evaluation | None = None
    with pytest.raises(DataError, match="None of the 2 images"):
        found = evaluate(vit, open_data(str(tmp_path)), plain(vit, noise_under_test(vit, "input")), skip_bad=True)
    assert found is None
