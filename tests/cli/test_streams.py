"""- for stdin and stdout, and pipes that the shell opens: pictures and files, bit for bit those that names give."""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load

from tests.conftest import Outcome, Vitnull, contents

Pipe = Callable[..., tuple[bytes, str]]


@pytest.fixture(scope="session")
def quick(tiny_vit: tuple[str, ...]) -> tuple[str, ...]:
    return ("--scale", "0.2", "--nullspace", "resize", "--model", *tiny_vit)


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    """The command line in a process of its own, with something on stdin: what it sends to stdout, and what it says."""

    def pipe(*arguments: str | Path, data: bytes = b"", expect: int = 0, fd: int | None = None) -> tuple[bytes, str]:
        command = [sys.executable, "-m", "nullspace_cli", *map(str, arguments)]
        environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
        (tmp_path / "temporary").mkdir(exist_ok=True)
        done = subprocess.run(
            command, input=data, cwd=tmp_path, env=environment, capture_output=True, check=False,
            pass_fds=() if fd is None else (fd,),
        )  # fmt: skip
        assert done.returncode == expect, done.stderr.decode()
        assert contents(tmp_path / "temporary") == []  # nothing stays behind
        return done.stdout, done.stderr.decode()

    return pipe


def test_from_a_pipe_into_a_pipe(vitnull: Vitnull, pipe: Pipe, photo: Path, logo: Path, quick: tuple[str, ...]) -> None:
    vitnull("watermark", photo, logo, *quick, "-o", "named.png")
    piped, said = pipe("watermark", "-", logo, *quick, "-o", "-", data=photo.read_bytes())
    assert piped == Path("named.png").read_bytes()
    assert "stdin -> -" in said
    assert "temporary" not in said
    as_tiff, _ = pipe("watermark", photo, logo, *quick, "-o", "-", "--format", "tif", "-q")
    with Image.open(io.BytesIO(as_tiff)) as image, Image.open("named.png") as named:
        assert image.format == "TIFF"
        assert image.convert("RGB").tobytes() == named.convert("RGB").tobytes()


def test_a_mark_of_stdin_and_records(
    vitnull: Vitnull, pipe: Pipe, photo: Path, logo: Path, quick: tuple[str, ...]
) -> None:
    shutil.copy(photo, "a.png")
    vitnull("watermark", "a.png", logo, *quick, "-o", "named.png")
    pipe("watermark", "a.png", "-", *quick, "-o", "marked.png", "-q", data=logo.read_bytes())
    assert Path("marked.png").read_bytes() == Path("named.png").read_bytes()
    out, _ = pipe("watermark", "-", logo, *quick, "--json", data=photo.read_bytes())
    (record,) = Outcome(0, out.decode(), "").document["images"]
    assert (record["source"], record["output"]) == ("stdin", "stdin.watermarked.png")
    assert Path("stdin.watermarked.png").read_bytes() == Path("named.png").read_bytes()


def test_what_the_shell_opens(vitnull: Vitnull, pipe: Pipe, photo: Path) -> None:
    """As of <(cat photo.png)."""
    vitnull("explain", photo, "--model", "demo")
    with subprocess.Popen(["cat", photo], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        pipe("explain", f"/dev/fd/{cat.stdout.fileno()}", "--model", "demo", fd=cat.stdout.fileno())
    named, piped = (Path(f"{name}.attribution.png").read_bytes() for name in (photo.stem, "stdin"))
    assert piped == named


def test_files_to_stdout(vitnull: Vitnull, pipe: Pipe) -> None:
    basis, said = pipe("basis", "demo", "--no-preview", "-o", "-")
    assert "basis            -" in said
    vitnull("basis", "demo", "--no-preview")
    assert load(basis).keys() == load(Path("demo.basis.safetensors").read_bytes()).keys()
    table, _ = pipe("eval", "demo", "demo.basis.safetensors", "--data", "demo", "--count", "5", "--csv", "-")
    assert table.decode().startswith("noise,noise_model,")
    assert len(table.decode().splitlines()) == 4


def test_a_page_to_stdout(vitnull: Vitnull, pipe: Pipe, photo: Path) -> None:
    vitnull("check", photo, photo, "--report", "page.html")
    page, said = pipe("check", photo, photo, "--report", "-")
    assert page == Path("page.html").read_bytes()
    assert "report: -" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("watermark - logo.png --files-from -", "stdin is either the list or an image"),
        ("watermark a.png logo.png -o - --json", "stdout has the JSON already"),
        ("watermark a.png logo.png -o - --jsonl", "stdout has the JSON already"),
        ("watermark a.png logo.png -o - --diff -", "--diff and --out cannot both be stdout"),
        ("basis demo -o -", "add --no-preview"),
        ("learn-noise demo --data demo -o -", "what --resume needs is kept beside it"),
        ("check - b.png --report - --json", "stdout has the JSON already"),
        ("watermark a.png logo.png -o - --report -", "--out and --report cannot both be stdout"),
    ],
)
def test_what_streams_are_no_good_for(vitnull: Vitnull, no_model: None, line: str, said: str) -> None:
    assert said in vitnull(*line.split(), expect=2).message
    assert contents() == []


def test_several_processes_have_one_stdin(vitnull: Vitnull, no_model: None) -> None:
    group = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    group |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert "2 processes share no stdin" in vitnull("explain", "-", env=group, expect=2).message


@pytest.mark.parametrize(("data", "said"), [(b"", "the file is empty"), (b"no image", "is not a PNG, JPEG, WebP")])
def test_no_image_on_stdin(pipe: Pipe, logo: Path, data: bytes, said: str) -> None:
    _, message = pipe("watermark", "-", logo, data=data, expect=1)
    assert "Cannot read stdin: " in message
    assert said in message
    assert tempfile.gettempdir() not in message
