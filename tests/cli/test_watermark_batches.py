"""Many images to `vitnull watermark`: records, failures, workers; and processes that are cut short or run at once."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest
from PIL import Image

from nullspace_cli.commands.image_files import Planned
from nullspace_cli.engine.runtime import distributed
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.watermark.model_size import ModelSize
from nullspace_cli.engine.watermark.native_size import NativeSize
from nullspace_cli.engine.workflows import watermark as stamping
from tests.cli.contract import WATERMARK, WATERMARKED, check_keys
from tests.cli.reference import pixels_of
from tests.conftest import Outcome, Vitnull, contents

T = TypeVar("T")
NAMES = ("a.png", "b.png", "c.png", "d.png")


def result_of(name: str) -> str:
    return name.replace(".png", ".watermarked.png")


@pytest.fixture
def stamp(vitnull: Vitnull, tiny_vit: tuple[str, ...], logo: Path) -> Vitnull:
    """`vitnull watermark IMAGE... logo.png` through the resize, with further options."""

    def stamp(*arguments: str | Path, **options: Any) -> Outcome:
        return vitnull("watermark", "--nullspace", "resize", *arguments, logo, "--model", *tiny_vit, **options)

    return stamp


@pytest.fixture
def images(tmp_path: Path, photo: Path) -> tuple[str, ...]:
    """Four pictures of several sizes."""
    with Image.open(photo) as image:
        for i, name in enumerate(NAMES):
            image.crop((0, 0, 260 - 20 * (i % 2), 230)).rotate(180 * (i // 2)).save(tmp_path / name)
    return NAMES


def parsed(text: str) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


# Records


def test_a_record_a_line(stamp: Vitnull, images: tuple[str, ...]) -> None:
    records = stamp(*images, "--jsonl").lines("watermark")
    assert [record["source"] for record in records] == list(images)
    for record in records:
        check_keys(record, WATERMARKED)
        assert record["input_pixels_changed"] == 0


def test_a_record_of_each_failure(stamp: Vitnull, images: tuple[str, ...]) -> None:
    Path("b.png").write_text("no picture")
    outcome = stamp("missing.png", *images, "--jsonl", expect=4)
    records = outcome.lines("watermark", "failure")
    done, failed = ([record for record in records if ("error" in record) is so] for so in (False, True))
    assert [record["source"] for record in done] == ["a.png", "c.png", "d.png"]
    assert [record["source"] for record in failed] == ["missing.png", "b.png"]
    assert outcome.stderr.splitlines() == [f"vitnull: error: {record['error']}" for record in failed]
    for record in failed:
        assert record["error"].startswith(f"Cannot read {record['source']}: ")


@pytest.mark.parametrize("command", ["watermark", "explain", "check"])
def test_one_that_is_done_among_others_is_no_run_of_one(
    vitnull: Vitnull, logo: Path, images: tuple[str, ...], command: str
) -> None:
    """The result by itself names all that failed, by names that a reason may lack."""
    Image.new("RGB", (3000, 3)).save("long.png")
    for folder in ("bad", "bad2"):
        Path(folder).mkdir()
        shutil.copy("long.png", folder)
        Path(folder, "b.png").write_text("no picture")
        shutil.copy("a.png", folder)
    arguments: dict[str, tuple[str | Path, ...]] = {
        "watermark": ("watermark", "bad", logo, "--model", "demo", "--size", "model", "--out-dir", "out"),
        "explain": ("explain", "bad", "--model", "demo", "--method", "gradient", "--out-dir", "out"),
        "check": ("check", "bad", "bad2", "--model", "demo"),
    }
    out = vitnull(*arguments[command], expect=4).stdout
    first, second, last = [line for line in out.splitlines() if re.match("failed: |1 (images|pairs) ", line)]
    assert "bad/b.png: " in first
    assert second.startswith("failed: bad/long.png: An image of 3000 x 3")
    assert last.startswith(("1 images done, 2 failed", "1 pairs compared, 2 failed"))


@pytest.mark.parametrize("command", ["watermark", "explain"])
def test_a_result_that_can_have_no_name_is_one_failure(
    vitnull: Vitnull, logo: Path, images: tuple[str, ...], command: str
) -> None:
    long = "x" * 246 + ".png"
    shutil.copy("a.png", long)
    arguments: dict[str, tuple[str | Path, ...]] = {
        "watermark": (logo, "--model", "demo", "--size", "model"),
        "explain": ("--model", "demo"),
    }
    outcome = vitnull(command, "a.png", long, *arguments[command], "--out-dir", "out", "--json", expect=4)
    document = outcome.document
    assert [record["source"] for record in document["images"]] == ["a.png"]
    (failure,) = document["failures"]
    assert failure["source"] == long
    assert "File name too long" in failure["error"]
    assert "File name too long" in vitnull(command, long, *arguments[command], "--out-dir", "out", expect=1).message


def test_what_stands_where_a_result_is_to_be_is_one_failure(stamp: Vitnull, images: tuple[str, ...]) -> None:
    """A folder, a link in a circle and one to nowhere are there, and no results."""
    Path("out", result_of("a.png")).mkdir(parents=True)
    Path("out", result_of("b.png")).symlink_to(result_of("b.png"))
    Path("out", result_of("c.png")).symlink_to("nowhere.png")
    arguments = (*images, "--out-dir", "out", "--skip-existing", "--json")
    document = stamp(*arguments, expect=4).document
    assert [record["source"] for record in document["images"]] == ["d.png"]
    assert [failure["source"] for failure in document["failures"]] == ["a.png", "b.png", "c.png"]
    document = stamp(*arguments, "--force", expect=4).document
    assert [record["source"] for record in document["images"]] == ["c.png"]
    assert [failure["source"] for failure in document["failures"]] == ["a.png", "b.png"]
    assert Path("out", "nowhere.png").exists()


def test_the_document_of_a_batch(stamp: Vitnull, no_weights: None, images: tuple[str, ...]) -> None:
    document = stamp(*images, "--json").document
    check_keys(document, WATERMARK)
    assert [record["output"] for record in document["images"]] == [result_of(name) for name in images]
    summary = document["summary"]
    assert (summary["count"], summary["failed"], summary["skipped"], summary["bit_identical"]) == (4, 0, 0, 4)
    assert (summary["match_percent"], summary["mean_confidence_change"]) == (100, 0)
    assert document["failures"] == []


def test_the_table_of_a_batch(stamp: Vitnull, images: tuple[str, ...]) -> None:
    outcome = stamp(*images)
    assert outcome.stderr == ""
    header, *rows, blank, last = outcome.stdout.splitlines()
    assert header.split()[0] == "image"
    assert [row.split()[0] for row in rows] == [result_of(name) for name in images]
    assert all("bit-identical" in row for row in rows)
    assert blank == ""
    assert last.startswith("4 images done, 0 failed; 4 with a bit-identical model input")


def test_several_images_and_a_text(vitnull: Vitnull, tiny_vit: tuple[str, ...], images: tuple[str, ...]) -> None:
    """All files are images then, the last one too."""
    options = ("--text", "Hi", "--nullspace", "resize", "--no-verify")
    records = vitnull("watermark", *images[:2], *options, "--json", "--model", *tiny_vit).document["images"]
    assert [record["source"] for record in records] == ["a.png", "b.png"]


@pytest.mark.parametrize("size", ["native", "model"])
def test_workers_change_nothing(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], logo: Path, images: tuple[str, ...], size: str
) -> None:
    def run(workers: str) -> tuple[list[Any], list[bytes]]:
        options = ("--workers", workers, "--out-dir", workers, "--size", size, "--no-verify", "--json")
        document = vitnull("watermark", *images, logo, *options, "--scale", "0.3", "--model", *tiny_vit).document
        order = [record["source"] for record in document["images"]]
        return order, [Path(workers, result_of(name)).read_bytes() for name in images]

    assert run("1") == run("3")


# Failures on the way


def test_a_picture_that_cannot_be_solved_takes_none_along(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], logo: Path, images: tuple[str, ...]
) -> None:
    """At model size pictures are solved together."""
    Image.new("L", (1, 30_000)).save("b.png")
    options = ("--size", "model", "--no-verify", "--json", "--model", *tiny_vit)
    outcome = vitnull("watermark", *images, logo, *options, expect=4)
    assert [record["source"] for record in outcome.document["images"]] == ["a.png", "c.png", "d.png"]
    (failure,) = outcome.document["failures"]
    assert failure["source"] == "b.png"
    assert "too elongated" in failure["error"]
    assert "too elongated" in outcome.stderr


@pytest.mark.parametrize(("bad", "code"), [(False, 3), (True, 4)], ids=["alone", "with a failure"])
def test_a_failed_verification(stamp: Vitnull, images: tuple[str, ...], bad: bool, code: int) -> None:
    if bad:
        Path("a.png").write_text("no picture")
    options = ("--size", "model", "--nullspace", "patch", "--tolerance", "0", "--json")
    outcome = stamp("a.png", "b.png", *options, expect=code)
    assert [record["verified"] for record in outcome.document["images"]] == [False] * (1 if bad else 2)
    assert "b.watermarked.png does not hold" in outcome.stderr


def test_all_fail(stamp: Vitnull, no_weights: None) -> None:
    outcome = stamp("missing.png", "gone.png", "--json", expect=4)
    check_keys(outcome.document, WATERMARK)
    assert outcome.document["images"] == []
    assert outcome.document["summary"]["failed"] == 2
    assert contents() == []


def test_memory_that_is_short_is_shared(
    vitnull: Vitnull,
    tiny_vit: tuple[str, ...],
    logo: Path,
    images: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = ModelSize.__call__

    def starved(self: ModelSize, pictures: Any, designs: Any) -> Any:
        if len(pictures) > 1:
            raise MemoryError
        return call(self, pictures, designs)

    monkeypatch.setattr(ModelSize, "__call__", starved)
    options = ("--size", "model", "--no-verify", "--json", "--model", *tiny_vit)
    outcome = vitnull("watermark", *images, logo, *options)
    assert outcome.document["summary"]["count"] == 4
    assert "vitnull: warning: out of memory with 4 images at once; going on with 2" in outcome.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_image_that_does_not_fit_into_memory_is_one_failure(
    stamp: Vitnull, images: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    call = NativeSize.__call__

    def starved(self: NativeSize, picture: Any, design: Any) -> Any:
        if picture.path.name == "b.png":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return call(self, picture, design)

    monkeypatch.setattr(NativeSize, "__call__", starved)
    outcome = stamp(*images, "--json", "--workers", workers, expect=4)
    assert [record["source"] for record in outcome.document["images"]] == ["a.png", "c.png", "d.png"]
    (failure,) = outcome.document["failures"]
    assert failure["source"] == "b.png"
    assert re.match(
        r"b\.png \(\d+ x 230 pixels\) does not fit into memory .*can't allocate.* --workers 1", failure["error"]
    )


def test_a_bug_in_a_worker_is_not_mistaken_for_a_failure(
    stamp: Vitnull, images: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamping, "read_picture", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stamp(*images, "--workers", "2")
    assert contents() == sorted(images)


# Processes of their own. They spend seconds on imports, and are started together.

WAITING = """
import sys
import threading
from nullspace_cli.engine.workflows import watermark as stamping
read_picture = stamping.read_picture
def read_or_wait(path, *reading):
    if path.name in ("b.png", "c.png", "d.png"):
        sys.stdin.read()
    return read_picture(path, *reading)
