"""Several processes and machines: shards, Slurm's tasks, torchrun's ranks, and what each command makes of them."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nullspace_cli.engine.workflows.watermark import WatermarkFiles, WatermarkPipeline
from tests.conftest import Outcome, Vitnull, contents

COUNT = 5
EXPLAIN = ("explain", "photos", "--method", "gradient", "--no-float", "--out-dir", "maps", "--model", "demo")
EVAL = ("eval", "demo", "--data", "demo", "--noise", "none.safetensors")
LEARN = ("learn-noise", "demo", "--data", "demo", "--fraction", "0.01", "--rounds", "1")
ALONE = (("basis", "demo"), ("fool", "photos/0.png", "photos/1.png", "--model", "demo"), ("demo",))


def step(task: int, count: int) -> dict[str, str]:
    """What Slurm tells one of several tasks of a step."""
    return {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(count), "SLURM_PROCID": str(task)}


@pytest.fixture(autouse=True)
def _photos(tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, two of one stem, in a folder that results are written into, too."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    with Image.open(photo) as image:
        for i in range(COUNT - 1):
            image.rotate(90 * i).save(f"photos/{i}.png")
        image.save("photos/0.tif")


@pytest.fixture
def stamp(vitnull: Vitnull, tiny_vit: tuple[str, ...], logo: Path) -> Vitnull:
    """`vitnull watermark photos logo.png` into a folder of photos, with further options."""
    options = ("--nullspace", "resize", "--scale", "0.3", "--out-dir", "photos/marked", "--model", *tiny_vit)
    return lambda *more, **named: vitnull("watermark", "photos", logo, *options, *more, **named)


def sources(outcome: Outcome) -> list[str]:
    return [record["source"] for record in outcome.document["images"]]


# Shards


@pytest.mark.parametrize("slurm", [False, True])
def test_shards_are_the_whole(stamp: Vitnull, slurm: bool) -> None:
    """However they are asked for: their lines together are those of one run, and so are their files."""

    def shard(number: int) -> Outcome:
        if slurm:
            return stamp("--jsonl", env=step(number - 1, 3))
        return stamp("--jsonl", "--shard", f"{number}/3")

    def known(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
        return sorted(lines, key=lambda line: str(line["source"]))

    whole = stamp("--jsonl").lines("watermark")
    files = {path: path.read_bytes() for path in Path("photos/marked").iterdir()}
    shutil.rmtree("photos/marked")
    outcomes = [shard(number) for number in (2, 3, 1)]  # the folder that is searched fills meanwhile
    lines = [line for outcome in outcomes for line in outcome.lines("watermark")]
    assert [len(outcome.stdout.splitlines()) for outcome in outcomes] == [2, 1, 2]
    assert known(lines) == known(whole)
    assert {path: path.read_bytes() for path in Path("photos/marked").iterdir()} == files
    assert len(files) == COUNT
    assert outcomes[0].stderr.count("shard 2/3: this is one of 3 tasks of a Slurm step") == slurm


def test_what_is_done_shifts_no_share(stamp: Vitnull) -> None:
    first = stamp("--shard", "1/2", "--json").document
    assert (first["shard"], first["exit_code"], first["summary"]["count"]) == ("1/2", 0, 3)
    done = [record["source"] for record in first["images"]]
    assert sources(stamp("--shard", "1/2", "--json", "--skip-existing")) == []
    Path(first["images"][1]["output"]).unlink()
    assert sources(stamp("--shard", "1/2", "--json", "--skip-existing")) == [done[1]]
    others = sources(stamp("--shard", "2/2", "--json", "--skip-existing"))
    assert len({*others, *done}) == COUNT


def test_a_shard_of_its_own_is_asked_for_against_slurm(stamp: Vitnull) -> None:
    assert len(sources(stamp("--shard", "1/1", "--json", env=step(1, 3)))) == COUNT


def test_a_shard_with_nothing_to_do(stamp: Vitnull, vitnull: Vitnull) -> None:
    assert stamp("--shard", "9/9").stdout.startswith("0 images done, 0 failed")
    document = vitnull(*EXPLAIN, "--faithfulness", "--plot", "{shard}.png", "--shard", "9/9", "--json").document
    assert (document["images"], document["plot"], document["exit_code"]) == ([], None, 0)


def test_a_shard_fails_as_the_run_does(stamp: Vitnull) -> None:
    """Its one image is one of several."""
    Path("photos/1.png").write_text("no picture")
    document = stamp("--shard", "3/5", "--json", expect=4).document
    assert (document["exit_code"], [failure["source"] for failure in document["failures"]]) == (4, ["photos/1.png"])


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1/0", "3", "a/b", "-1/4", "1/4/4", "1.0/4", "/", "²/4", "9" * 99 + "/1"]
)
def test_shards_that_there_are_not(stamp: Vitnull, text: str) -> None:
    said = stamp("--shard", text, expect=2).message
    assert "'--shard'" in said
    assert ("add 1" in said) == (text in ("0/4", "5/4"))


def test_shards_explain(vitnull: Vitnull) -> None:
    whole = vitnull(*EXPLAIN, "--jsonl", "--compare-noise", "0.1").lines("explain", "explain-measured")
    shutil.rmtree("maps")
    plot = ("--faithfulness", "--compare-noise", "0.1", "--plot", "curves.png")
    said = vitnull(*EXPLAIN, *plot, "--shard", "1/2", expect=2).message
    assert "each of the 2 shards would write curves.png; give a name with {shard}, as curves.{shard}.png" in said
    assert contents() == ["photos"]
    plot = (*plot[:-1], "curves.{shard}.png")
    parts = [
        vitnull(*EXPLAIN, *plot, "--shard", f"{number}/2", "--jsonl").lines("explain", "explain-measured")
        for number in (1, 2)
    ]
    assert contents() == ["curves.1-of-2.png", "curves.2-of-2.png", "maps", "photos"]
    assert sorted(line["source"] for part in parts for line in part[:-1]) == [line["source"] for line in whole[:-1]]
    # The noise of an image is that of its place among all: the mean over both shards is that of one run.
    found = [part[-1]["noise"]["methods"]["gradient"]["random"]["spearman"] for part in parts]
    expected = whole[-1]["noise"]["methods"]["gradient"]["random"]["spearman"]
    assert (3 * found[0] + 2 * found[1]) / COUNT == pytest.approx(expected, abs=1e-6)


# Other commands, and nonsense


@pytest.mark.parametrize("command", [EVAL, LEARN], ids=lambda command: command[0])
def test_tasks_do_not_all_do_what_takes_all(vitnull: Vitnull, no_model: None, command: tuple[str, ...]) -> None:
    said = vitnull(*command, env=step(1, 4), expect=2).stderr
    assert said.startswith("vitnull: error: Slurm has started 4 tasks, and each would do all of the work. Start")
    assert said.count("\n") == 1
    assert contents() == ["photos"]


@pytest.mark.parametrize("command", ALONE, ids=lambda command: command[0])
@pytest.mark.parametrize(
    "env", [step(1, 2), {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}]
)
def test_work_of_one_process(vitnull: Vitnull, no_model: None, command: tuple[str, ...], env: dict[str, str]) -> None:
    said = vitnull(*command, env=env, expect=2).stderr
    assert said.startswith("vitnull: error: 2 processes were started for the work of one: ")
    assert said.count("\n") == 1
    assert contents() == ["photos"]


@pytest.mark.parametrize("command", [("basis", "demo"), EXPLAIN, EVAL], ids=lambda command: command[0])
@pytest.mark.parametrize("env", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "abc"}, {"WORLD_SIZE": "2", "RANK": "2"}], ids=str)
def test_variables_that_are_nonsense(
    vitnull: Vitnull, no_model: None, command: tuple[str, ...], env: dict[str, str]
) -> None:
    said = vitnull(*command, env=env, expect=2).stderr
    assert said.startswith("vitnull: error: ")
    assert "WORLD_SIZE" in said
    assert said.count("\n") == 1


# torchrun


@pytest.mark.slow
def test_explain_by_torchrun(torchrun: Callable[..., subprocess.CompletedProcess[str]], vitnull: Vitnull) -> None:
    measured = ("--faithfulness", "--compare-noise", "0.1", "--json")
    result = torchrun(*EXPLAIN, *measured)
    assert (result.returncode, result.stderr) == (0, "")
    shared = json.loads(result.stdout)
    files = {path.name: path.read_bytes() for path in Path("maps").iterdir()}
    shutil.rmtree("maps")
    alone = vitnull(*EXPLAIN, *measured).document
    assert sorted(r["source"] for r in shared["images"]) == [r["source"] for r in alone["images"]]
    assert {path.name: path.read_bytes() for path in Path("maps").iterdir()} == files
    areas, noise = "faithfulness", "noise"
    assert shared[areas]["gradient"]["curves"] == alone[areas]["gradient"]["curves"]
    for kind, found in alone[noise]["methods"]["gradient"].items():
        assert shared[noise]["methods"]["gradient"][kind] == pytest.approx(found, abs=1e-6)


@pytest.mark.slow
def test_a_list_from_stdin_and_the_exit_code_by_torchrun(
    torchrun: Callable[..., subprocess.CompletedProcess[str]], tiny_vit: tuple[str, ...], logo: Path
) -> None:
    """Both processes have the one stdin, and torchrun's own exit code is 1."""
    Path("photos/1.png").write_text("no picture")
    options = ("--nullspace", "resize", "--scale", "0.3", "--out-dir", "marked", "--json", "--model", *tiny_vit)
    listed = "".join(f"photos/{i}.png\n" for i in range(3))
    env = {**os.environ, "TORCHELASTIC_ERROR_FILE": "error.json"}
    result = torchrun("watermark", "--files-from", "-", logo, *options, input=listed, env=env)
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert (document["exit_code"], len(document["images"]), len(document["failures"])) == (4, 2, 1)
    assert contents("marked") == ["0.watermarked.png", "2.watermarked.png"]
    error = json.loads(Path("error.json").read_text())["message"]
    assert error["errorCode"] == 4
    assert error["message"].startswith("vitnull ended with exit code 4: some inputs failed.")
    assert error["message"] in result.stderr


