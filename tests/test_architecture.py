"""The import direction, and who alone may do what: read from the source, not from running it."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "nullspace_cli"
ROOT = Path(__file__).parent.parent / PACKAGE

ENGINE = (
    "errors",
    "metrics",
    "text",
    "runtime",
    "files",
    "documents",
    "solvers",
    "transforms",
    "comparison",
    "models",
    "nullspace",
    "preimage",
    "data",
    "noise",
    "evaluation",
    "watermark",
    "saliency",
    "adversarial",
    "ownership",
    "plots",
    "report",
    "workflows",
)
"""The rooms of the engine, packages and single modules, from the ground up: a room imports what stands before it."""

GROUND = {"demo.drawing", "demo.logo", "demo.models"}
"""The embedded demo's drawings and names, on which the engine stands."""


def source_of(name: str) -> str:
    return (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")


def modules(folder: str) -> list[str]:
    """The modules of a folder of the package, as "engine.files.png"."""
    files = (ROOT / folder).rglob("*.py")
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return sorted(name for name in names if not name.endswith("__init__"))


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def statements(tree: ast.AST, *, on_import: bool) -> Iterator[ast.AST]:
    """The nodes of a module; `on_import` leaves out what importing it does not run: functions, and types' imports."""
    for node in ast.iter_child_nodes(tree):
        if on_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if on_import and isinstance(node, ast.stmt) and is_type_checking(node):
            continue
        yield node
        yield from statements(node, on_import=on_import)


def imports(source: str, module: str, *, on_import: bool = False) -> set[str]:
    """The full names of whatever a module imports: "torch.nn", "nullspace_cli.engine.files.png"."""
    found = set()
    for node in statements(ast.parse(source), on_import=on_import):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = f"{PACKAGE}.{module}".split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def own(names: set[str]) -> set[str]:
    """The modules of this package among imported names, without its name: of `from a.b import c`, a.b.c or a.b."""
    inner = {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}
    return {name for name in inner if (ROOT / f"{name.replace('.', '/')}.py").exists()}


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


ENGINE_MODULES = modules("engine")
COMMAND_MODULES = modules("commands")


def room_of(module: str) -> str:
    """The package of a module, or the module itself where it stands alone: of "engine.files.png", "files"."""
    return module.split(".")[1]


def engine_imports(module: str) -> set[str]:
    return {name for name in own(imports(source_of(module), module)) if name.startswith("engine.")}


def test_the_rooms_are_those_that_there_are() -> None:
    assert sorted(ENGINE) == sorted({room_of(name) for name in ENGINE_MODULES})


@pytest.mark.parametrize("module", ENGINE_MODULES)
def test_the_engine_imports_downwards(module: str) -> None:
    below = ENGINE[: ENGINE.index(room_of(module))]
    elsewhere = {name for name in engine_imports(module) if room_of(name) not in (*below, room_of(module))}
    assert elsewhere == set()
    assert own(imports(source_of(module), module)) - engine_imports(module) <= GROUND


@pytest.mark.parametrize("room", ENGINE)
def test_no_module_imports_itself_by_others(room: str) -> None:
    inside = [name for name in ENGINE_MODULES if room_of(name) == room]
    graph = {name: engine_imports(name) & set(inside) for name in inside}
    assert sorted(TopologicalSorter(graph).static_order()) == inside


@pytest.mark.parametrize("module", ENGINE_MODULES)
def test_the_engine_knows_no_command_line(module: str) -> None:
    names = imports(source_of(module), module)
    assert tops(names) & {"typer", "rich", "click", "argparse"} == set()
    assert not any(name.startswith(f"{PACKAGE}.commands") for name in names)


@pytest.mark.parametrize("module", ENGINE_MODULES)
def test_the_engine_prints_nothing(module: str) -> None:
    nodes = list(ast.walk(ast.parse(source_of(module))))
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    read = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    assert (called | read) & {
        "print",
        "pprint",
        "sys.stdout",
        "sys.stderr",
        "sys.__stdout__",
        "sys.__stderr__",
    } == set()


@pytest.mark.parametrize("module", sorted(GROUND))
def test_the_demo_stands_on_nothing(module: str) -> None:
    names = imports(source_of(module), module)
    assert own(names) - GROUND == set()
    assert tops(names) & {"torch", "timm"} == set()


@pytest.mark.parametrize(
    ("library", "importers"),
    [
        (
            "timm",
            {name for name in ENGINE_MODULES if name.startswith("engine.models.")}
            | {"engine.data.torchvision_sets", "demo.train"},
        ),
        ("datasets", {"engine.data.tables"}),
        ("huggingface_hub", {"engine.files.hub"}),
        ("transformers", set()),
        ("matplotlib", {name for name in ENGINE_MODULES if name.startswith("engine.plots.")}),
        ("jinja2", {"engine.report.page"}),
        ("typer", {name for name in COMMAND_MODULES if name != "commands.console"}),
    ],
)
def test_who_alone_imports_a_library(library: str, importers: set[str]) -> None:
    found = {name for name in modules(".") if library in tops(imports(source_of(name), name))}
    assert found - importers == set()


@pytest.mark.parametrize("module", [*COMMAND_MODULES, "__main__"])
def test_commands_import_nothing_slow_by_themselves(module: str) -> None:
    names = imports(source_of(module), module, on_import=True)
    assert (
        tops(names)
        & {"torch", "timm", "numpy", "scipy", "matplotlib", "PIL", "safetensors", "jaxtyping", "pydantic", "jinja2"}
        == set()
    )
    assert not any(name.startswith((f"{PACKAGE}.engine", f"{PACKAGE}.demo")) for name in names)


@pytest.mark.parametrize("module", [name for name in COMMAND_MODULES if name != "commands.console"])
def test_the_console_alone_prints(module: str) -> None:
    nodes = list(ast.walk(ast.parse(source_of(module))))
    assert "print" not in {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    assert not any(
        ast.unparse(node) in ("sys.stdout", "sys.stderr") for node in nodes if isinstance(node, ast.Attribute)
    )


# That the reader of imports reads them


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn", {"torch.nn"}),
        ("def f():\n    import timm", {"timm"}),
        ("from .png import encode", {"nullspace_cli.engine.files.png", "nullspace_cli.engine.files.png.encode"}),
        ("from . import png", {"nullspace_cli.engine.files", "nullspace_cli.engine.files.png"}),
        ("from ...commands import app", {"nullspace_cli.commands", "nullspace_cli.commands.app"}),
        ("try:\n    import rich\nexcept ImportError:\n    pass", {"rich"}),
    ],
)
def test_imports_are_found(source: str, expected: set[str]) -> None:
    assert imports(source, "engine.files.pictures") == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch", {"torch"}),
        ("class A:\n    import torch", {"torch"}),
        ("if True:\n    import torch", {"torch"}),
        ("def f():\n    import torch", set()),
        ("if TYPE_CHECKING:\n    import torch", set()),
        ("if typing.TYPE_CHECKING:\n    import torch\nimport timm", {"timm"}),
    ],
)
def test_imports_on_import_are_told_apart(source: str, expected: set[str]) -> None:
    assert imports(source, "commands.app", on_import=True) == expected


def test_modules_are_told_from_what_they_hold() -> None:
    names = {f"{PACKAGE}.engine.files.png", f"{PACKAGE}.engine.files.png.encode", f"{PACKAGE}.engine", "torch.nn"}
    assert own(names) == {"engine.files.png"}
