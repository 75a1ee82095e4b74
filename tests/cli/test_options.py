"""Numbers and names that no option takes: refused by the option's name, of every option of every command."""

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from typer.models import OptionInfo, ParameterInfo

from nullspace_cli.commands.app import all_commands
from nullspace_cli.commands.file_kinds import ARCHIVES, KINDS, PLOT, WATERMARK, FileKind
from nullspace_cli.commands.options import file_name, given, image_name, path_name, read_number
from nullspace_cli.engine.data import archives
from nullspace_cli.engine.files import containers
from tests.conftest import Vitnull, contents

NO_NUMBERS = ("nan", "-inf", "-1", "1e308", "-1e308", "", "x", "0x10", "1,5")


def declared() -> Iterator[tuple[str, str, Any, ParameterInfo]]:
    """Command, name, type and typer's description of every argument and option."""
    for command, callback in all_commands():
        for name, parameter in inspect.signature(callback).parameters.items():
            kind, info = get_args(parameter.annotation)
            yield command, name, kind, info


def types(kind: Any) -> set[Any]:
    """int, of int, int | None, list[int] | None."""
    return {kind} | {inner for part in get_args(kind) for inner in types(part)}


def spelling(name: str, info: ParameterInfo) -> str:
    options = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
    return (options or [f"--{name.replace('_', '-')}"])[0].partition("/")[0]


NUMBERS = [
    (command, spelling(name, info), info) for command, name, kind, info in declared() if types(kind) & {int, float}
]
PATHS = [(command, name, info) for command, name, kind, info in declared() if Path in types(kind)]
WRITTEN = [
    (command, spelling(name, info), info.parser.keywords["kind"])
    for command, name, info in PATHS
    if isinstance(info.parser, partial) and isinstance(info.parser.keywords.get("kind"), FileKind)
]
FILES = [(command, option) for command, option, _ in WRITTEN]
NAMES = [
    (command, spelling(name, info))
    for command, name, _, info in declared()
    if info.parser in (file_name, path_name, given) and isinstance(info, OptionInfo)
] + FILES


def test_every_option_has_the_one_parser_of_its_kind() -> None:
    assert len(NUMBERS) >= 40
    assert len(FILES) > 8
    numbers = [info.parser for _, _, info in NUMBERS]
    assert all(isinstance(parser, partial) and parser.func is read_number for parser in numbers)
    others = [info.parser for _, _, info in PATHS if not isinstance(info.parser, partial)]
    assert set(others) == {file_name, path_name, image_name}  # a file to read, any path, an image or stdin
    assert len(others) + len(WRITTEN) == len(PATHS)


@pytest.mark.parametrize(("command", "option", "info"), NUMBERS, ids=[f"{a} {b}" for a, b, _ in NUMBERS])
def test_what_is_no_number_for_an_option(vitnull: Vitnull, command: str, option: str, info: ParameterInfo) -> None:
    infinite = isinstance(info.parser, partial) and info.parser.keywords["infinite"]
    for text in NO_NUMBERS + (() if infinite else ("inf", "9" * 400)):
        outcome = vitnull(*command.split(), f"{option}={text}", expect=2)
        assert f"Invalid value for '{option}'" in outcome.message.replace("'-o' / ", "")
        assert f"'{text}' is not " in outcome.message
    assert contents() == []


@pytest.mark.parametrize(
    ("text", "limits", "value"),
    [
        ("0.5", {"least": 0, "most": 1}, 0.5),
        ("1", {"least": 0, "most": 1}, 1),
        ("0", {"least": 0, "most": 1}, 0),
        ("inf", {"least": 1, "most": 5, "infinite": True}, float("inf")),
        ("7", {"least": 1, "most": 7, "kind": int}, 7),
    ],
)
def test_what_is_one(text: str, limits: dict[str, Any], value: float) -> None:
    read = read_number(text, **limits)
    assert read == value
    assert type(read) is limits.get("kind", float)


@pytest.mark.parametrize(("command", "option"), NAMES)
def test_empty_names(vitnull: Vitnull, command: str, option: str) -> None:
    """As of a variable of the shell that is not set; Path("") is the current folder."""
    message = vitnull(*command.split(), f"{option}=", expect=2).message
    assert "the name is empty" in message
    assert option in message


@pytest.mark.parametrize("command", ["watermark", "check", "fool", "explain"])
def test_empty_arguments(vitnull: Vitnull, command: str) -> None:
    assert "the name is empty" in vitnull(command, "a.png", "", expect=2).message


@pytest.mark.parametrize(("command", "option"), FILES)
def test_folders_where_a_file_is_to_be_written(vitnull: Vitnull, command: str, option: str) -> None:
    Path("there").mkdir()
    for name in (".", "..", "/", "./", "new/", "there/", "there/..", "a/."):
        message = vitnull(*command.split(), f"{option}={name}", expect=2).message
        assert f"{name} is the name of a folder" in message, name
    assert contents() == ["there"]


def test_endings_that_say_another_thing(vitnull: Vitnull, no_model: None) -> None:
    assert {kind.words for _, _, kind in WRITTEN} == {kind.words for kind in KINDS}
    for command, option, kind in WRITTEN:
        for other in KINDS:
            for ending in set(other.endings) - set(kind.endings):
                message = vitnull(*command.split(), f"{option}=x{ending}", expect=2).message
                assert f"x{ending}: {kind.words} is a {kind.endings[0]}" in message
                assert f"{ending} is the ending of " in message
    assert contents() == []


@pytest.mark.parametrize(("command", "option", "kind"), [one for one in WRITTEN if one[2].chosen])
def test_endings_that_choose_a_format(vitnull: Vitnull, command: str, option: str, kind: FileKind) -> None:
    Path("there").mkdir()
    for name, said in (("x", "no ending that says the format"), ("x.gif", "as .gif"), ("there", "it is a folder")):
        assert said in vitnull(*command.split(), f"{option}={name}", expect=2).message
    assert contents() == ["there"]


def test_formats_are_those_that_are_written() -> None:
    assert set(ARCHIVES) == set(archives.ENDINGS)
    assert set(WATERMARK.endings) == {*containers.ENDINGS, *containers.JPEG_ENDINGS, *ARCHIVES}
    assert {ending.removeprefix(".") for ending in PLOT.endings} <= set(FigureCanvasAgg.filetypes)


def test_folders_that_are_none(vitnull: Vitnull, photo: Path) -> None:
    Path("file").touch()
    Path("circle").symlink_to("circle")
    for folder in ("file", "file/x", "circle", "n" * 300):
        for command in (["learn-noise", "demo", "--data", "demo"], ["explain", photo, "--model", "demo"], ["demo"]):
            assert f"Cannot create the folder {folder}" in vitnull(*command, "--out-dir", folder, expect=1).message


@pytest.mark.parametrize(
    "value", ["(" * 300, "-" * 100_000 + "1", "1" * 5000, "[" * 100 + "]" * 100, "{[]: 1}", "\x01"]
)
def test_arguments_of_models_are_python_or_text(vitnull: Vitnull, value: str) -> None:
    message = vitnull("basis", "test_vit", "--no-pretrained", "--model-kwargs", f"nonsense={value}", expect=1).message
    assert "does not take these model arguments" in message


def test_a_stem_of_any_name(vitnull: Vitnull, tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to("circle")
    assert "Cannot load" in vitnull("basis", f"local-dir:{circle}", expect=1).message
