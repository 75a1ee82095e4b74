"""What crosses between host and card, and how often the host waits, a step: counted on the simulated card.

A step may cost a few of either, whatever the number of noises, patches or images that it treats together.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.data.datasets import open_data
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.evaluation.noises_under_test import NoiseUnderTest, cases_of
from nullspace_cli.engine.evaluation.stability import evaluate
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from nullspace_cli.engine.noise.noise import Noise
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import Plan, Trainer
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.solvers.bounded_least_squares import bounded_least_squares
from nullspace_cli.engine.solvers.box_projection import project_affine_box
from nullspace_cli.engine.solvers.interior_point import solve_affine_box
from nullspace_cli.engine.solvers.metric_rounding import MetricRounding
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Placement
from nullspace_cli.engine.watermark.model_size import ModelSize
from nullspace_cli.engine.watermark.native_size import NativeSize
from tests.engine.watermark.patches import smooth_space
from tests.simulated_card import Counts, Traffic

TINY = {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 64}
TRANSFORM = EvalTransform((3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 1.0)
CARD = torch.device("cuda")


def at_most(spent: Counts, *, to_card: int, to_host: int, waits: int) -> bool:
    return spent.to_card <= to_card and spent.to_host <= to_host and spent.waits <= waits


@pytest.fixture
def cost(traffic: Traffic) -> Callable[[Callable[[], object]], Counts]:
    def cost(work: Callable[[], object]) -> Counts:
        before = traffic.counts()
        work()
        return traffic.counts() - before

    return cost


@pytest.fixture
def model(traffic: Traffic) -> Model:
    request = ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=TINY, batch_size=8, device="cuda")
    return load_model(request)


def test_loading_brings_nothing_back(cost: Callable[..., Counts]) -> None:
    """The weights' hash is taken before they go to the card."""
    assert cost(lambda: load_model(ModelRequest("demo-cnn", device="cuda"))).to_host == 0


@pytest.mark.parametrize("amp", ["none", "bf16"])
@pytest.mark.parametrize("level", ["encoder", "input"])
def test_a_step_of_learning(model: Model, traffic: Traffic, level: Level, amp: Any) -> None:
    """Nothing crosses and nobody waits; a round begins with the places of its rows and ends with its figures."""
    model = replace(model, amp=amp)
    site, images = injection_site(model, level), open_data("demo").select(range(8))
    cache = ReferenceCache(model, site, images, range(8), model.transform, Store(0), workers=1)
    for limits in ((0.5,), (0.25, 0.5, 1.0)):
        plan = Plan(level, limits, "adamw", 3, 0.02, 1.0, 2.0, 1e-9, 2, 0, "x", 8, {})
        trainer = Trainer(model, site, cache, plan, Ranks())
        steps, spent = trainer.steps(), []
        for _ in range(2 * 4):
            before = traffic.counts()
            next(steps)
            spent.append(traffic.counts() - before)
        assert spent[1:3] == spent[5:7] == 2 * [(0, 0, 0, 0)], traffic.report()
        assert spent[4] == (1, 0, 0, 0), traffic.report()
        assert spent[3] == spent[7] == (0, 1, 1, 0), traffic.report()


