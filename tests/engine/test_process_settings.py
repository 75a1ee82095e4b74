"""What is set for the whole process is afterwards as it was, also where threads overlap and where work fails."""

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image, ImageFile

from nullspace_cli.engine.errors import ImageError, ModelError, VitnullError
from nullspace_cli.engine.files import hub
from nullspace_cli.engine.files.hashes import hash_state
from nullspace_cli.engine.files.hub import hub_access
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.models.loading import load_model, load_view
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.runtime.process import WITHOUT_WARNINGS, InTurns
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Placement
from nullspace_cli.engine.workflows.failed_input import Failed
from nullspace_cli.engine.workflows.watermark import WatermarkFiles, WatermarkPipeline

SMALL = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 5}


def in_a_new_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def state() -> dict[str, Any]:
    """All settings of the process that this package, or what it calls, is known to touch."""
    return {
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "truncated": ImageFile.LOAD_TRUNCATED_IMAGES,
        "max pixels": Image.MAX_IMAGE_PIXELS,
        "offline": constants.HF_HUB_OFFLINE,
        "level": logging.getLogger("huggingface_hub").level,
        "root level": logging.getLogger().level,
        "generator": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "threads": (torch.get_num_threads(), in_a_new_thread(torch.get_num_threads)),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.fixture
def unchanged() -> Iterator[None]:
    before = state()
    yield
    after = state()
    assert {name for name in before if before[name] != after[name]} == set()


def request(seed: int = 0, name: str = "vit_tiny_patch16_224", **changes: Any) -> ModelRequest:
    options: dict[str, Any] = {"pretrained": False, "kwargs": SMALL, "device": "cpu", "seed": seed, **changes}
    return ModelRequest(name, **options)


# Random weights


def test_random_weights_are_those_of_their_seed_in_every_thread(unchanged: None) -> None:
    def plain(seed: int) -> str:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = timm.create_model("vit_tiny_patch16_224", **SMALL)
        return hash_state(module.state_dict())

    expected = [plain(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: load_model(request(seed)).weights_sha256, range(8)))
    assert found == expected
    assert len(set(found)) == 8


def test_one_model_is_built_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other thread would draw from the generator in between."""
    create, within, most = timm.create_model, list[int](), list[int]()

    def watched(*arguments: Any, **options: Any) -> Any:
        within.append(0)
        most.append(len(within))
        threading.Event().wait(0.05)
        try:
            return create(*arguments, **options)
        finally:
            within.pop()

    monkeypatch.setattr(timm, "create_model", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: load_model(request(seed)), range(4)))
    assert most == [1] * 4


@pytest.mark.parametrize(
    "bad", [{"name": "no_such_model"}, {"kwargs": {"no": 1}}, {"kwargs": {**SMALL, "num_heads": 7}}]
)
def test_a_model_that_cannot_be_built_changes_nothing(unchanged: None, bad: dict[str, Any]) -> None:
    for load in (load_model, load_view):
        with pytest.raises(ModelError):
            load(request(**bad))
    load_view(request())
    load_model(request())
    load_model(ModelRequest("demo", device="cpu"))


def test_seeding_touches_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    load_model(request(3))
    assert seeded == []


# The hub's client


def in_both_orders(first: Callable[[threading.Event], None], second: Callable[[], None]) -> None:
    """Start `second` while `first` is within; `first` is told when to leave."""
    leave = threading.Event()
    one, two = threading.Thread(target=first, args=(leave,)), threading.Thread(target=second)
    one.start()
    two.start()
    two.join(0.2)
    leave.set()
    one.join(30)
    two.join(30)


@pytest.mark.parametrize("first", [True, False])
def test_offline_and_online_at_once(unchanged: None, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_asked", lambda endpoint, patience: "")
    seen: list[tuple[bool, bool]] = []
    entered = threading.Event()

    def early(leave: threading.Event) -> None:
        with hub_access(offline=first):
            entered.set()
            leave.wait(30)
            seen.append((first, constants.HF_HUB_OFFLINE))

    def late() -> None:
        entered.wait(30)
        with hub_access(offline=not first):
            seen.append((not first, constants.HF_HUB_OFFLINE))

    in_both_orders(early, late)
    assert seen == [(first, first), (not first, not first)]
    assert constants.HF_HUB_OFFLINE is False


def test_those_who_want_the_same_do_not_wait(unchanged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    together = threading.Barrier(3)

    def load(_: int) -> int:
        with hub_access(offline=True):
            together.wait(30)
            return logging.getLogger("huggingface_hub").level

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(load, range(3))) == [logging.ERROR] * 3
    with pytest.raises(KeyError), hub_access(offline=True):
        raise KeyError
    assert constants.HF_HUB_OFFLINE is False


def test_whoever_waits_comes_in_after_an_error() -> None:
    held: list[str] = []

    class Held:
        def __init__(self, value: str) -> None:
            self.value = value

        def __enter__(self) -> None:
            held.append(self.value)

        def __exit__(self, *error: object) -> None:
            held.remove(self.value)

    turns, entered = InTurns(Held), threading.Event()

    def fails(leave: threading.Event) -> None:
        with suppress(KeyError), turns("a"):
            entered.set()
            leave.wait(30)
            raise KeyError

    seen: list[list[str]] = []

    def waits() -> None:
        entered.wait(30)
        with turns("b"):
            seen.append(list(held))

    in_both_orders(fails, waits)
    assert (seen, held) == ([["b"]], [])


# Warnings


def test_pictures_and_models_in_threads_leave_the_filters_as_they_were(unchanged: None, tmp_path: Path) -> None:
    """Each ignores warnings. Two managers of the filters that overlap would leave the one's behind."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")

    def read(name: str) -> None:
        for _ in range(20):
            try:
                read_picture(tmp_path / name)
            except VitnullError:
                assert name == "b.png"

    calls = [lambda: read("a.png"), lambda: read("b.png"), lambda: load_model(request()), lambda: load_view(request())]
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(call) for call in calls * 2]:
            future.result()


