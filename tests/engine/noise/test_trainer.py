"""Learning noise: against the authors' loop written out, its losses, its end, and going on where it was killed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.errors import ArtifactError, VitnullError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from nullspace_cli.engine.noise.presets import PROTOCOLS, ProtocolName, steps_of_round
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import Plan, Trainer
from nullspace_cli.engine.runtime.distributed import Ranks
from tests.made import training_images
from tests.ranks import in_ranks

COUNT = 10


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return training_images(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture(scope="module")
def model() -> Model:
    kwargs = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
    return load_model(ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=kwargs, device="cpu", batch_size=3))


def plan_of(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "level": "encoder", "limits": (0.5,), "protocol": "adamw", "rounds": 3, "lr": 0.02, "fraction": 1.0,
        "norm": 2.0, "stop_eps": None, "step_images": 4, "seed": 0, "data": "x", "images": COUNT,
        "data_config": {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"},
    }  # fmt: skip
    return Plan(**{**settings, **changes})


def learning_of(
    model: Model, images: ImageSet, plan: Plan, limit: int = 2**20, ranks: Ranks | None = None, **options: Any
) -> Trainer:
    site = injection_site(model, plan.level)
    cache = ReferenceCache(model, site, images, range(len(images)), model.transform, Store(limit), workers=1)
    return Trainer(model, site, cache, plan, ranks or Ranks(), **options)


def learned(trainer: Trainer) -> list[Tensor]:
    for _ in trainer.steps():
        pass
    return [learner.noise.detach().clone() for learner in trainer.learners]


@pytest.mark.parametrize("level", ["encoder", "input"])
@pytest.mark.parametrize("protocol", ["adamw", "sgd", "paper-accum"])
def test_against_the_authors_loop(model: Model, images: ImageSet, level: Level, protocol: ProtocolName) -> None:
    """Clean and noisy forward in every step, a mean over the step's images, and torch's optimisers as they come."""
    lr = {"adamw": 0.02, "sgd": 0.5, "paper-accum": 0.1}[protocol]
    plan = plan_of(level=level, protocol=protocol, rounds=10, lr=lr)
    trainer = learning_of(model, images, plan)
    noise = nn.Parameter(trainer.learners[0].init.clone())
    optimizer: torch.optim.Optimizer = torch.optim.SGD([noise], lr)
    if protocol == "adamw":
        optimizer = torch.optim.AdamW([noise], lr, weight_decay=0)
    x = torch.stack([model.transform(sample.pixels) for sample in images])
    vit: Any = model.module
    done, losses, noisy = 0, [], False
    hook = vit.patch_embed.register_forward_hook(
        lambda *parts: parts[2] + noise if noisy and level == "encoder" else None
    )
    for number in range(10):
        for step in steps_of_round(COUNT, 4, 0, number):
            if protocol != "paper-accum":
                optimizer.zero_grad()
            noisy = False
            clean = vit(x[step])
            noisy = True
            loss = (vit(x[step] + (noise if level == "input" else 0)) - clean).norm(dim=1).mean()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = lr * PROTOCOLS[protocol].decay(done, plan.steps)
            optimizer.step()
            losses.append(float(loss.detach()))
            done += 1
    hook.remove()
    (ours,) = learned(trainer)
    assert trainer.learners[0].losses == pytest.approx(losses, rel=2e-4)
    # Of an element whose gradient is next to nothing rounding decides the sign, and by its sign AdamW moves it.
    alike = torch.isclose(ours, noise.detach(), rtol=1e-3, atol=2e-4)
    assert float(alike.double().mean()) > (0.999 if protocol == "adamw" else 1 - 1e-9)
    assert float((ours - noise.detach()).abs().max()) < 0.02 * 2
    assert float((ours - trainer.learners[0].init).norm()) > 0.1


def test_several_limits_at_once_are_each_alone(model: Model, images: ImageSet) -> None:
    limits = (0.1, 0.5, 2.0)
    roomy = replace(model, batch_size=16)
    together = learned(learning_of(roomy, images, plan_of(limits=limits)))
    for limit, noise in zip(limits, together, strict=True):
        (alone,) = learned(learning_of(model, images, plan_of(limits=(limit,))))
        torch.testing.assert_close(noise, alone, rtol=1e-3, atol=1e-4)
        assert noise.shape == (1, 4, 24)


def test_pixels_on_disk_give_what_tokens_in_memory_give(model: Model, images: ImageSet) -> None:
    (kept,) = learned(learning_of(model, images, plan_of()))
    (read,) = learned(learning_of(model, images, plan_of(), limit=0))
    torch.testing.assert_close(read, kept, rtol=1e-3, atol=1e-5)


def test_the_loss_falls(model: Model, images: ImageSet) -> None:
    trainer = learning_of(model, images, plan_of(rounds=40))
    learned(trainer)
    record = trainer.learners[0].record(trainer.plan)
    assert record["loss_last"] < 0.5 * record["loss_first"]
    assert record["norm_final"] > 0.3 * record["norm_init"], "not by giving up"
    assert (record["rounds"], record["steps"], record["stopped"]) == (40, 120, False)


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 3.0, float("inf")])
def test_no_noise_has_a_finite_gradient(model: Model, images: ImageSet, norm: float) -> None:
    """Where f(x with v) = f(x), ||.||_p has no gradient; 0 is among its subgradients."""
    trainer = learning_of(model, images, plan_of(norm=norm, rounds=1))
    with torch.no_grad():
        trainer.learners[0].noise.zero_()
    (noise,) = learned(trainer)
    assert bool(noise.isfinite().all())
    assert trainer.learners[0].losses[0] < 1e-6


@pytest.mark.parametrize("norm", [1.0, 3.0, float("inf")])
def test_other_norms(model: Model, images: ImageSet, norm: float) -> None:
    trainer = learning_of(model, images, plan_of(norm=norm, rounds=1, step_images=COUNT))
    site = injection_site(model, "encoder")
    with torch.no_grad():
        x = site.read(torch.stack([model.transform(sample.pixels) for sample in images]))
        change = site.answer(x + trainer.learners[0].init).answer - site.answer(x).answer
    learned(trainer)
    expected = np.linalg.norm(change.double().numpy(), ord=norm, axis=1).mean()
    assert trainer.learners[0].losses[0] == pytest.approx(expected, rel=1e-5)


def test_stops_on_the_mean_over_a_round(model: Model, images: ImageSet) -> None:
    tiny, large = 1e-6, 1.0
    trainer = learning_of(model, images, plan_of(limits=(tiny, large), stop_eps=1e-8, rounds=2, lr=1e-9))
    learned(trainer)
    first, second = (learner.record(trainer.plan) for learner in trainer.learners)
    assert (first["stopped"], first["rounds"], first["steps"]) == (True, 1, 3)
    assert (second["stopped"], second["rounds"], second["steps"]) == (False, 2, 6)


@pytest.mark.parametrize("protocol", ["adamw", "sgd", "paper-accum"])
@pytest.mark.parametrize("killed_after", [1, 3, 4, 8])
def test_going_on_gives_the_same_bits(
    model: Model, images: ImageSet, tmp_path: Path, protocol: ProtocolName, killed_after: int
) -> None:
    plan = plan_of(limits=(0.5, 1.0), protocol=protocol, stop_eps=1e-9)
    whole = learning_of(model, images, plan)
    noises = learned(whole)
    killed = learning_of(model, images, plan)
    for done in killed.steps():
        if done == killed_after:
            killed.save(tmp_path / "state")
        if done == killed_after + 1:
            break
    again = learning_of(model, images, plan)
    again.restore(tmp_path / "state")
    assert again.done == killed_after
    for noise, other in zip(noises, learned(again), strict=True):
        assert torch.equal(noise, other)
    for learner, twin in zip(whole.learners, again.learners, strict=True):
        assert learner.losses == twin.losses
        assert learner.record(plan) == twin.record(plan)


def test_going_on_needs_the_same_plan(model: Model, images: ImageSet, tmp_path: Path) -> None:
    trainer = learning_of(model, images, plan_of())
    trainer.save(tmp_path / "state")
    with pytest.raises(ArtifactError, match=r"rounds 3 \(now 4\).*`overwrite=True`"):
        learning_of(model, images, plan_of(rounds=4)).restore(tmp_path / "state")
    kwargs = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
    other = load_model(ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=kwargs, device="cpu", seed=1))
    with pytest.raises(ArtifactError, match="made from other weights"):
        learning_of(other, images, plan_of()).restore(tmp_path / "state")


def test_fewer_images_at_once_where_memory_is_short(
    model: Model, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = learned(learning_of(model, images, plan_of()))
    said: list[str] = []
    trainer = learning_of(model, images, plan_of(), notice=said.append)
    forward = Model.forward

    def short(self: Model, batch: Tensor) -> Any:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("too much")
        return forward(self, batch)

    monkeypatch.setattr(Model, "forward", short)
    (noise,) = learned(trainer)
    torch.testing.assert_close(noise, expected, rtol=1e-3, atol=1e-5)
    assert said == ["out of memory with 3 images at once; going on with 1"]


def test_a_gradient_that_is_not_finite_is_an_error(model: Model, images: ImageSet) -> None:
    trainer = learning_of(model, images, plan_of())
    with torch.no_grad():
        trainer.learners[0].noise.fill_(float("nan"))
    with pytest.raises(VitnullError, match=r"noise of limit .* after 0 steps with numbers that are not finite"):
        learned(trainer)


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_attention_is_fused(model: Model, images: ImageSet, monkeypatch: pytest.MonkeyPatch, amp: Any) -> None:
    """In half precision where that is asked for, which is what a card's fastest kernels take."""
    kinds, fused = set[torch.dtype](), functional.scaled_dot_product_attention

    def watched(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        kinds.add(query.dtype)
        return fused(query, *arguments, **options)

    trainer = learning_of(replace(model, amp=amp), images, plan_of(rounds=1))
    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    learned(trainer)
    assert kinds == {torch.bfloat16 if amp == "bf16" else torch.float32}


def test_half_precision_comes_near(model: Model, images: ImageSet) -> None:
    (full,) = learned(learning_of(model, images, plan_of(protocol="sgd")))
    (half,) = learned(learning_of(replace(model, amp="bf16"), images, plan_of(protocol="sgd")))
    init = learning_of(model, images, plan_of()).learners[0].init
    moved, apart = float((full - init).norm()), float((half - full).norm())
    assert 0 < apart < 0.2 * moved


def on_card(protocol: ProtocolName, images: ImageSet, ranks: Ranks | None = None) -> Trainer:
    kwargs = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
    request = ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=kwargs, device="cuda", batch_size=3)
    plan = plan_of(limits=(0.5, 1.0), protocol=protocol, stop_eps=1e-9)
    return learning_of(load_model(request), images, plan, ranks=ranks)