@pytest.mark.parametrize("level", ["encoder", "input"])
def test_a_step_of_learning_from_what_the_card_has_no_room_for(
    model: Model, traffic: Traffic, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What crosses, inputs and clean answers, goes by way of pinned memory, and nobody waits."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 0))
    site, images = injection_site(model, level), open_data("demo").select(range(8))
    cache = ReferenceCache(model, site, images, range(8), model.transform, Store(2**20), workers=1)
    plan = Plan(level, (0.5, 1.0), "sgd", 1, 0.02, 1.0, 2.0, 1e-9, 2, 0, "x", 8, {})
    trainer, before = Trainer(model, site, cache, plan, Ranks()), traffic.counts()
    for _ in trainer.steps():
        pass
    assert traffic.counts() - before == (4 * 2, 1, 1, 0), traffic.report()


def test_a_batch_of_an_evaluation(model: Model, cost: Callable[..., Counts], traffic: Traffic) -> None:
    images = open_data("demo")

    def tested(level: Level) -> NoiseUnderTest:
        delta = torch.ones(1, *injection_site(model, level).shape)
        return NoiseUnderTest(Noise(delta, level, "x", None, model.transform.std, 0.5, None, Path("x")), False)

    found = []
    for noises in ([tested("encoder")], [tested("encoder"), tested("input"), tested("input")]):
        cases = cases_of(noises, ("shuffle", "uniform"), 2, 0)
        one, three = (
            cost(lambda n=n, c=cases: evaluate(model, images.select(range(n)), c, workers=1)) for n in (8, 24)
        )
        found.append(three - one)  # of two more batches
    for spent in found:
        assert (spent.to_host, spent.waits, spent.held) == (2, 2, 0), traffic.report()
        assert spent.to_card <= 2 * 3, traffic.report()


# Solvers


def problems(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """A and `count` copies of three problems, one of them hard, on the card."""
    generator = torch.Generator().manual_seed(0)
    A = torch.linalg.qr(torch.randn(64, 16, generator=generator, dtype=torch.float64)).Q.mT.contiguous()
    x = torch.rand(3, 64, generator=generator, dtype=torch.float64)
    x[1] = torch.where(torch.rand(64, generator=generator) < 0.5, x[1].round(), x[1])
    t = 2 * torch.rand(3, 64, generator=generator, dtype=torch.float64) - 0.5
    return A.cuda(), x.repeat(count, 1).cuda(), t.repeat(count, 1).cuda()


SOLVERS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "box, p = 2": project_affine_box,
    "interior point, p = 1": lambda A, x, t: solve_affine_box(A, x, t, norm=1),
    "interior point, p = 2": lambda A, x, t: solve_affine_box(A, x, t, norm=2),
    "bounded least squares": lambda A, x, t: bounded_least_squares(A, 3 * t @ A.mT, -0.5, 0.5),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_an_iteration_of_a_solver(traffic: Traffic, cost: Callable[..., Counts], name: str) -> None:
    found, iterations = [], 0
    for count in (1, 12):
        inputs = problems(count)
        solutions: list[Any] = []
        found.append(cost(lambda i=inputs, s=solutions: s.append(SOLVERS[name](*i))))
        iterations = int(solutions[0].iterations.max())
    assert found[0] == found[1], f"it grows with the number of problems\n{traffic.report()}"
    assert iterations > 3
    assert at_most(found[0], to_card=6, to_host=0, waits=12 * (iterations + 1)), traffic.report()


def test_rounding(traffic: Traffic, cost: Callable[..., Counts]) -> None:
    found = []
    for rank, count in ((8, 2), (24, 40)):
        A = torch.randn(rank, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cuda()
        z = torch.rand(count, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cuda()
        found.append(cost(lambda A=A, z=z: MetricRounding.of(A).round(z)))
    assert found[0].to_host == found[1].to_host == 0, traffic.report()
    assert max(found[0].waits, found[1].waits) <= 5, traffic.report()


# Watermarks


def pictured(path: Path, index: int, size: int) -> Path:
    Image.fromarray(draw("test", index, size=size)[0]).save(path)
    return path


@pytest.mark.parametrize("norm", [1, 2])
def test_watermarks_at_model_size(cost: Callable[..., Counts], traffic: Traffic, tmp_path: Path, norm: Any) -> None:
    """Nothing but the solution comes back, once for all images of a group."""
    pictures = [read_picture(pictured(tmp_path / f"{i}.png", i, 64)) for i in range(4)]
    found = []
    for count in (1, 4):
        make = ModelSize(TRANSFORM, smooth_space(TRANSFORM.std), Design(text_mark("c"), Placement()), norm, device=CARD)
        found.append(cost(lambda make=make, count=count: make(pictures[:count])))
    assert found[0][:2] == found[1][:2], traffic.report()
    assert at_most(found[1], to_card=7, to_host=7, waits=500), traffic.report()


@pytest.mark.parametrize(("nullspace", "waits"), [("resize", 100), ("patch", 500)])
def test_a_watermark_at_native_size(traffic: Traffic, tmp_path: Path, nullspace: Any, waits: int) -> None:
    space = smooth_space(TRANSFORM.std)
    make = NativeSize(TRANSFORM, Design(text_mark("copy"), Placement()), lambda: space, nullspace, device=CARD)
    first, second = (read_picture(pictured(tmp_path / f"{i}.png", i, 200)) for i in (3, 4))
    make(first)  # it prepares what the size needs
    before = traffic.counts()
    made = make(second)
    assert at_most(traffic.counts() - before, to_card=40, to_host=30, waits=waits), traffic.report()
    assert not np.array_equal(made.pixels, made.source)
