"""Completion by the shell, as a user would install it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from nullspace_cli.demo.models import DEMO_MODELS
from nullspace_cli.engine.models.timm_names import known_names

SHELLS = {
    "bash": ".bash_completions/vitnull.sh",
    "zsh": ".zfunc/_vitnull",
    "fish": ".config/fish/completions/vitnull.fish",
}


def vitnull(home: Path, *arguments: str, **variables: str) -> str:
    """A process of its own, whose shell is the one that it is told."""
    environment = {**os.environ, "HOME": str(home), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", **variables}
    code = "import sys; sys.argv[0] = 'vitnull'; from nullspace_cli.__main__ import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_installed(tmp_path: Path, shell: str) -> None:
    assert "completion installed" in vitnull(tmp_path, "--install-completion", shell)
    assert "vitnull" in (tmp_path / SHELLS[shell]).read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("vitnull wat", ["watermark"]),
        ("vitnull watermark --null", ["--nullspace"]),
        ("vitnull watermark --nullspace re", ["resize"]),
        ("vitnull basis dem", ["demo", "demo-cnn"]),
        ("vitnull explain --model vit_so400m_patch14_siglip_gap_8", ["vit_so400m_patch14_siglip_gap_896"]),
        ("vitnull help cl", ["claim"]),
    ],
)
def test_what_is_offered(tmp_path: Path, words: str, expected: list[str]) -> None:
    last = str(len(words.split()) - 1)
    offered = vitnull(tmp_path, _VITNULL_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=last)
    assert offered.split() == expected


def test_all_models_are_offered() -> None:
    assert known_names() == [*DEMO_MODELS, *sorted(timm.list_models())]