@pytest.mark.gpu
@pytest.mark.parametrize("protocol", ["adamw", "sgd", "paper-accum"])
def test_a_card_that_learned_of_it_late_stands_before_the_step_that_cannot_be_made(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: ProtocolName
) -> None:
    broken, whole = on_card(protocol, images), on_card(protocol, images)
    steps = whole.steps()
    for _ in range(4):
        next(steps)
    whole.save(tmp_path / "whole")
    gradient = Trainer._gradient

    def infinite(self: Trainer, *arguments: Any) -> Any:
        slopes, figures = gradient(self, *arguments)
        return slopes, figures / 0 if self.done == 4 else figures

    monkeypatch.setattr(Trainer, "_gradient", infinite)
    made = list[int]()

    def make() -> None:
        for done in broken.steps():
            made.append(done)
            broken.save(tmp_path / f"{done}")

    with pytest.raises(VitnullError, match="not finite after 4 steps"):
        make()
    assert made == [1, 2, 3, 4, 5], "the sixth ends a round"
    assert not (tmp_path / "5").exists(), "nobody could go on from there"
    broken.save(tmp_path / "broken")
    for name in ("4", "broken"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.gpu
def test_processes_on_cards_learn_of_it_together(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the first, which saves, has looked before."""
    gradient = Trainer._gradient

    def infinite(self: Trainer, *arguments: Any) -> Any:
        slopes, figures = gradient(self, *arguments)
        return slopes, figures / 0 if self.done == 4 and self._ranks.rank == 1 else figures

    monkeypatch.setattr(Trainer, "_gradient", infinite)
    trainers: dict[int, Trainer] = {}

    def learn(ranks: Ranks) -> None:
        trainers[ranks.rank] = on_card("adamw", images, ranks)
        for done in trainers[ranks.rank].steps():
            if ranks.first:
                trainers[0].save(tmp_path / f"{done}")

    assert [str(error).split(".")[0] for error in in_ranks(learn)] == 2 * ["The gradient is not finite after 4 steps"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4"]
    for trainer in trainers.values():
        trainer.save(tmp_path / "end")
        assert (tmp_path / "end").read_bytes() == (tmp_path / "4").read_bytes()


@pytest.mark.gpu
@pytest.mark.parametrize("level", ["encoder", "input"])
def test_rows_on_the_card_give_what_rows_in_the_hosts_memory_give(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch, level: Level
) -> None:
    kwargs = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
    request = ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=kwargs, device="cuda", batch_size=3)
    found, model = [], load_model(request)
    for free in (2**30, 0):
        monkeypatch.setattr("nullspace_cli.engine.noise.kept_rows.free_memory", lambda device, free=free: free)
        found.append(learned(learning_of(model, images, plan_of(level=level, limits=(0.5, 1.0)))))
    for own, other in zip(*found, strict=True):
        assert torch.equal(own, other)
