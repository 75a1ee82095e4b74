"""Finite weights whose answers are not: every command refuses them, names the layer and says what to do."""

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Vitnull, contents

LAYER = "blocks.1.mlp.fc1"
COMMANDS = {
    "basis": "basis demo",
    "learn-noise": "learn-noise demo --data demo --fraction 0.005 --rounds 1 --stop-eps 0 --batch-size 4",
    "learn-noise at the input": "learn-noise demo --data demo --fraction 0.005 --rounds 1 --level input",
    "eval": "eval demo --data {folder} --noise {basis}",
    "watermark": "watermark {photo} --text a --model demo --verify",
    "watermark at model size": "watermark {photo} {photo} --text a --model demo --size model",
    "fool": "fool {photo} {logo} --model demo",
    "fool at native size": "fool {photo} {logo} --model demo --size native",
    "explain": "explain {photo} --model demo --method all",
    "explain a batch": "explain {folder} --model demo --faithfulness",
}
IN_FULL_PRECISION = ("basis", "explain", "explain a batch")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """The demo's weights, one layer's as large as can be in half precision, or in single."""
    from safetensors.torch import load_file, save_file

    from nullspace_cli.demo.models import DEMO_MODELS, WEIGHTS

    folder = tmp_path_factory.mktemp("faulty")
    made = {}
    for largest in (6e4, 3e38):
        embedded = load_file(WEIGHTS / DEMO_MODELS["demo"].weights)
        state = {name: value.float() for name, value in embedded.items()}
        weight = state[f"{LAYER}.weight"]
        state[f"{LAYER}.weight"] = weight / weight.abs().max() * largest
        made[largest] = folder / f"{largest:g}.safetensors"
        save_file(state, made[largest])
    return made


@pytest.fixture
def files(vitnull: Vitnull, photo: Path, logo: Path, tmp_path: Path) -> dict[str, Path]:
    """What the commands read; after it the current folder holds nothing else."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3):
        Image.open(photo).rotate(i).save(folder / f"{i}.png")
    vitnull("basis", "demo", "-o", tmp_path / "data" / "basis.safetensors", "--no-check", "--no-preview")
    return {"folder": folder, "photo": photo, "logo": logo, "basis": folder / "basis.safetensors"}


@pytest.mark.parametrize("name", COMMANDS)
def test_weights_too_large_for_float32(
    vitnull: Vitnull, faulty: dict[float, Path], files: dict[str, Path], name: str
) -> None:
    before = contents()
    command = COMMANDS[name].format(**files).split()
    message = vitnull(*command, "--checkpoint", faulty[3e38], "--json", expect=1).message
    assert f"in float32: the first to hold such is what its layer {LAYER} (Linear) makes. Check the weights" in message
    assert contents() == before


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in IN_FULL_PRECISION])
def test_weights_too_large_for_half_precision(
    vitnull: Vitnull, faulty: dict[float, Path], files: dict[str, Path], name: str
) -> None:
    command = COMMANDS[name].format(**files).split()
    message = vitnull(*command, "--checkpoint", faulty[6e4], "--amp", "fp16", expect=1).message
    assert f"in float16: the first to hold such is what its layer {LAYER} (Linear) makes. Use --amp none" in message


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_step(vitnull: Vitnull, tmp_path: Path) -> None:
    """The first step of AdamW is as long as the learning rate, which here is more than half precision holds."""
    from nullspace_cli.engine.documents.artefacts import read_tensors
    from nullspace_cli.engine.documents.kinds import LEARNING

    command = "learn-noise demo --data demo --fraction 0.005 --rounds 4 --level input --lr 1e5 -o out.safetensors"
    message = vitnull(*command.split(), "--amp", "fp16", expect=1).message
    assert "after 1 steps with numbers that are not finite, in float16: the first to hold such is what its" in message
    assert "Use --amp none: in float32 all are finite" in message
    (state,) = tmp_path.iterdir()
    assert f"the run as it stood after 1 steps is kept in {state.name}" in message
    _, about = read_tensors(state, LEARNING)
    assert about.parameters["done"] == 1
    assert vitnull(*command.split(), "--resume", "--json").document["noises"][0]["steps"] == 4
    assert not state.exists()
