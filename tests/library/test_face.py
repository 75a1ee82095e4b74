"""`import nullspace_cli`: the names that there are, that they cost nothing, and that the library keeps to itself."""

import ast
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import nullspace_cli
import vitnull

ROOT = Path(nullspace_cli.__file__).parent
MODULES = sorted((ROOT / "library").glob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", nullspace_cli.__all__)
def test_every_name_is_there(name: str) -> None:
    found = getattr(nullspace_cli, name)
    assert name == "__version__" or found.__name__ == name
    assert name == "__version__" or (found.__doc__ or "").strip()


def test_types_and_values_come_from_the_same_modules() -> None:
    tree = parsed(ROOT / "__init__.py")
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (statement.module, alias.name, alias.asname)
        for statement in typed.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    homes = {(f"nullspace_cli.{home}", name, name) for home, names in nullspace_cli._HOMES.items() for name in names}
    assert imported == homes
    assert len(typed.body) == len(homes)


def test_no_name_is_given_twice() -> None:
    assert len(nullspace_cli.__all__) == len(set(nullspace_cli.__all__))


def test_the_names_are_listed() -> None:
    assert set(nullspace_cli.__all__) <= set(dir(nullspace_cli))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nullspace_cli' has no attribute 'find_nulspace'"):
        nullspace_cli.find_nulspace  # noqa: B018


def test_the_name_of_the_distribution_is_another_for_the_same() -> None:
    assert all(getattr(vitnull, name) is getattr(nullspace_cli, name) for name in nullspace_cli.__all__)
    assert set(vitnull.__all__) <= set(dir(vitnull))
    (typed,) = (node for node in parsed(Path(vitnull.__file__)).body if isinstance(node, ast.If))
    named = [alias.name for line in typed.body if isinstance(line, ast.ImportFrom) for alias in line.names]
    assert named == sorted(set(vitnull.__all__) - {"__version__"})
    with pytest.raises(AttributeError, match="module 'vitnull' has no attribute 'watermarks'"):
        vitnull.watermarks  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import nullspace_cli; dir(nullspace_cli)",
        "from nullspace_cli import __version__",
        "import vitnull; dir(vitnull)",
    ],
)
def test_importing_the_package_imports_nothing_slow(statement: str) -> None:
    slow = ("torch", "timm", "pydantic", "matplotlib", "numpy", "scipy", "PIL", "typer", "rich")
    program = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert {name.partition(".")[0] for name in answer.stdout.split()} & set(slow) == set()
    assert "nullspace_cli" in answer.stdout.split()


def test_the_package_says_that_it_is_typed() -> None:
    assert all((files(name) / "py.typed").is_file() for name in ("nullspace_cli", "vitnull"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_the_library_knows_no_command_line(module: Path) -> None:
    names = set()
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module))
    assert {name.partition(".")[0] for name in names} & {"typer", "rich", "click", "argparse"} == set()
    assert [name for name in names if name.startswith("nullspace_cli.commands")] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_the_library_prints_nothing(module: Path) -> None:
    nodes = list(ast.walk(parsed(module)))
    assert "print" not in {node.id for node in nodes if isinstance(node, ast.Name)}
    assert {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)} & {
        "sys.stdout",
        "sys.stderr",
    } == set()
