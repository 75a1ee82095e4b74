"""No command writes over what it reads, --force or not; and what is written where no plain file is."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nullspace_cli.commands import outputs
from nullspace_cli.demo.models import WEIGHTS
from nullspace_cli.engine.files import paths
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from tests.conftest import Vitnull
from tests.made import write_noise

NOISE = ("eval", "demo", "noise.safetensors", "--data", "data")
MARK = ("watermark", "a.png", "logo.png", "--model", "demo")
LEARN = ("learn-noise", "demo", "--data", "data")


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Path, logo: Path) -> Path:
    """One of everything that a command reads, by the same name for each kind."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(photo, "a.png")
    shutil.copy(photo, "a.gradient.png")
    shutil.copy(photo, "a.logo.noise.png")
    shutil.copy(logo, "logo.png")
    Path("data").mkdir()
    shutil.copy(photo, "data/b.png")
    model = load_model(ModelRequest("demo", device="cpu"))
    write_noise(Path("noise.safetensors"), model, "encoder", torch.zeros(1, 49, 192))
    save_file({name: tensor.clone() for name, tensor in model.module.state_dict().items()}, "w.safetensors")
    Path("local").mkdir()
    shutil.copy("w.safetensors", "local/model.safetensors")
    Path("local/config.json").write_text("{}")
    Path("results.json").write_text('{"schema": "vitnull/eval/1"}')
    Path("list.png").write_text("a.png\n")
    return tmp_path


CLASHES = [
    (("basis", "demo", "--checkpoint", "w.safetensors", "--out"), "w.safetensors"),
    (("basis", "demo", "--checkpoint", "a.png", "--out"), "a.safetensors"),  # by its preview
    (("basis", "local-dir:local", "--no-preview", "--out"), "local/model.safetensors"),
    ((*LEARN, "--checkpoint", "w.safetensors", "--out"), "w.safetensors"),
    ((*LEARN, "--out"), "data/b.safetensors"),  # by its preview, an image of the data
    (("learn-noise", "local-dir:local", "--data", "data", "--out"), "local/config.json"),
    ((*NOISE, "--out"), "noise.safetensors"),
    ((*NOISE, "--csv"), "noise.safetensors"),
    ((*NOISE, "--plot"), "data/b.png"),
    ((*NOISE, "--checkpoint", "w.safetensors", "--per-image"), "w.safetensors"),
    ((*NOISE, "--results", "results.json", "--plot"), "results.json"),
    (("eval", "--results", "results.json", "--plot"), "results.json"),
    ((*MARK, "--out"), "a.png"),
    ((*MARK, "--diff"), "logo.png"),
    ((*MARK, "--checkpoint", "w.safetensors", "--float"), "w.safetensors"),
    ((*MARK, "--basis", "noise.safetensors", "--float"), "noise.safetensors"),
    ((*MARK, "--files-from", "list.png", "--out-dir", ".", "--diff"), "list.png"),
    (("watermark", "--text", "x", "--files-from", "list.png", "--out"), "list.png"),
    (("explain", "a.png", "--faithfulness", "--model", "demo", "--plot"), "a.png"),
    (("explain", "--files-from", "list.png", "--faithfulness", "--plot"), "list.png"),
    (("explain", "a.png", "a.gradient.png", "--method", "gradient,raw", "--out-dir"), "."),
    (("fool", "a.png", "logo.png", "--basis", "a.logo.noise.png", "--out-dir"), "."),
    (("fool", "a.png", "logo.png", "--checkpoint", "a.logo.noise.png", "--out-dir"), "."),
]


@pytest.mark.parametrize(("command", "output"), CLASHES, ids=[" ".join([*command, out]) for command, out in CLASHES])
def test_no_input_is_written_over(
    vitnull: Vitnull, inputs: Path, no_model: None, command: tuple[str, ...], output: str
) -> None:
    before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    message = vitnull(*command, output, "--force", expect=2).message
    refused = ("would replace its own input", "takes one image", "is the ending of")
    assert any(said in message for said in refused)
    assert {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard", "symbolic"])
def test_nor_under_another_name(
    vitnull: Vitnull, inputs: Path, no_model: None, link: Callable[[str, str], None]
) -> None:
    link("w.safetensors", "other.safetensors")
    command = ("basis", "demo", "--checkpoint", "w.safetensors", "--out", "other.safetensors", "--force")
    assert "would replace its own input other.safetensors" in vitnull(*command, expect=2).message


def test_the_embedded_weights_are_an_input(vitnull: Vitnull, no_model: None) -> None:
    weights = WEIGHTS / "vit.safetensors"
    assert "own input" in vitnull("basis", "demo", "--out", weights, "--no-preview", "--force", expect=2).message


def test_two_results_for_one_file(vitnull: Vitnull, inputs: Path, no_model: None) -> None:
    Path("there").mkdir()
    Path("link").symlink_to("there")
    for one, other in (("x", "x"), ("x", "./y/../x"), ("there/x", "link/x")):
        Path("y").mkdir(exist_ok=True)
        assert (
            f"several results would be written to {Path(other)}"
            in vitnull(*NOISE, "--out", one, "--csv", other, expect=2).message
        )


def test_names_that_differ_in_case_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = [tmp_path / "new" / "a.png", tmp_path / "new" / "A.png"]
    outputs.refuse_clashes(two, [])
    real = paths.exists
    monkeypatch.setattr(paths, "exists", lambda path: real(path.with_name(path.name.lower())))
    with pytest.raises(Exception, match=r"several results would be written to .*A\.png"):
        outputs.refuse_clashes(two, [])
    assert list(tmp_path.iterdir()) == []


# Devices and pipes


def test_null_takes_everything(vitnull: Vitnull, inputs: Path) -> None:
    arguments = ("--out", "/dev/null", "--csv", "/dev/null", "--per-image", "/dev/null", "--plot", "/dev/null")
    vitnull(*NOISE, *arguments, "--force")
    vitnull("basis", "demo", "--no-preview", "--no-check", "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("command", "words"),
    [(("basis", "demo"), "--no-preview"), (LEARN, "--resume"), (("watermark", "--text", "x", "a.png"), "read back")],
)
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_but_not_what_needs_a_file(
    vitnull: Vitnull, inputs: Path, no_model: None, command: tuple[str, ...], words: str, force: tuple[str, ...]
) -> None:
    Path("null.png").symlink_to("/dev/null")
    target = "null.png" if command[0] == "watermark" else "/dev/null"
    message = vitnull(*command, *force, "-o", target, expect=2).message
    assert f"{target} is not a file" in message
    assert words in message
    assert Path("/dev/null").is_char_device()


def test_a_pipe_with_a_reader(vitnull: Vitnull, inputs: Path) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        vitnull(*NOISE, "--out", "pipe")
        assert os.read(reader, 10).startswith(b"{")
    finally:
        os.close(reader)


def test_the_place_of_what_resume_needs_is_checked(vitnull: Vitnull, inputs: Path, no_model: None) -> None:
    """It is a little longer than the file's own name."""
    assert "File name too long" in vitnull(*LEARN, "--no-preview", "--out", "n" * 250, expect=1).message
