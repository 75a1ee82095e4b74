"""Broken files through every command that takes them: a message, a documented exit code, and nothing left behind."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from tests import corpus
from tests.conftest import Outcome, Vitnull, contents
from tests.corpus import Case
from tests.engine.test_broken_files import document_of_eval, in_time
from tests.made import write_noise

NAME = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
ARGUMENTS = tuple(part for name, value in KWARGS.items() for part in ("--model-kwargs", f"{name}={value}"))
TINY = (NAME, "--no-pretrained", "--device", "cpu", *ARGUMENTS)
CODES = (0, 1, 2, 3, 4, 5)
Arguments = tuple[Any, ...]
"""Of the command line: texts and paths."""
THIN = 7
"""Of the many cases of one kind, every so many-th goes through the command line; `slow` takes others."""


class Inputs:
    """Whole files, outside of the folder that a command runs in."""

    def __init__(self, folder: Path) -> None:
        import json

        from nullspace_cli.engine.models.loading import load_model
        from nullspace_cli.engine.models.model_request import ModelRequest
        from nullspace_cli.engine.nullspace.basis import find_basis
        from nullspace_cli.engine.nullspace.basis_file import save_basis

        self.data = folder / "data"
        self.data.mkdir()
        for i in range(4):
            Image.fromarray(draw("val", i, size=40)[0]).save(self.data / f"{i}.png")
        self.photo, self.other = self.data / "0.png", self.data / "1.png"
        self.logo = folder / "logo.png"
        Image.fromarray(draw_logo()).save(self.logo)
        model = load_model(ModelRequest(NAME, pretrained=False, kwargs=KWARGS, device="cpu"))
        self.basis = save_basis(folder / "basis.safetensors", model, find_basis(model))
        delta = torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(0))
        self.noise = write_noise(folder / "noise.safetensors", model, "encoder", delta)
        self.results = folder / "results.json"
        self.results.write_text(json.dumps(document_of_eval()))
        torch.manual_seed(1)
        self.state = timm.create_model(NAME, **KWARGS).state_dict()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


def thinned(cases: Iterable[Case], part: int) -> Iterator[Case]:
    return islice(cases, part, None, THIN)


def hold_all(cases: Iterable[Case], run: Callable[..., Outcome], name: str, arguments: Arguments) -> None:
    """Run a command on each case's file, named as it is among the arguments."""
    faults = []
    for case in cases:
        path = Path(name)
        case.make(path)
        before = contents()
        try:
            with in_time():
                outcome = run(*arguments)
        except (Exception, AssertionError) as error:  # noqa: BLE001 - each is a fault
            faults.append(f"{case.name}: {type(error).__name__}: {str(error)[:300]}")
        else:
            left = sorted(set(contents()) - set(before))
            if outcome.exit_code not in CODES or (case.refused and outcome.exit_code == 0):
                faults.append(f"{case.name}: exit code {outcome.exit_code}: {outcome.message[:200]}")
            if outcome.exit_code in (1, 2) and (left or outcome.stdout or path.name not in outcome.message):
                faults.append(f"{case.name}: left {left}, said {outcome.stdout[:100]!r} and {outcome.message[:300]!r}")
        for there in contents():
            _remove(Path(there))
    assert not faults, f"{len(faults)}:\n" + "\n".join(faults)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _remove(inner)
        path.rmdir()
    else:
        path.unlink()


parts = pytest.mark.parametrize("part", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 4))])

WITH_BASIS: dict[str, Callable[[Inputs], Arguments]] = {
    "eval": lambda inputs: (
        *("eval", *TINY, "--data", inputs.data, "--noise", "broken.safetensors"),
        *("--out", "o.json", "--csv", "o.csv", "--per-image", "o.jsonl"),
    ),
    "watermark": lambda inputs: (
        *("watermark", inputs.photo, inputs.logo, "--model", *TINY, "--size", "model"),
        *("--basis", "broken.safetensors", "--diff", "d.png", "--float", "f.safetensors"),
    ),
    "fool": lambda inputs: (
        *("fool", inputs.photo, inputs.other, "--model", *TINY, "--explain", "none", "--strength", "1"),
        *("--basis", "broken.safetensors"),
    ),
}