stamping.read_picture = read_or_wait
from nullspace_cli.__main__ import main
main()
"""
"""A `vitnull` that does a.png, and waits with the others until its stdin is closed."""


class Ended(NamedTuple):
    """How a process ended, what it had printed, and its folder."""

    exit_code: int
    stdout: str
    stderr: str
    folder: Path


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, tiny_vit: tuple[str, ...], photo: Path, logo: Path
) -> Iterator[dict[str, Ended]]:
    """Processes that were interrupted, read in part, given a list, or set to the same work."""
    started: dict[str, tuple[subprocess.Popen[str], Path]] = {}
    options = ("--nullspace", "resize", "--scale", "0.3", "--model", *tiny_vit)

    def folder(name: str) -> Path:
        made = tmp_path_factory.mktemp(name)
        for image in NAMES:
            shutil.copy(photo, made / image)
        return made

    def start(name: str, where: Path, *arguments: str | Path, code: str = "") -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, *(["-c", code] if code else ["-m", "nullspace_cli"]), "watermark", *arguments]
        process = subprocess.Popen(
            [str(word) for word in [*command, *options]],
            cwd=where,
            stdin=pipe if name in ("interrupted", "listed") else subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        started[name] = (process, where)
        return process

    try:
        waiting = start("interrupted", folder("interrupted"), *NAMES, logo, "--jsonl", "--workers", "2", code=WAITING)
        reader = start("read in part", folder("part"), *NAMES, logo, "--jsonl", "--workers", "1")
        listed = start("listed", folder("listed"), "--files-from", "-", logo, "--jsonl")
        shared = folder("shared")
        for name in ("first", "second"):
            start(name, shared, ".", logo, "--out-dir", "out", "--skip-existing", "--json", "--workers", "1")

        assert listed.stdin
        assert waiting.stdout
        assert reader.stdout
        listed.stdin.write("d.png\n\nb.png\n")
        reader.stdout.readline()
        reader.stdout.close()
        overdue = threading.Timer(120, waiting.kill)
        overdue.start()
        lines = waiting.stdout.readline()
        overdue.cancel()
        assert lines, "no record came before all was done"
        waiting.send_signal(signal.SIGINT)

        found = {}
        for name, (process, where) in started.items():
            if process is reader:
                assert process.stderr
                with process:
                    out, err = "", process.stderr.read()
            else:
                out, err = process.communicate(timeout=300)
            found[name] = Ended(process.returncode, (lines if process is waiting else "") + out, err, where)
        yield found
    finally:
        for process, _ in started.values():
            process.kill()
            process.wait()


def left_over(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*.part")]


def test_ctrl_c_during_a_batch(ended: dict[str, Ended]) -> None:
    end = ended["interrupted"]
    assert end.exit_code == 130
    assert end.stderr == "vitnull: error: Interrupted; nothing is left half-written.\n"
    assert parsed(end.stdout)[0]["source"] == "a.png"
    assert left_over(end.folder) == []
    results = sorted(path.name for path in end.folder.glob("*.watermarked.png"))
    assert "a.watermarked.png" in results
    assert "d.watermarked.png" not in results, "it went on after the interruption"
    for name in results:
        assert pixels_of(end.folder / name).shape == (230, 260, 3)


def test_a_reader_that_has_had_enough(ended: dict[str, Ended]) -> None:
    end = ended["read in part"]
    assert (end.exit_code, end.stderr) == (0, "")
    assert left_over(end.folder) == []


def test_a_list_on_stdin(ended: dict[str, Ended]) -> None:
    end = ended["listed"]
    assert (end.exit_code, end.stderr) == (0, "")
    assert [record["source"] for record in parsed(end.stdout)] == ["d.png", "b.png"]


def test_two_processes_at_the_same_work(ended: dict[str, Ended]) -> None:
    """Each image is done, whole, by one of them; the other leaves it to that one."""
    ends = [ended["first"], ended["second"]]
    folder = ends[0].folder / "out"
    assert contents(folder) == [result_of(name) for name in NAMES]
    images = [pixels_of(folder / result_of(name)) for name in NAMES]
    assert all(np.array_equal(image, images[0]) for image in images)
    assert left_over(ends[0].folder) == []
    documents = [json.loads(end.stdout) for end in ends]
    assert sorted(record["source"] for document in documents for record in document["images"]) == sorted(NAMES)
    for end, document in zip(ends, documents, strict=True):
        assert (end.exit_code, end.stderr) == (0, "")
        assert (len(document["images"]) + document["summary"]["skipped"], document["summary"]["failed"]) == (4, 0)


# torchrun


class Second(Ranks):
    """The second of two processes, whose first has these images to do and sees what this one sees in all else."""

    def __init__(self, planned: Planned) -> None:
        super().__init__(1, 2)
        vars(self)["planned"] = planned

    def gather(self, part: T) -> list[T]:
        return [vars(self)["planned"] if part is None else part, part]


def test_what_is_left_to_do_is_for_the_first_process_to_say(
    stamp: Vitnull, images: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have written results before the second one looks."""
    planned = Planned([(Path(name), Path(result_of(name))) for name in images], [])
    Path(result_of("a.png")).write_bytes(b"of the first process")
    monkeypatch.setattr(distributed, "joined_ranks", lambda **_: nullcontext(Second(planned)))
    stamp(*images, "--skip-existing")
    assert contents() == sorted([*images, *(result_of(name) for name in ("a.png", "b.png", "d.png"))])