# Signals


def test_who_is_interrupted_waits_for_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, go_on, ended = threading.Event(), threading.Event(), list[bool]()

    def together(self: WatermarkPipeline, jobs: list[WatermarkFiles], stop: threading.Event) -> list[str]:
        if jobs[0].source == Path("first"):
            return ["done"]
        at_work.set()
        go_on.wait(60)
        ended.append(stop.is_set())
        return []

    monkeypatch.setattr(WatermarkPipeline, "together", together)
    pipeline = WatermarkPipeline(None, None)  # type: ignore[arg-type]
    running: Any = pipeline.each([WatermarkFiles(Path(name), Path()) for name in ("first", "second")], 2)
    assert next(running) == "done"
    assert at_work.wait(60)
    running.close()
    assert ended == []
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPool"):
            thread.join(60)
    assert ended == [True]


LEAVING = """
import threading
from pathlib import Path
from nullspace_cli.commands.app import TERMINATED, _leave
from nullspace_cli.engine.files.writing import write_file

writing = threading.Event()

def write(path):
    path.write_bytes(b"half")
    writing.set()
    threading.Event().wait()

threading.Thread(target=write_file, args=(Path("result"), write)).start()
writing.wait()
assert len(list(Path(".").glob(".*.part"))) == 1
print("said", end="")
_leave(TERMINATED)
"""


def test_a_process_that_leaves_its_threads_leaves_nothing_half_written(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAVING]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (143, "said", "")
    assert contents(tmp_path) == ["photos"]
