"""Broken pictures through every command that reads pictures: as sources, targets, marks and data."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.watermark.marks import read_mark
from tests.conftest import Outcome
from tests.engine.files.broken_pictures import broken, sound
from tests.made import write_noise

pytestmark = pytest.mark.slow

Run = Callable[..., Outcome]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """All of them, and one that is sound."""
    folder = tmp_path / "in"
    folder.mkdir()
    files = {**dict(broken()), "sound.png": sound()["rgb.png"]}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def nothing_left(folder: Path) -> bool:
    return not any(path.name.startswith(".") or path.suffix == ".part" for path in folder.rglob("*"))


@pytest.mark.parametrize("command", ["watermark", "explain"])
def test_a_folder_of_them(
    run: Run, pictures: list[Path], tmp_path: Path, logo: Path, tiny_vit: tuple[str, ...], command: str
) -> None:
    own = {"watermark": (logo, "--size", "model", "--scale", "0.5"), "explain": ("--method", "gradient", "--no-float")}
    each = list({path.stem: path for path in pictures[::3]}.values())
    outcome = run(command, *each, *own[command], "--model", *tiny_vit, "--json", "--out-dir", "out")
    assert outcome.exit_code == 4
    failures = outcome.document["failures"]
    assert len(failures) + len(outcome.document["images"]) == len(each)
    assert len(failures) > 100
    for failure in failures:
        assert failure["error"].startswith(f"Cannot read {failure['source']}: ") or "elongated" in failure["error"]
        assert "\n" not in failure["error"]
    assert nothing_left(tmp_path)


def test_as_sources(run: Run, pictures: list[Path], tmp_path: Path, logo: Path, tiny_vit: tuple[str, ...]) -> None:
    arguments = ("--explain", "none", "--strength", "1", "--rounding", "nearest", "--tolerance", "1", "--json")
    outcome = run("fool", logo, "--sources", pictures[0].parent, "--model", *tiny_vit, *arguments)
    assert outcome.exit_code == 0
    assert len(outcome.document["sources"]["skipped"]) > 100
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("role", ["mark", "source", "target"])
def test_alone(
    run: Run, pictures: list[Path], tmp_path: Path, photo: Path, tiny_vit: tuple[str, ...], role: str
) -> None:
    """One in forty of them: each is a run of its own."""
    options = ("--model", *tiny_vit, "--force")
    fast = ("--explain", "none", "--strength", "1", "--rounding", "nearest", "--tolerance", "1")
    for path in pictures[::40]:
        pair = (photo, path) if role in ("mark", "target") else (path, photo)
        own = ("watermark", "--nullspace", "resize", "--no-verify") if role == "mark" else ("fool", *fast)
        outcome = run(own[0], *pair, *own[1:], *options)
        assert outcome.exit_code in (0, 1)
        if outcome.exit_code:
            (line,) = outcome.stderr.splitlines()
            assert line.startswith("vitnull: error: ")
    assert nothing_left(tmp_path)


def test_as_marks(pictures: list[Path]) -> None:
    for path in pictures:
        try:
            mark = read_mark(path)
        except ImageError:
            continue
        assert 0 <= mark.coverage.min() <= mark.coverage.max() <= 1


def test_as_data(run: Run, pictures: list[Path], tmp_path: Path, tiny_vit: tuple[str, ...]) -> None:
    model = load_model(ModelRequest(tiny_vit[0], pretrained=False, kwargs={"depth": 1, "img_size": 64}, device="cpu"))
    write_noise(tmp_path / "noise.safetensors", model, "encoder", 0.1 * torch.ones(1, 16, 192))
    data, options = ("--data", pictures[0].parent), (*tiny_vit[1:], "--device", "cpu")
    learn = ("learn-noise", tiny_vit[0], *data, "--rounds", "1", "--fraction", "1", "--no-preview", *options)
    evaluate = ("eval", tiny_vit[0], tmp_path / "noise.safetensors", *data, "--controls", "none", *options)
    for command in (learn, evaluate):
        assert run(*command, "--json").exit_code == 1
        outcome = run(*command, "--skip-bad", "--json")
        assert outcome.exit_code == 0
        assert len(outcome.document["skipped"]) > 100
        assert len(outcome.document["skipped"]) + outcome.document["images"] == len(pictures)
    assert nothing_left(tmp_path)
