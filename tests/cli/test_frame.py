"""What holds for every command: help, exit codes, which stream says what, interruptions, the environment."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

from nullspace_cli import __version__
from nullspace_cli.commands.demo import _checks
from nullspace_cli.engine.models import model
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace import check, near_basis
from tests.cli.contract import BASIS, DEMO, WATERMARK, check_keys
from tests.conftest import NetworkForbiddenError, Vitnull, contents
from tests.made import write_noise

COMMANDS = ("basis", "learn-noise", "eval", "watermark", "check", "fool", "explain", "demo")
HELPED = (*COMMANDS, "claim commit", "claim probes", "claim check")
SLOW_IMPORTS = {
    "torch",
    "timm",
    "numpy",
    "scipy",
    "matplotlib",
    "PIL",
    "safetensors",
    "nullspace_cli.engine",
}

OUTPUT = ("--json", "--force", "--quiet", "-q", "--verbose", "-v", "--debug")
MODEL = (
    *("--device", "--seed", "--checkpoint", "--checkpoint-key", "--pretrained", "--no-pretrained", "--model-kwargs"),
    *("--batch-size", "--amp", "--offline"),
)
OPTIONS = {
    "basis": (
        *("--rtol", "--per-channel", "--space", "--compact", "--check", "--no-check", "--preview", "--no-preview"),
        *("--out", "-o", *MODEL, *OUTPUT),
    ),
    "watermark": (
        *("--model", "--basis", "--norm", "--strength", "--fit", "--position", "--scale", "--opacity", "--size"),
        *("--tolerance", "--verify", "--no-verify", "--out-dir", "--diff", "--float", "--out", "-o", *MODEL, *OUTPUT),
    ),
    "check": (
        *("--reader", "--model", "--keep", "--tolerance", "--jpeg", "--reading", "--shard", "--workers", "--jsonl"),
        *(*MODEL, *OUTPUT),
    ),
    "learn-noise": (
        *("--data", "--level", "--limit", "--protocol", "--rounds", "--lr", "--fraction", "--norm", "--stop-eps"),
        *(
            "--transform",
            "--resume",
            "--checkpoint-every",
            "--cache-limit",
            "--skip-bad",
            "--out",
            "-o",
            *MODEL,
            *OUTPUT,
        ),
    ),
    "eval": (
        *("--data", "--noise", "--sigma", "--split", "--controls", "--trials", "--min-match", "--transform", "--csv"),
        *("--plot", "--per-image", "--results", "--realise", "--bound", "--out", "-o", *MODEL, *OUTPUT),
    ),
    "fool": (
        *(
            "--model",
            "--channels",
            "--bounded",
            "--unbounded",
            "--norm",
            "--size",
            "--explain",
            "--out-dir",
            "--sources",
        ),
        *("--strength", *MODEL, *OUTPUT),
    ),
    "explain": (
        *("--model", "--method", "--class", "--out-dir", "--jsonl", "--faithfulness", "--compare-noise", "--plot"),
        *(*MODEL, *OUTPUT),
    ),
    "demo": ("--out-dir", "--device", "--seed", *OUTPUT),
    "claim commit": ("--pairs", "--reveal", "--out", "-o", *MODEL, *OUTPUT),
    "claim probes": ("--images", "--out-dir", "--count", "--size", "--format", "--digest", "--reading", *OUTPUT),
    "claim check": ("--answers", "--digest", "--reference", "--level", "--plot", *MODEL, *OUTPUT),
}


# Help


@pytest.mark.parametrize(
    "arguments", [["--help"], ["claim", "--help"], *([*command.split(), "--help"] for command in HELPED)], ids=" ".join
)
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "nullspace_cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & SLOW_IMPORTS
    assert "Usage: " in result.stdout


@pytest.mark.parametrize("command", HELPED)
def test_help_mentions_every_option(vitnull: Vitnull, command: str) -> None:
    words = re.split(r"[\s,/]+", vitnull(*command.split(), "--help").stdout)
    assert [option for option in OPTIONS[command] if option not in words] == []


def test_help_names_every_command(vitnull: Vitnull) -> None:
    words = vitnull("--help").stdout.split()
    assert {*COMMANDS, "claim"} <= set(words)


def test_version(vitnull: Vitnull) -> None:
    assert vitnull("--version").stdout == f"vitnull {__version__}\n"


# Usage errors: exit code 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("nonsense", "nonsense"),
        ("basis", "MODEL"),
        ("basis demo --fuzzy", "--fuzzy"),
        ("basis demo --space polar", "--space"),
        ("basis demo --rtol 2", "--rtol"),
        ("basis demo --rtol nan", "--rtol"),
        ("basis demo --seed -1", "--seed"),
        ("basis demo --seed 99999999999999999999", "--seed"),
        ("basis demo --batch-size 0", "--batch-size"),
        ("basis demo --amp fp4", "--amp"),
        ("basis demo --model-kwargs depth", "--model-kwargs"),
        ("basis demo --device abacus", "abacus"),
        ("watermark", "IMAGE... MARK"),
    ],
)
def test_usage_errors(vitnull: Vitnull, line: str, named: str) -> None:
    outcome = vitnull(*line.split(), expect=2)
    assert named in outcome.message
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr


# Which stream says what


def test_the_human_result_is_all_of_stdout(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    outcome = vitnull("basis", *tiny_vit, "--no-preview")
    assert outcome.stderr == ""
    rows = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines())
    assert rows["nullity"].split()[0] == "576"
    assert rows["basis"] == "deit_tiny_patch16_224.basis.safetensors"


@pytest.mark.parametrize("verbose", [[], ["--verbose"]], ids=["", "verbose"])
def test_json_is_all_of_stdout(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], photo: Path, logo: Path, verbose: list[str]
) -> None:
    basis = vitnull("basis", *tiny_vit, "--json", *verbose)
    marked = vitnull("watermark", photo, logo, "--model", *tiny_vit, "--json", *verbose)
    check_keys(basis.document, BASIS)
    check_keys(marked.document, WATERMARK)
    assert basis.document["schema"] == "vitnull/basis/1"
    assert marked.document["schema"] == "vitnull/watermark/1"
    assert all(bool(outcome.stderr) is bool(verbose) for outcome in (basis, marked))


def test_failures_leave_stdout_empty(vitnull: Vitnull) -> None:
    outcome = vitnull("basis", "no_such_vit", "--json", expect=1)
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("vitnull: error: ")
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("quiet", ["--quiet", "-q"])
def test_quiet_silences_all_but_errors(vitnull: Vitnull, tiny_vit: tuple[str, ...], quiet: str) -> None:
    # A head of zeros answers every image alike, of which the check has to warn.
    arguments = ["basis", *tiny_vit, "--model-kwargs", "weight_init=jax", "--no-preview", "--force", "--verbose"]
    assert "vitnull: warning: " in vitnull(*arguments).stderr
    assert vitnull(*arguments, quiet).stderr == ""
    assert vitnull("basis", "no_such_vit", quiet, expect=1).stderr.startswith("vitnull: error: ")


def test_debug_shows_where_an_error_was_raised(vitnull: Vitnull) -> None:
    assert "Traceback" not in vitnull("basis", "no_such_vit", expect=1).stderr
    outcome = vitnull("basis", "no_such_vit", "--debug", expect=1)
    assert "Traceback (most recent call last)" in outcome.stderr
    assert "vitnull: error: timm " in outcome.stderr.splitlines()[-1]


def test_debug_shows_where_memory_was_short(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(check, "check_basis", starved)
    lines = vitnull("basis", *tiny_vit, "--debug", expect=1).stderr.splitlines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-2:-1] == ["MemoryError"]
    assert lines[-1].startswith("vitnull: error: Out of memory. ")


def test_a_file_name_that_is_not_unicode(vitnull: Vitnull, tmp_path: Path, tiny_vit: tuple[str, ...]) -> None:
    name = os.fsdecode(b"caf\xe9.safetensors")
    assert "caf\\udce9.safetensors" in vitnull("basis", *tiny_vit, "--no-preview", "-o", name).stdout
    assert vitnull("basis", *tiny_vit, "--no-preview", "-o", name, "--force", "--json").document["basis"] == name
    assert (tmp_path / name).exists()


# Bugs, and errors that are nobody's


def broken(*arguments: object, **options: object) -> None:
    raise ZeroDivisionError("a bug")


def test_a_bug_is_not_mistaken_for_an_error(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_basis, "find_basis_within", broken)
    with pytest.raises(ZeroDivisionError):
        vitnull("basis", *tiny_vit)


def test_a_bug_shows_its_traceback(tmp_path: Path) -> None:
    # An engine that is broken, and quick to import.
    code = """
