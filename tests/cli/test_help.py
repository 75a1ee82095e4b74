"""What --help shows, and `vitnull help`, of every command."""

import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from typer.models import OptionInfo

from nullspace_cli.commands.app import all_commands
from nullspace_cli.commands.examples import EXAMPLES
from nullspace_cli.commands.exit_codes import EXIT_CODES
from nullspace_cli.commands.help_pages import ENVIRONMENT, PANELS
from tests.conftest import Vitnull

ROOT = Path(__file__).parent.parent.parent
COMMANDS = dict(all_commands())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_in_its_group(vitnull: Vitnull, command: str) -> None:
    text = vitnull(*command.split(), "--help").stdout
    sections = dict(re.findall(r"^([A-Z][\w ]+):\n((?:(?:  .*)?\n)+)", text, re.MULTILINE))
    assert set(sections) - {"Arguments", "Examples"} <= set(PANELS)
    assert [name for name in sections if name in PANELS] == [name for name in PANELS if name in sections]
    for name, parameter in inspect.signature(COMMANDS[command]).parameters.items():
        _, info = get_args(parameter.annotation)
        if isinstance(info, OptionInfo):
            panel = next((panel for panel, names in PANELS.items() if name in names), "Options")
            spelled = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
            option = (spelled or [f"--{name.replace('_', '-')}"])[0].partition("/")[0]
            assert re.search(rf"^  .*{option}\b", sections[panel], re.MULTILINE), option
    for line, _ in EXAMPLES[command]:
        assert line in sections["Examples"]


def test_groups_name_what_there_is() -> None:
    there = {name for run in COMMANDS.values() for name in inspect.signature(run).parameters}
    assert {name for names in PANELS.values() for name in names} - there == {"help"}
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_type_of_python_is_shown(vitnull: Vitnull, command: str) -> None:
    text = vitnull(*command.split(), "--help").stdout
    assert not re.search(r"list\[|<(str|int|float|Path)>|\b(STR|INT|FLOAT)\b", text)


@pytest.mark.parametrize("words", [("basis",), ("claim", "check"), ()])
def test_help_is_a_command(vitnull: Vitnull, words: tuple[str, ...]) -> None:
    told, asked = (vitnull(*line).stdout.split("\n", 1) for line in (("help", *words), (*words, "--help")))
    assert told[1] == asked[1]
    assert told[0].startswith(" ".join(("Usage: vitnull", *words)))


def test_help_of_what_is_no_command(vitnull: Vitnull) -> None:
    assert "No such command 'basses'. Did you mean 'basis'?" in vitnull("help", "basses", expect=2).message


def test_exit_codes_and_environment(vitnull: Vitnull) -> None:
    text = " ".join(vitnull("--help").stdout.split())
    assert all(f"{code} {words}" in text for code, words in EXIT_CODES.items())
    assert EXIT_CODES[130] == "interrupted"
    assert set(ENVIRONMENT) == {"VITNULL_MODEL", "VITNULL_DEVICE", "VITNULL_CACHE", "HF_HUB_OFFLINE"}
    assert all(name in text for name in ENVIRONMENT)


@pytest.mark.skipif(not shutil.which("groff"), reason="the system has no groff")
def test_the_man_page_is_one() -> None:
    """By the system's own formatter, which warns of what it does not understand."""
    command = ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", "-rLL=200n", "docs/vitnull.1"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    words = " ".join(shown.stdout.split())
    for text in ("130 interrupted", "vitnull watermark photo.jpg logo.png", "--files-from FILE", 'JSON lines {"image"'):
        assert text in words