def test_one_holds_the_filters_for_all(unchanged: None, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    with WITHOUT_WARNINGS:
        filters = warnings.filters
        read_picture(tmp_path / "a.png")
        load_view(request())
        assert warnings.filters is filters


# Threads


def pipeline() -> WatermarkPipeline:
    return WatermarkPipeline(LazyModel(ModelRequest("demo", device="cpu")), Design(text_mark("copy"), Placement()))


def jobs(count: int) -> list[WatermarkFiles]:
    return [WatermarkFiles(Path(f"{i}.png"), Path(f"{i}.out.png")) for i in range(count)]


@pytest.fixture
def four_threads() -> Iterator[None]:
    """As on a machine with four cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("end", ["done", "left", "failed"])
def test_torchs_threads_are_shared_out_for_the_length_of_a_run(
    four_threads: None, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    before, counts = state(), list[int]()

    def together(self: WatermarkPipeline, jobs: Any, stop: threading.Event) -> Any:
        counts.append(torch.get_num_threads())
        if end == "failed":
            raise ZeroDivisionError
        return [Failed(job.source, ImageError("no such file")) for job in jobs]

    monkeypatch.setattr(WatermarkPipeline, "together", together)
    run = pipeline().each(jobs(4), 2)
    if end == "failed":
        with pytest.raises(ZeroDivisionError):
            list(run)
    elif end == "left":
        next(run)
        run.close()  # type: ignore[attr-defined]
    else:
        assert len(list(run)) == 4
    assert set(counts) == {2}
    after = state()
    assert {name for name in before if before[name] != after[name]} == set()


def test_runs_that_overlap(four_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that began first ends first."""
    before, both = state(), threading.Barrier(4)

    def together(self: WatermarkPipeline, jobs: Any, stop: threading.Event) -> Any:
        both.wait(30)
        if jobs[0].source.name < "2":
            time.sleep(0.1)
        return [Failed(job.source, ImageError("no such file")) for job in jobs]

    monkeypatch.setattr(WatermarkPipeline, "together", together)
    with ThreadPoolExecutor(2) as pool:
        ends = pool.map(lambda part: len(list(pipeline().each(part, 2))), (jobs(4)[:2], jobs(4)[2:]))
        assert list(ends) == [2, 2]
    after = state()
    assert {name for name in before if before[name] != after[name]} == set()