@parts
@pytest.mark.parametrize("command", WITH_BASIS)
def test_bases(run: Callable[..., Outcome], inputs: Inputs, command: str, part: int) -> None:
    # What is looked at of a file is held by tests/engine/test_broken_files.py, value by value: here for the commands.
    read = ("row_space", "basis") if command == "eval" else ("row_space",)
    cases = [*corpus.irregular(), *corpus.broken_bases(inputs.basis), *corpus.rubbish()]
    cases += islice(corpus.artefacts(inputs.basis, read), 0, None, 7)
    hold_all(thinned(cases, part), run, "broken.safetensors", WITH_BASIS[command](inputs))


@parts
def test_noises(run: Callable[..., Outcome], inputs: Inputs, part: int) -> None:
    cases = [*corpus.irregular(), *corpus.rubbish(), *islice(corpus.artefacts(inputs.noise, ("noise",)), 0, None, 17)]
    hold_all(thinned(cases, part), run, "broken.safetensors", WITH_BASIS["eval"](inputs))


@parts
@pytest.mark.parametrize("what", ["state", "noise"])
def test_resuming(run: Callable[..., Outcome], inputs: Inputs, what: str, part: int) -> None:
    name = {"state": "n.safetensors.resume", "noise": "n.safetensors"}[what]
    cases = [*corpus.irregular(), *corpus.rubbish(), *islice(corpus.artefacts(inputs.noise, ()), 0, None, 17)]
    cases = [case for case in cases if case.name not in ("missing", "dangling", "loop", "nothing")]
    arguments = ("learn-noise", *TINY, "--data", inputs.data, "--rounds", "1", "--resume", "--out", "n.safetensors")
    hold_all([Case(c.name, c.make, True) for c in thinned(cases, part)], run, name, arguments)


@parts
@pytest.mark.parametrize("alone", [True, False])
def test_results(run: Callable[..., Outcome], inputs: Inputs, alone: bool, part: int) -> None:
    cases = [
        *corpus.irregular(),
        *corpus.rubbish(),
        *islice(corpus.documents(inputs.results), 0, None, 11 + 20 * (not alone)),
    ]
    plot = ("--results", "broken.json", "--plot", "o.png")
    one = ("eval", *plot) if alone else ("eval", *TINY, "--data", inputs.data, "--noise", inputs.noise, *plot)
    hold_all(thinned(cases, part), run, "broken.json", one)


WITH_WEIGHTS: dict[str, Callable[[Inputs], Arguments]] = {
    "basis": lambda inputs: ("basis",),
    "learn-noise": lambda inputs: ("learn-noise", "--data", inputs.data, "--rounds", "1"),
    "eval": lambda inputs: ("eval", "--data", inputs.data, "--noise", inputs.basis),
    "watermark": lambda inputs: ("watermark", inputs.photo, inputs.logo, "--size", "model", "--model"),
    "fool": lambda inputs: ("fool", inputs.photo, inputs.other, "--explain", "gradient", "--strength", "1", "--model"),
    "explain": lambda inputs: ("explain", inputs.photo, "--model"),
}


@parts
@pytest.mark.parametrize("command", WITH_WEIGHTS)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights(run: Callable[..., Outcome], inputs: Inputs, command: str, ending: str, part: int) -> None:
    arguments = WITH_WEIGHTS[command](inputs)
    position = 1 if command in ("basis", "learn-noise", "eval") else len(arguments)
    model = (NAME, "--device", "cpu", *ARGUMENTS, "--checkpoint", f"broken{ending}")
    everything = [case for case in corpus.weights(inputs.state) if case.name.endswith(ending)]
    important = [case for case in everything if case.name.split(".")[0] in ("zero", "huge", "large", "pipe", "one nan")]
    cases = [*(important if part == 0 else ()), *islice(thinned(everything, part), 0, None, 3)]
    hold_all(cases, run, f"broken{ending}", (*arguments[:position], *model, *arguments[position:]))


def test_model_arguments(vitnull: Vitnull) -> None:
    for argument in ("img_size=1000000000", "img_size=100000", "embed_dim=-1", "depth=1000000000", "patch_size=99999",
                     "num_heads=0", "num_classes=x", "in_chans=0", "img_size='a'", "img_size=[]", "mlp_ratio=1e9",
                     "init_values=1e999", "features_only=True", "checkpoint_path=/etc/passwd", "device=meta",
                     "norm_layer=x", "pretrained_cfg_overlay={'mean': 'x'}", "pretrained_cfg=3",
                     "a=" + "[" * 100_000):  # fmt: skip
        with in_time():
            arguments = ("basis", NAME, "--no-pretrained", "--device", "cpu", "--model-kwargs", argument)
            assert NAME in vitnull(*arguments, expect=1).message, argument
        assert contents() == []
