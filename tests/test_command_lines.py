"""The command lines of README and docs: each is understood, and those of a page run in their order, in one folder."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import ExifTags, Image

from nullspace_cli.commands.app import app
from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
OWN = r"PHOTOS|ROOMS|OBJECTS|SUSPECT|\bFILE\b|\.\.\."
"""What stands for something of the reader's own."""
NOT_RUN = {
    "it is for a cluster, or several processes, which tests/cli/test_machines.py starts": r"\b(srun|torchrun)\b",
    "tests/cli/test_demo.py runs it": r"^vitnull demo$",
    "it names the reader's own": rf"{OWN}|s3://|gs://|train-\{{|table/|\.parquet|imagenette2|imagenet/|my[_-]|--checkpoint|local-dir:|\.ttf|logo\.svg",
    "it takes weights or files from the hub": r"hf-hub:"
    r"|(basis|commit|learn-noise|eval|--model|check revealed\S*) (?!.*--no-pretrained)(\w*vit_|tf_|resnet)",
    "it wants a photo of a megapixel, as tests/cli/test_watermark_for.py has": r"--for (common|384)|--format same"
    r"|-o (marked|small)\.jpg|photo\.jpg marked\.jpg",
    "it wants a GPU": r"--device cuda",
    "it goes on with a line that is not run": r"revealed\S*\.safetensors|--results vit\.json",
}
"""Why a line is not run, and by which lines that is known."""


def command_lines(text: str) -> Iterator[str]:
    """The lines of code that call vitnull, whole, without the comments behind them."""
    whole = re.sub(r"\\\n\s*", "", text)
    fenced = "\n".join(re.findall(r"^```sh\n(.*?)^```$", whole, re.MULTILINE | re.DOTALL))
    for line in [*re.findall(r"^    (.*)$", whole, re.MULTILINE), *fenced.splitlines()]:
        if (
            re.search(r"(^|\| |srun .*)(vitnull|torchrun .* nullspace_cli) (?!\W)[a-z-]+ ?[^:]*", line)
            and not line[0].isspace()
        ):
            yield re.sub(r"\s+#\s.*$", "", line).strip()


LINES = {page: list(command_lines((ROOT / page).read_text(encoding="utf-8"))) for page in PAGES}


def reason(line: str) -> str | None:
    """Why a line is not run; None if it is."""
    return next((why for why, known in NOT_RUN.items() if re.search(known, line)), None)


def test_lines_are_found() -> None:
    assert sum(map(len, LINES.values())) > 80
    assert list(
        command_lines("    vitnull basis demo   # x\n\n    a | vitnull watermark - \\\n        b\n    vitnull is\n")
    ) == [
        "vitnull basis demo",
        "a | vitnull watermark - b",
        "vitnull is",
    ]
    known = {why for lines in LINES.values() for line in lines if (why := reason(line))}
    assert known == set(NOT_RUN)


@pytest.mark.parametrize("page", [page for page in PAGES if LINES[page]])
def test_lines_are_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are run or not: there are such commands and options, and they take such values."""
    monkeypatch.chdir(tmp_path)
    root: Any = typer.main.get_command(app)
    for line in LINES[page]:
        words = shlex.split(re.sub(r"^.*?\b(vitnull|nullspace_cli) ", "", line).replace(" ...", ""))
        words = [os.path.expandvars(word) for word in words]
        words = words[: next((i for i, word in enumerate(words) if word in ("<", ">", "|")), None)]
        command = root
        while hasattr(command, "commands"):
            name, *words = words
            command = command.commands[name]
        command.make_context(name, words)


GIVEN = {
    "docs/checking.md": (
        "vitnull watermark vitnull-demo/large.png vitnull-demo/logo.png",
        "vitnull watermark photos/ logo.png --out-dir marked",
    ),
}
"""What a page says of what another has made."""


@pytest.fixture(autouse=True)
def _array(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a job array has it."""
    for name, value in {"TASK_ID": "1", "TASK_COUNT": "2", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", value)


@pytest.fixture
def folder(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures by the names that the pages have, and a `vitnull` to call."""
    for name in ("vitnull-demo", "photos/inner", "bin"):
        (tmp_path / name).mkdir(parents=True)
    names: tuple[str, ...] = ("photo.jpg", "cat.jpg", "dog.jpg", "other.jpg", "photo.png", "source.png", "target.png")
    names += ("photos/a.jpg", "photos/inner/b.jpg", "vitnull-demo/large.png", "vitnull-demo/photo-0.png")
    lines = " ".join((*LINES[page], *GIVEN.get(page, ())))
    taken = Image.Exif()
    taken.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    for i, name in enumerate((*names, "vitnull-demo/photo-1.png")):
        if name not in lines and "photos/" not in name:
            continue
        Image.fromarray(draw("val", i, size=400)[0]).save(tmp_path / name, exif=taken)
    for name in ("logo.png", "vitnull-demo/logo.png"):
        Image.fromarray(draw_logo()).save(tmp_path / name)
    script = tmp_path / "bin/vitnull"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nullspace_cli "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("VITNULL_MODEL", "demo")  # for the published weights of the default model
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(reason(line) is None for line in LINES[page])])
def test_lines_run_in_order(page: str, folder: Path) -> None:
    for line in (*GIVEN.get(page, ()), *LINES[page]):
        if reason(line) is None:
            done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S602
            # 3: what was asked to stay did not; 5: there is no nullspace, and that is what the page shows.
            assert done.returncode in (0, 3, 5), f"{line}\n{done.stderr}"
