"""From the start of a process to its end: `vitnull --help`, and a mark on one photo."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.measure import Row, in_turns
from nullspace_cli.demo.drawing import draw


def run(*arguments: str, cache: Path | None = None) -> None:
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)  # noqa: S603 - ours


def rows() -> list[Row]:
    return [_help(), _one_photo()]


def _help() -> Row:
    """Against the imports that no Typer program with rich can do without."""
    ours, theirs = in_turns(
        lambda: run("-m", "nullspace_cli", "--help"), lambda: run("-c", "import typer, rich"), rounds=9
    )
    return Row("vitnull --help", ours, 'python -c "import typer, rich"', theirs, "<= 2")


def _one_photo() -> Row:
    """Against the first run with a model, which has to ask timm how it looks at images."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        Image.fromarray(draw("val", 0, size=1000)[0][:800]).save(place / "photo.png")
        files = (str(place / "photo.png"), "-o", str(place / "marked.png"))
        command = ("-m", "nullspace_cli", "watermark", *files, "--text", "(c)", "--force")

        def first() -> None:
            with tempfile.TemporaryDirectory() as cache:
                run(*command, cache=Path(cache))

        again, once = in_turns(lambda: run(*command, cache=place / "cache"), first, rounds=5)
    return Row("watermark of one photo of 1000 x 800, model known", again, "the first run with a model", once, "<= 0.5")