@pytest.mark.parametrize("given", ["option", "variable"])
def test_processes_do_not_share_a_gpu_by_its_number(
    stamp: Vitnull, images: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    planned = Planned([(Path(name), Path(result_of(name))) for name in images], [])
    monkeypatch.setattr(distributed, "joined_ranks", lambda **_: nullcontext(Second(planned)))
    options = ("--device", "cuda:0") if given == "option" else ()
    env = {} if given == "option" else {"VITNULL_DEVICE": "cuda:0"}
    message = stamp(*images, *options, env=env, expect=2).message
    assert "2 processes would share cuda:0. Use --device cuda" in message
    assert contents() == sorted(images)


@pytest.fixture
def shared(
    torchrun: Callable[..., subprocess.CompletedProcess[str]], tiny_vit: tuple[str, ...], logo: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Two processes that share one `vitnull watermark IMAGE... logo.png`."""
    options = ("--nullspace", "resize", "--scale", "0.3", "--model", *tiny_vit)
    return lambda *arguments: torchrun("watermark", *arguments, logo, *options)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_two_ranks(
    shared: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, images: tuple[str, ...], form: str
) -> None:
    result = shared(*images, form)
    assert (result.returncode, result.stderr) == (0, "")
    if form == "--jsonl":
        records = parsed(result.stdout)
    else:
        document = json.loads(result.stdout)
        check_keys(document, WATERMARK)
        assert (document["summary"]["count"], document["summary"]["bit_identical"]) == (4, 4)
        records = document["images"]
    assert sorted(record["source"] for record in records) == list(images)
    assert sorted(path.name for path in tmp_path.glob("*.watermarked.png")) == [result_of(name) for name in images]
    assert left_over(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0, 1], ids=["first rank", "second rank"])
def test_a_failure_in_one_rank(
    shared: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, images: tuple[str, ...], bad: int
) -> None:
    """torchrun has an exit code and a report of its own, whatever that of its processes."""
    (tmp_path / images[bad]).write_text("no picture")
    result = shared(*images, "--json")
    assert result.returncode != 0
    assert result.stderr.count(f"vitnull: error: Cannot read {images[bad]}") == 1
    document = json.loads(result.stdout)
    check_keys(document, WATERMARK)
    assert (document["summary"]["count"], document["summary"]["failed"]) == (3, 1)
    assert [failure["source"] for failure in document["failures"]] == [images[bad]]
