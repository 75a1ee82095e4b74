"""From the start of a process to its end, beside what no such program can do without."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib import cbook
from PIL import Image

from benchmarks.measure import Row, in_turns

SMALLEST = "import typer; typer.run(lambda name: None)"
"""A program of Typer's with one command, which does nothing."""


def run(*arguments: str, cache: Path | None = None) -> None:
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)  # noqa: S603 - ours


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = str(folder / "photo.jpg")
        with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
            image.resize((1000, 800)).save(photo, quality=95)
        marked, explained, basis = (str(folder / each) for each in ("marked.png", "explained", "demo.safetensors"))
        return [
            _against(
                "vitnull --help", ["--help"],
                "help of a Typer program of one command", [SMALLEST, "--help"], "<= 1.3", rounds=9,
            ),
            _beside_timm(
                "watermark of one photo of 1000 x 800, model known",
                ["watermark", photo, "--text", "(c)", "-o", marked, "--force"], "<= 1", cache=folder / "cache",
            ),
            _beside_timm(
                "explain of it, embedded model",
                ["explain", photo, "--model", "demo", "--out-dir", explained, "--force"], "<= 1.3",
            ),
            _beside_timm("basis demo, with its preview", ["basis", "demo", "-o", basis, "--force"], "<= 1.5"),
        ]  # fmt: skip


def _beside_timm(what: str, command: list[str], bound: str, cache: Path | None = None) -> Row:
    return _against(what, command, 'python -c "import timm"', ["import timm"], bound, rounds=5, cache=cache)


def _against(
    what: str, command: list[str], reference: str, code: list[str], bound: str, rounds: int, cache: Path | None = None
) -> Row:
    """The command line against Python code, each in a process; a first run fills caches, and is not counted."""
    run("-m", "nullspace_cli", *command, cache=cache)
    ours, theirs = in_turns(
        lambda: run("-m", "nullspace_cli", *command, cache=cache), lambda: run("-c", *code), rounds=rounds
    )
    return Row(what, ours, reference, theirs, bound)