import sys, types
engine = types.ModuleType("nullspace_cli.engine.files.writing")
engine.check_output = lambda path, force: 1 / 0
sys.modules[engine.__name__] = engine
from nullspace_cli.__main__ import main
main()
"""
    command = [sys.executable, "-c", code, "basis", "demo"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert result.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("place", ["check", "stem", "building"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_says_what_to_try(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    """Whoever says so, and not as a fault of the model or its name."""

    def starved(*arguments: object, **options: object) -> None:
        raise error

    where = {"check": (check, "check_basis"), "stem": (model, "find_stem"), "building": (timm, "create_model")}
    monkeypatch.setattr(*where[place], starved)
    outcome = vitnull("basis", *tiny_vit, expect=1)
    assert outcome.message.startswith("vitnull: error: Out of memory. Try a smaller --batch-size")
    assert (str(error) or "MemoryError") in outcome.message
    assert contents() == []


# Interruptions. The real thing needs processes, which wait for the same imports: they are started together.

PAUSED = """
import sys, time
from nullspace_cli.engine.files import writing
def pause(*arguments):
    print("paused", file=sys.stderr, flush=True)
    time.sleep(600)
writing.os.link = pause
from nullspace_cli.__main__ import main
main()
"""
"""A `vitnull` that stops when its first file is written, but not yet moved into place."""


class Ended(NamedTuple):
    """How an interrupted process ended, and what was in its folder before and after."""

    exit_code: int
    stderr: str
    before: list[str]
    after: list[str]
    folder: Path


BASIS_ALONE = ("basis", "test_vit", "--no-pretrained", "--no-preview", "--no-check", "-o", "out.safetensors")


def _start(folder: Path, *python: str, stdout: int | IO[bytes] | None) -> subprocess.Popen[str]:
    command = [sys.executable, *python, *BASIS_ALONE]
    if stdout is None:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    return subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """Processes that were sent a signal, that nobody reads, or whose disk is full."""
    read, write = os.pipe()
    os.close(read)
    folders = {
        name: tmp_path_factory.mktemp(name) for name in ("SIGINT", "SIGTERM", "closed pipe", "no stdout", "full disk")
    }
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in ("SIGINT", "SIGTERM"):
            processes[name] = _start(folders[name], "-c", PAUSED, stdout=subprocess.DEVNULL)
        processes["closed pipe"] = _start(folders["closed pipe"], "-m", "nullspace_cli", stdout=write)
        processes["no stdout"] = _start(folders["no stdout"], "-m", "nullspace_cli", stdout=None)
        os.close(write)
        if Path("/dev/full").exists():
            with Path("/dev/full").open("wb") as full:
                processes["full disk"] = _start(folders["full disk"], "-m", "nullspace_cli", stdout=full)
        ended = {}
        for name, process in processes.items():
            assert process.stderr is not None
            before = []
            if name.startswith("SIG"):
                assert process.stderr.readline() == "paused\n"
                before = contents(folders[name])
                process.send_signal(signal.Signals[name])
            _, stderr = process.communicate(timeout=300)
            ended[name] = Ended(process.returncode, stderr, before, contents(folders[name]), folders[name])
        yield ended
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_ctrl_c_while_writing(interrupted: dict[str, Ended]) -> None:
    ended = interrupted["SIGINT"]
    assert ended.exit_code == 130
    assert ended.stderr == "vitnull: error: Interrupted; nothing is left half-written.\n"
    assert len(ended.before) == 1
    assert ended.before[0].endswith(".part")
    assert ended.after == []


def test_sigterm_while_writing(interrupted: dict[str, Ended]) -> None:
    ended = interrupted["SIGTERM"]
    assert ended.exit_code == 128 + signal.SIGTERM
    assert ended.stderr == ""
    assert len(ended.before) == 1
    assert ended.after == []


@pytest.mark.parametrize("name", ["closed pipe", "no stdout"])
def test_nobody_to_write_to_is_quiet(interrupted: dict[str, Ended], name: str) -> None:
    ended = interrupted[name]
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert_complete(ended)


def test_a_full_disk_behind_stdout(interrupted: dict[str, Ended]) -> None:
    if "full disk" not in interrupted:
        pytest.skip("there is no /dev/full here")
    ended = interrupted["full disk"]
    assert ended.exit_code == 1
    assert ended.stderr.startswith("vitnull: error: Cannot write the result to stdout: No space left")
    assert ended.stderr.count("\n") == 1
    assert_complete(ended)


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("watermark", "--help")])
def test_what_is_printed_onto_a_full_disk_fails_in_one_line(arguments: tuple[str, ...]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "nullspace_cli", *arguments]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(r"vitnull: error: Cannot write .*stdout: No space left on device.*\n", ended.stderr)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--frob",), 2), (("watermark", "missing.png", "missing.svg"), 1), (("watermark", "--help"), 0)],
)
def test_without_a_stderr_messages_go_nowhere(arguments: tuple[str, ...], code: int) -> None:
    command = [sys.executable, "-m", "nullspace_cli", *arguments]
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == code
    assert bool(ended.stdout) is (code == 0)


def assert_complete(ended: Ended) -> None:
    assert ended.after == ["out.safetensors"]
    with safe_open(ended.folder / "out.safetensors", framework="pt") as file:
        assert file.get_tensor("basis").shape == (704, 3, 16, 16)


def test_ctrl_c_while_loading(vitnull: Vitnull, tiny_vit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nullspace_cli.engine.models.loading.load_model", interrupt)
    assert vitnull("basis", *tiny_vit, expect=130).stderr.startswith("vitnull: error: Interrupted")


# Devices, the environment, the network


def test_the_network_is_out_of_reach() -> None:
    with pytest.raises(NetworkForbiddenError):
        socket.create_connection(("example.org", 443))
    with socket.socket() as far, pytest.raises(NetworkForbiddenError):
        far.connect(("192.0.2.1", 443))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a CUDA device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_cuda_that_is_missing_is_an_error(
    vitnull: Vitnull, no_cuda: None, photo: Path, logo: Path, command: str
) -> None:
    pair, noise = [str(photo), str(logo), "--model", "demo"], photo.parent / "noise.safetensors"
    if command == "eval":
        model = load_model(ModelRequest("demo", device="cpu"))
        write_noise(noise, model, "encoder", torch.zeros(1, 49, 192))
    arguments = {
        "basis": ["demo"],
        "learn-noise": ["demo", "--data", "demo"],
        "eval": ["demo", str(noise), "--data", "demo"],
        "watermark": pair,
        "check": pair,
        "fool": pair,
        "explain": [str(photo), "--model", "demo"],
        "demo": [],
    }
    outcome = vitnull(command, *arguments[command], "--device", "cuda", expect=1)
    assert "device cuda was asked for" in outcome.message
    assert [path for path in Path().rglob("*") if path.is_file()] == []


def test_a_cuda_device_beyond_the_last_is_an_error(vitnull: Vitnull) -> None:
    assert "cuda:99" in vitnull("basis", "demo", "--device", "cuda:99", expect=1).message


def test_the_device_of_the_environment(vitnull: Vitnull) -> None:
    outcome = vitnull("basis", "demo", env={"VITNULL_DEVICE": "cuda:99"}, expect=1)
    assert "cuda:99" in outcome.message


def test_an_option_goes_before_the_environment(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    outcome = vitnull("basis", *tiny_vit, "--device", "cpu", "--json", env={"VITNULL_DEVICE": "cuda:99"})
    assert outcome.document["device"] == "cpu"


def test_the_model_of_the_environment(vitnull: Vitnull, tiny_vit: tuple[str, ...], photo: Path, logo: Path) -> None:
    name, *options = tiny_vit
    environment = {"VITNULL_MODEL": name}
    assert vitnull("basis", *options, "--json", env=environment).document["model"].startswith(f"{name}.")
    marked = vitnull("watermark", photo, logo, *options, "--json", env=environment)
    assert marked.document["model"].startswith(f"{name}.")


# The demo, as far as it does not depend on what its weights have learned


@pytest.mark.slow
def test_demo(vitnull: Vitnull, tmp_path: Path) -> None:
    outcome = vitnull("demo", "--images", "10", "--json")
    check_keys(outcome.document, DEMO)
    assert outcome.document["schema"] == "vitnull/demo/1"
    folder = tmp_path / "vitnull-demo"
    assert {tmp_path / name for name in outcome.document["artifacts"]} == set(folder.iterdir())
    for name in outcome.document["artifacts"]:
        assert (tmp_path / name).stat().st_size > 0
    sheets = [outcome.document["fool"]["artifacts"]["sheet"], *(one["sheet"] for one in outcome.document["explain"])]
    for name in (folder / "watermarks.png", *sheets):
        with Image.open(tmp_path / name) as sheet:
            assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 100
    results = outcome.document["learned_noise"]["results"]
    assert [result["control"] for result in results] == ["none", "shuffle", "uniform"]
    assert results[0]["logit_mse"] < min(result["logit_mse"] for result in results[1:])
    fooled = outcome.document["fool"]
    assert fooled["verified"]
    assert fooled["prediction"]["source"]["class"] != fooled["prediction"]["target"]["class"]
    assert "stamping" in outcome.stderr


@pytest.mark.parametrize(
    "name", ["demo.encoder.noise.safetensors", "crescent.cross.sheet.png", "photo-0.demo-cnn.saliency.png"]
)
def test_the_demo_overwrites_nothing(vitnull: Vitnull, tmp_path: Path, name: str) -> None:
    mine = tmp_path / "vitnull-demo" / name
    mine.parent.mkdir()
    mine.write_text("mine")
    outcome = vitnull("demo", expect=1)
    assert f"{name} exists already" in outcome.message
    assert contents(mine.parent) == [name]
    assert mine.read_text() == "mine"


def test_the_demo_judges_its_parts() -> None:
    sound: dict[str, Any] = {
        "nullspace": {"check": {"passed": True}},
        "watermarks": [{"match": True}],
        "native": {"match": True},
        "learned_noise": {"results": [{"logit_mse": 1.0}, {"logit_mse": 2.0}, {"logit_mse": 3.0}]},
        "fool": {"verified": True},
    }
    assert all(_checks(sound).values())
    moved = {"results": [{"logit_mse": 2.5}, {"logit_mse": 2.0}, {"logit_mse": 3.0}]}
    assert [name for name, holds in _checks({**sound, "learned_noise": moved}).items() if not holds] == [
        "learned noise"
    ]
    unsound = {**sound, "fool": {"verified": False}}
    assert [name for name, holds in _checks(unsound).items() if not holds] == ["fool"]
