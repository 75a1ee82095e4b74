"""Runs that processes share: the first of them says what is there, whatever lies where the others look."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.documents.artefacts import read_tensors
from nullspace_cli.engine.documents.kinds import NOISE
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import injection_site
from nullspace_cli.engine.noise.trainer import LearningResult, Plan, Trainer
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.workflows.learn_noise import NoiseRun
from tests import corpus
from tests.conftest import contents
from tests.made import training_images
from tests.ranks import in_ranks

LIMITS = (0.25, 0.5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return training_images(tmp_path_factory.mktemp("images"), 6)


@pytest.fixture(scope="module")
def model() -> Model:
    kwargs = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
    return load_model(ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=kwargs, device="cpu", batch_size=3))


def run_in(folder: Path, model: Model, images: ImageSet, ranks: Ranks, **options: Any) -> NoiseRun:
    folder.mkdir(exist_ok=True)
    plan = Plan(
        "encoder", LIMITS, "adamw", 3, 0.02, 1.0, 2.0, None, 4, 0, images.fingerprint(), len(images),
        asdict(model.transform),
    )  # fmt: skip
    outputs = tuple(folder / f"{limit}.safetensors" for limit in LIMITS)
    return NoiseRun(
        model, injection_site(model, "encoder"), images, model.transform, plan, outputs, folder / "state", Store(2**20),
        ranks, workers=1, **options,
    )  # fmt: skip


def noises(folder: Path) -> list[Tensor]:
    return [read_tensors(folder / f"{limit}.safetensors", NOISE)[0]["noise"] for limit in LIMITS]


def interrupted(folder: Path, model: Model, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a run's state after three steps."""
    with monkeypatch.context() as patch:
        steps = Trainer.steps

        def three(self: Trainer) -> Any:
            for done in steps(self):
                yield done
                if done == 3:
                    raise KeyboardInterrupt

        patch.setattr(Trainer, "steps", three)
        with pytest.raises(KeyboardInterrupt):
            run_in(folder, model, images, Ranks(), every=1)()
    assert contents(folder) == ["state"]


@pytest.mark.parametrize("where", [0, 1, 2], ids=["with the first", "with the second", "with both"])
def test_a_state_counts_where_the_first_process_finds_it(
    model: Model, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: int
) -> None:
    """Each process has a file system of its own."""
    run_in(tmp_path / "whole", model, images, Ranks())()
    expected = noises(tmp_path / "whole")
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders if where == 2 else [folders[where]]:
        interrupted(folder, model, images, monkeypatch)
    started: list[int] = []
    step = Trainer._step

    def counted(self: Trainer, *what: Any) -> None:
        started.append(self.done)
        step(self, *what)

    monkeypatch.setattr(Trainer, "_step", counted)
    found = in_ranks(lambda ranks: run_in(folders[ranks.rank], model, images, ranks, resume=True)().noises)
    assert min(started) == (0 if where == 1 else 3)
    for noise, other in zip(noises(folders[0]), expected, strict=True):
        torch.testing.assert_close(noise, other, rtol=1e-3, atol=1e-5)
    first, second = found
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert [learned.losses for learned in first] == [learned.losses for learned in second]
    assert not (folders[0] / "state").exists()
    assert contents(folders[1]) == (["state"] if where else []), "the first process alone writes"


def test_a_finished_noise_that_is_damaged_is_not_kept(model: Model, images: ImageSet, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", model, images, Ranks(), resume=True)
    run()
    for case in corpus.broken_noises(good := run.outputs[0]):
        whole = good.read_bytes()
        case.make(good)
        with pytest.raises(ArtifactError, match=r"is damaged: its (norm|loss)_"):
            run()
        good.write_bytes(whole)
    assert len(run().noises) == len(LIMITS)


@pytest.mark.parametrize("where", [0, 1])
def test_noises_are_finished_where_the_first_process_finds_them(
    model: Model, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: int
) -> None:
    folders = [tmp_path / "0", tmp_path / "1"]
    run_in(folders[where], model, images, Ranks())()
    ran: list[int] = []
    prepare = NoiseRun._prepare

    def counted(self: NoiseRun, plan: Plan, skipped: list[str]) -> Trainer:
        ran.append(self.ranks.rank)
        return prepare(self, plan, skipped)

    monkeypatch.setattr(NoiseRun, "_prepare", counted)
    found = in_ranks(lambda ranks: run_in(folders[ranks.rank], model, images, ranks, resume=True)().noises)
    assert sorted(ran) == ([] if where == 0 else [0, 1])
    for learned in found:
        assert isinstance(learned, list)
        assert all(isinstance(noise, LearningResult) and len(noise.losses) == 6 for noise in learned)


def test_what_follows_the_first_process_is_all_that_changes(
    model: Model, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "0", model, images, monkeypatch)

    def restored(ranks: Ranks) -> dict[str, Any]:
        trainer = run_in(tmp_path / str(ranks.rank), model, images, ranks)._prepare(
            run_in(tmp_path / "0", model, images, ranks).plan, []
        )
        if ranks.first:
            trainer.restore(tmp_path / "0" / "state")
        trainer.follow()
        return {"done": trainer.done, "tensors": [learner.tensors() for learner in trainer.learners]}

    first, second = in_ranks(restored)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["done"] == second["done"] == 3
    for own, other in zip(first["tensors"], second["tensors"], strict=True):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)
