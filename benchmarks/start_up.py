"""From the start of a process to its end, beside the imports that no such program can do without."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib import cbook
from PIL import Image

from benchmarks.measure import Row, in_turns


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
            _against("vitnull --help", ["--help"], "typer, rich", "<= 2", rounds=9),
            _against(
                "watermark of one photo of 1000 x 800, model known",
                ["watermark", photo, "--text", "(c)", "-o", marked, "--force"], "timm", "<= 1", cache=folder / "cache",
            ),
            _against(
                "explain of it, embedded model",
                ["explain", photo, "--model", "demo", "--out-dir", explained, "--force"], "timm", "<= 1.3",
            ),
            _against("basis demo, with its preview", ["basis", "demo", "-o", basis, "--force"], "timm", "<= 1.5"),
        ]  # fmt: skip


def _against(
    what: str, command: list[str], imports: str, bound: str, rounds: int = 5, cache: Path | None = None
) -> Row:
    """The command line against the imports, each in a process; a first run fills caches, and is not counted."""
    run("-m", "nullspace_cli", *command, cache=cache)
    ours, theirs = in_turns(
        lambda: run("-m", "nullspace_cli", *command, cache=cache), lambda: run("-c", f"import {imports}"), rounds=rounds
    )
    return Row(what, ours, f'python -c "import {imports}"', theirs, bound)
