"""From files to verified files: groups, failures, short memory, threads, and when the model has to be asked."""

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.documents.artefacts import read_tensors
from nullspace_cli.engine.errors import ArtifactError, ImageError, MemoryShortError, ModelError, NoNullspaceError
from nullspace_cli.engine.files import containers
from nullspace_cli.engine.files.containers import Encoded
from nullspace_cli.engine.files.pictures import Picture, encode_png, read_picture
from nullspace_cli.engine.files.work_locks import at_work_on
from nullspace_cli.engine.models.model import Model, ModelView
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace import lazy_model as networks
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Placement
from nullspace_cli.engine.watermark.model_size import ModelSize
from nullspace_cli.engine.watermark.native_size import NativeSize
from nullspace_cli.engine.watermark.result import Watermarked, fidelity
from nullspace_cli.engine.watermark.verification import Verification, WatermarkedFile, verify
from nullspace_cli.engine.workflows import watermark as stamping
from nullspace_cli.engine.workflows.failed_input import DoneElsewhere, Failed
from nullspace_cli.engine.workflows.watermark import Outcome, WatermarkFiles, WatermarkPipeline, summarise

TRANSFORM = EvalTransform((3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 1.0)


class Tiny(nn.Module):
    """A patch embedding and a head."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 6, 8, 8)
        self.head = nn.Linear(6, 4)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(self.embed(images).square().mean((2, 3)))
        return answer


def load_tiny(request: ModelRequest) -> Model:
    module = Tiny().eval().requires_grad_(False)
    return Model(module, "tiny", "random", "0" * 64, TRANSFORM, torch.device("cpu"), "none", 8, 0, None)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "load_model", load_tiny)
    monkeypatch.setattr(networks, "load_view", lambda request: ModelView("tiny", TRANSFORM, has_head=True))


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(request: ModelRequest) -> Model:
        raise ModelError("no weights of tiny")

    monkeypatch.setattr(networks, "load_model", missing)


def pipeline(device: str = "cpu", **settings: Any) -> WatermarkPipeline:
    return WatermarkPipeline(
        LazyModel(ModelRequest("tiny", device=device)), Design(text_mark("copy"), Placement()), **settings
    )


def jobs(folder: Path, count: int = 1, size: int = 96, **extra: Path) -> list[WatermarkFiles]:
    made = []
    for i in range(count):
        Image.fromarray(draw("test", i, size=size)[0]).save(folder / f"{i}.png")
        made.append(WatermarkFiles(folder / f"{i}.png", folder / f"{i}.out.png", **extra))
    return made


def failures(done: Sequence[Outcome]) -> list[bool]:
    return [isinstance(item, Failed) for item in done]


# --- one image


@pytest.mark.parametrize("size", ["native", "model"])
def test_files_and_record(size: str, tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, diff=tmp_path / "diff.png", unrounded=tmp_path / "exact.safetensors")
    make = pipeline(size=size)
    done = make(job)
    written = read_picture(job.output)
    np.testing.assert_array_equal(written.pixels, done.result.pixels)
    side = 96 if size == "native" else 32
    assert (written.width, written.height) == (side, side)
    assert read_picture(tmp_path / "diff.png").pixels.shape == written.pixels.shape
    tensors, provenance = read_tensors(tmp_path / "exact.safetensors", "watermark", ("image", "source", "target"))
    assert tensors["image"].shape == (3, side, side)
    assert provenance.model == "tiny"
    assert done.record["nullspace"] == done.result.nullspace == ("resize" if size == "native" else "patch")
    expected: dict[str, Any] = {
        "source": str(job.source),
        "output": str(job.output),
        "size": [side, side],
        "rounding": "aware",
        "solver": done.result.solver,
        "diff": str(job.diff),
        "float": str(job.unrounded),
        **fidelity(done.result),
    }
    assert {key: done.record[key] for key in expected} == expected
    assert done.record["seconds"] >= 0
    assert not list(tmp_path.glob("*.part"))


def test_existing_files_are_kept_unless_forced(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    job.output.write_bytes(b"precious")
    with pytest.raises(ArtifactError, match="exists already"):
        pipeline()(job)
    assert job.output.read_bytes() == b"precious"
    pipeline(force=True)(job)
    assert read_picture(job.output).width == 96


def test_what_a_png_cannot_hold_is_told(tmp_path: Path) -> None:
    Image.fromarray(draw("test", 0, size=96)[0]).convert("CMYK").save(tmp_path / "print.tif")
    notices: list[str] = []
    pipeline(notice=notices.append)(WatermarkFiles(tmp_path / "print.tif", tmp_path / "out.png"))
    assert len(notices) == 1
    assert "8-bit RGB, not CMYK" in notices[0]


# --- what is verified, and how


@pytest.fixture
def by_model(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that the model was run on."""
    files: list[Path] = []

    def watched(model: Model, patch_map: Any, source: Picture, result: Picture) -> Verification:
        files.append(result.path)
        return verify(model, patch_map, source, result)

    monkeypatch.setattr(stamping, "verify", watched)
    return files


@pytest.mark.usefixtures("without_weights")
@pytest.mark.parametrize("verify", [None, False])
@pytest.mark.parametrize("has_head", [True, False])
def test_identical_input_needs_no_model(
    has_head: bool, verify: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even its weights: what is computed from equal inputs is equal. A model without a head keeps no class."""
    monkeypatch.setattr(networks, "load_view", lambda request: ModelView("tiny", TRANSFORM, has_head))
    (job,) = jobs(tmp_path)
    done = pipeline(nullspace="resize", verify=verify)(job)
    before, after = (TRANSFORM.input_pixels(read_picture(path).pixels) for path in (job.source, job.output))
    np.testing.assert_array_equal(before, after)
    equal = Verification(input_pixels_changed=0.0, input_pixels_changed_shown=0.0, input_max_change=0)
    assert done.verdict == equal.as_identical(has_head=has_head)
    assert done.record["verified"] is True
    assert done.record["match"] is (True if has_head else None)
    assert summarise([done.record], 0, 1.0)["matched"] == (1 if has_head else None)
    assert (done.result.pixels != done.result.source).any()


@pytest.mark.parametrize(("asked", "runs"), [(None, 1), (True, 1), (False, 0)])
def test_changed_input_is_for_the_model(asked: bool | None, runs: int, by_model: list[Path], tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    done = pipeline(size="model", verify=asked)(job)
    assert by_model == [job.output] * runs
    assert (done.verdict.input_pixels_changed or 0) > 0.2
    assert done.record["verified"] is (True if runs else None)
    assert (done.record["match"] is True) == bool(runs)
    if not runs:
        changed, most = done.verdict.input_pixels_changed, done.verdict.input_max_change
        assert done.verdict == Verification(
            input_pixels_changed=changed, input_pixels_changed_shown=changed, input_max_change=most
        )


def test_the_model_is_run_where_that_is_asked_for(by_model: list[Path], tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    done = pipeline(nullspace="resize", verify=True)(job)
    assert by_model == [job.output]
    assert done.verdict.input_pixels_changed == 0
    assert done.verdict.before is not None
    assert done.verdict.before == done.verdict.after


@pytest.mark.usefixtures("without_weights")
def test_a_model_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs(tmp_path)
    changed = Verification(input_pixels_changed=0.25, input_pixels_changed_shown=0.25)
    monkeypatch.setattr(stamping, "compare_inputs", lambda *arguments: changed)
    notices: list[str] = []
    done = pipeline(nullspace="resize", notice=notices.append)(job)
    assert notices == [f"{job.output} could not be verified by the model: no weights of tiny"]
    assert done.verdict == changed
    assert done.record["verified"] is None
    with pytest.raises(ModelError, match="no weights of tiny"):
        pipeline(nullspace="resize", verify=True, force=True)(job)


def test_tolerance(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    done = pipeline(size="model", rounding="nearest", tolerance=1e-9)(job)
    assert done.record["match"] is True
    assert done.record["verified"] is False


@pytest.mark.parametrize("size", ["native", "model"])
def test_a_file_that_holds_other_pixels_or_none_is_not_left(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs(tmp_path)
    job = replace(job, diff=tmp_path / "diff.png", unrounded=tmp_path / "float.safetensors")
    before = sorted(tmp_path.iterdir())
    other = encode_png(draw("test", 5, size=32)[0])
    for data, reason in ((other, "its pixels are others"), (other[:200], "could not be read back")):
        monkeypatch.setattr(containers, "encode", lambda *arguments, data=data: Encoded(data, ()))
        with pytest.raises(ArtifactError, match=f"{job.output.name} was not written: .*{reason}"):
            pipeline(size=size)(job)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("place", ["_judge", "_save_float", "noise_picture"])
def test_a_failure_after_the_file_was_written_leaves_none(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs(tmp_path)
    job = replace(job, diff=tmp_path / "diff.png", unrounded=tmp_path / "float.safetensors")
    before = sorted(tmp_path.iterdir())

    def failing(*arguments: Any) -> None:
        raise ModelError("no")

    monkeypatch.setattr(stamping if place == "noise_picture" else WatermarkPipeline, place, failing)
    with pytest.raises(ModelError):
        pipeline(size="model")(job)
    assert sorted(tmp_path.iterdir()) == before


# --- many images


@pytest.mark.parametrize("size", ["native", "model"])
@pytest.mark.parametrize("workers", [1, 3])
def test_one_failure_does_not_stop_the_others(size: str, workers: int, tmp_path: Path) -> None:
    todo = jobs(tmp_path, 5)
    todo[1].source.write_bytes(b"no picture")
    todo[3].output.write_bytes(b"in the way")
    done = list(pipeline(size=size, group=3).each(todo, workers))
    assert failures(done) == [False, True, False, True, False]
    assert isinstance(done[1], Failed)
    assert isinstance(done[1].error, ImageError)
    assert done[1].source == todo[1].source
    assert isinstance(done[3], Failed)
    assert isinstance(done[3].error, ArtifactError)
    for i in (0, 2, 4):
        stamped = done[i]
        assert isinstance(stamped, WatermarkedFile)
        assert stamped.record["source"] == str(todo[i].source)
        assert stamped.record["verified"] is True
    assert not todo[1].output.exists()


@pytest.mark.parametrize("finished", [True, False])
def test_what_others_are_at_work_on_comes_last(finished: bool, tmp_path: Path) -> None:
    """One is left to whoever is at work on it, and done here if nothing came of that."""
    todo = jobs(tmp_path, 4)
    made = pipeline(size="model", group=2)
    made(todo[3])
    with at_work_on(todo[1].output) as mine:
        assert mine
        found = made.each(todo, 1, shared=True)
        first = [next(found) for _ in range(3)]
        if finished:
            shutil.copy(todo[3].output, todo[1].output)
    last = list(found)
    assert [type(item) for item in first] == [WatermarkedFile, WatermarkedFile, DoneElsewhere]
    assert [type(item) for item in last] == [DoneElsewhere if finished else WatermarkedFile]
    assert all(job.output.exists() for job in todo)
    assert not list(tmp_path.glob(".vitnull-*"))


def test_groups_are_solved_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = watch_solver(monkeypatch, lambda pictures: None)
    assert failures(list(pipeline(size="model", group=3).each(jobs(tmp_path, 7), 1))) == [False] * 7
    assert sizes == [3, 3, 1]


@pytest.mark.gpu
def test_a_card_is_given_the_patches_of_more_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read and written side by side, and come in their order; one that fails is alone."""
    sizes, todo = watch_solver(monkeypatch, lambda pictures: None), jobs(tmp_path, 35)
    todo[3].source.write_bytes(b"no picture")
    todo[5].output.write_bytes(b"in the way")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    made = pipeline("cuda", size="model")
    done = list(made.each(todo, made.default_workers))
    assert sorted(sizes) == [3, 31]
    assert failures(done) == [i in (3, 5) for i in range(35)]
    names = [item.record["source"] for item in done if isinstance(item, WatermarkedFile)]
    assert names == [str(job.source) for i, job in enumerate(todo) if i not in (3, 5)]


def watch_solver(monkeypatch: pytest.MonkeyPatch, before: Callable[[Sequence[Picture]], None]) -> list[int]:
    """How many pictures the solver was given each time; `before` may refuse them."""
    sizes: list[int] = []
    solve = ModelSize.__call__

    def watched(self: ModelSize, pictures: Sequence[Picture], designs: Any) -> list[Watermarked]:
        sizes.append(len(pictures))
        before(pictures)
        return solve(self, pictures, designs)

    monkeypatch.setattr(ModelSize, "__call__", watched)
    return sizes


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_out_of_memory_halves_the_group(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pictures: Sequence[Picture]) -> None:
        if len(pictures) > 2:
            raise error("too much")

    sizes, notices = watch_solver(monkeypatch, refuse), list[str]()
    done = pipeline(size="model", notice=notices.append).together(jobs(tmp_path, 5))
    assert failures(done) == [False] * 5
    assert sizes == [5, 2, 2, 1]
    assert notices == ["out of memory with 5 images at once; going on with 2"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("size", ["model", "native"])
def test_an_image_that_does_not_fit_fails_alone(
    size: Any, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = jobs(tmp_path, 5)

    def refuse(pictures: Sequence[Picture]) -> None:
        if any(picture.path == todo[3].source for picture in pictures):
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )

    watch_solver(monkeypatch, refuse)
    native = NativeSize.__call__

    def watched(self: NativeSize, picture: Picture, design: Any) -> Watermarked:
        refuse([picture])
        return native(self, picture, design)

    monkeypatch.setattr(NativeSize, "__call__", watched)
    done = list(pipeline(size=size, group=3).each(todo, workers))
    assert failures(done) == [False, False, False, True, False]
    assert isinstance(done[3], Failed)
    assert isinstance(done[3].error, MemoryShortError)
    with Image.open(todo[3].source) as image:
        width, height = image.size
    assert str(done[3].error).startswith(f"{todo[3].source} ({width} x {height} pixels) does not fit into memory (")
    assert not todo[3].output.exists()


@pytest.mark.parametrize("place", ["read_picture", "write_picture", "verify"])
def test_memory_that_is_short_anywhere_is_the_images_failure(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo, original, calls = jobs(tmp_path, 3), getattr(stamping, place), list[int]()

    def starved(*arguments: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == 2:
            raise MemoryError
        return original(*arguments, **options)

    monkeypatch.setattr(stamping, place, starved)
    done = list(pipeline(size="model", group=1, verify=True).each(todo, 1))
    assert sum(failures(done)) == 1
    (failed,) = (item for item in done if isinstance(item, Failed))
    assert "does not fit into memory (MemoryError). Try `workers=1`" in str(failed.error)
    assert [job.output.exists() for job in todo] == [job.source != failed.source for job in todo]


def test_one_that_cannot_be_solved_is_singled_out_in_silence(tmp_path: Path) -> None:
    todo, notices = jobs(tmp_path, 4), list[str]()
    Image.fromarray(np.zeros((1, 40_000_000 // 32, 3), np.uint8)).save(todo[2].source)
    done = pipeline(size="model", notice=notices.append).together(todo)
    assert failures(done) == [False, False, True, False]
    assert isinstance(done[2], Failed)
    assert "too elongated" in str(done[2].error)
    assert notices == []


def test_order_is_kept_and_threads_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image waits until the third has been begun by another thread."""
    third_begun, solve = threading.Event(), NativeSize.__call__
    todo = jobs(tmp_path, 5)

    def slow(self: NativeSize, picture: Picture, design: Any) -> Watermarked:
        if picture.path == todo[2].source:
            third_begun.set()
        if picture.path == todo[0].source:
            assert third_begun.wait(30)
        return solve(self, picture, design)

    monkeypatch.setattr(NativeSize, "__call__", slow)
    done = list(pipeline().each(todo, 2))
    assert [item.record["source"] for item in done if isinstance(item, WatermarkedFile)] == [
        str(job.source) for job in todo
    ]


def test_whoever_stops_listening_stops_the_work(tmp_path: Path) -> None:
    todo = jobs(tmp_path, 12, size=64)
    results = pipeline(nullspace="patch").each(todo, 2)
    assert isinstance(next(results), WatermarkedFile)
    results.close()  # type: ignore[attr-defined]
    assert not todo[-1].output.exists()


def test_a_bug_is_not_a_failed_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> dict[str, float]:
        raise ZeroDivisionError

    monkeypatch.setattr(stamping, "figures", broken)
    with pytest.raises(ZeroDivisionError):
        list(pipeline().each(jobs(tmp_path, 3), 2))


# --- before and after


def test_prepare_loads_what_will_be_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def counted(request: ModelRequest) -> Model:
        loads.append(request.name)
        return load_tiny(request)

    monkeypatch.setattr(networks, "load_model", counted)
    for settings, count in (
        ({}, 0),
        ({"verify": False}, 0),
        ({"verify": True}, 1),
        ({"nullspace": "patch"}, 1),
        ({"size": "model"}, 1),
    ):
        loads.clear()
        pipeline(**settings).prepare()
        assert len(loads) == count, settings


def test_prepare_refuses_a_model_without_nullspace(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise NoNullspaceError("none")

    for name in ("find_first_layer", "find_patches"):
        monkeypatch.setattr(networks, name, none)
    for settings in ({"size": "model"}, {"nullspace": "patch"}):
        with pytest.raises(NoNullspaceError):
            pipeline(**settings).prepare()
    pipeline(nullspace="resize").prepare()


def test_summary() -> None:
    records: list[dict[str, Any]] = [
        {"match": True, "confidence_change": 0.0, "input_pixels_changed": 0.0},
        {"match": True, "confidence_change": 0.3, "input_pixels_changed": 0.5},
        {"match": False, "confidence_change": 0.6, "input_pixels_changed": 0.5},
        {"match": None, "confidence_change": None, "input_pixels_changed": 0.5},
    ]
    assert summarise(records, 2, 8.0) == {
        "count": 4,
        "failed": 2,
        "matched": 2,
        "match_percent": pytest.approx(200 / 3),
        "mean_confidence_change": pytest.approx(0.3),
        "max_confidence_change": 0.6,
        "bit_identical": 1,
        "images_per_second": 0.5,
    }
    nothing = summarise(records[3:], 0, 0.0)
    assert [nothing[key] for key in ("matched", "match_percent", "mean_confidence_change")] == [None] * 3
    assert (nothing["max_confidence_change"], nothing["images_per_second"]) == (None, None)


def test_default_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (3, 3), (64, 4), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert pipeline().default_workers == expected
    monkeypatch.setattr(stamping, "resolve_device", lambda name: torch.device("cuda"))
    assert pipeline().default_workers == 2
