"""On which device tests run: what `tests/conftest.py` promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from tests.conftest import Vitnull


def test_no_test_runs_on_whatever_the_machine_has() -> None:
    with pytest.raises(pytest.fail.Exception, match='device "auto"'):
        load_model(ModelRequest("demo"))


def test_nor_does_the_command_line(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> bool:
        raise AssertionError("the machine was asked")

    monkeypatch.setattr(torch.cuda, "is_available", ask)
    assert vitnull("basis", *tiny_vit, "--no-preview", "--json").document["device"] == "cpu"
    with pytest.raises(pytest.fail.Exception, match='device "auto"'):
        vitnull("basis", *tiny_vit, "--device", "auto", "--force")


def test_a_device(device: torch.device) -> None:
    assert torch.ones(2, device=device).device.type == device.type


@pytest.mark.gpu
def test_tests_marked_gpu_have_a_card() -> None:
    assert torch.cuda.is_available()
    assert torch.ones(2, device="cuda").is_cuda


@pytest.mark.slow
def test_all_devices_that_there_are() -> None:
    root = Path(__file__).parents[1]
    command = (
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        "--no-header",
        "--device",
        "all",
        "-rA",
        __file__,
        "-k",
        "test_a_device",
    )
    result = subprocess.run(
        [sys.executable, *command], cwd=root, env=os.environ, capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stdout
    assert {
        "PASSED tests/test_devices.py::test_a_device[cpu]",
        "PASSED tests/test_devices.py::test_a_device[simulated]",
    } <= {*result.stdout.splitlines()}
