"""The import direction, and who alone may do what: read from the source, not from running it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "nullspace_cli"
ROOT = Path(__file__).parent.parent / PACKAGE

ENGINE = (
    {
        "errors",
        "shared",
        "png",
        "protocols",
        "solvers.waiting",
        "solvers.solution",
        "solvers.feedback",
        "solvers.resize_projection",
        "metrics",
        "autograd",
        "paths",
        "random_streams",
        "text",
        "twins",
    },
    {
        "nullspace",
        "hub",
        "distributed",
        "batching",
        "images",
        "precision",
        "solvers.interior_point",
        "solvers.rounding",
        "saliency.rules",
        "saliency.compare",
        "image_search",
        "documents.files",
    },
    {"stem", "solvers.box_l2", "solvers.affine", "data", "documents.base"},
    {"solvers.bounded_least_squares", "documents.parts"},
    {"transform", "token_pixels", "documents.artefacts", "documents.commands", "documents.model_folder"},
    {"artifacts", "linear_view", "loading"},
    {"plots.figure", "checkpoints", "marks", "realisation"},
    {"models", "plots.curves", "treatment"},
    {"basis", "entry", "classes", "saliency.gradients", "saliency.transformer", "watermarking"},
    {
        "noise",
        "saliency.attention",
        "saliency.relevance",
        "saliency.cnn",
        "readings",
        "model_size",
        "native_size",
        "network",
        "imitation",
        "basis_preview",
    },
    {"plots.basis", "subjects", "saliency.methods", "learning", "stamping", "fooling"},
    {
        "evaluation",
        "saliency.faithfulness",
        "saliency.overlay",
        "learned_noise",
        "saliency.noise",
        "plots.watermarks",
        "fooling_search",
        "fooling_report",
    },
    {"plots.learning", "plots.saliency", "plots.fooling"},
    {"explaining"},
    {"demonstration"},
)
"""The engine from the ground up: a module imports what lies below its storey, and nothing beside or above it."""

GROUND = {"demo.drawing", "demo.logo", "demo.models"}
"""The embedded demo's drawings and names, on which the engine stands."""


def source_of(name: str) -> str:
    return (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")


def modules(folder: str) -> list[str]:
    """The modules of a folder of the package, as "engine.models"."""
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
    """The full names of whatever a module imports: "torch.nn", "nullspace_cli.engine.models"."""
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
STOREY = {f"engine.{name}": storey for storey, names in enumerate(ENGINE) for name in names}


def test_every_engine_module_has_its_storey() -> None:
    assert sorted(STOREY) == ENGINE_MODULES, "a new module goes into ENGINE, at the lowest storey that it can stand on"


@pytest.mark.parametrize("module", ENGINE_MODULES)
def test_the_engine_imports_downwards(module: str) -> None:
    below = {name for name, storey in STOREY.items() if storey < STOREY[module]} | GROUND
    assert own(imports(source_of(module), module)) - below == set()


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
        ("timm", {"engine.models", "engine.checkpoints", "demo.train"}),
        ("huggingface_hub", {"engine.hub"}),
        ("matplotlib", {name for name in ENGINE_MODULES if name.startswith("engine.plots.")}),
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
        tops(names) & {"torch", "timm", "numpy", "scipy", "matplotlib", "PIL", "safetensors", "jaxtyping", "pydantic"}
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
        ("from .images import Picture", {"nullspace_cli.engine.images", "nullspace_cli.engine.images.Picture"}),
        ("from . import images", {"nullspace_cli.engine", "nullspace_cli.engine.images"}),
        ("from ..commands import app", {"nullspace_cli.commands", "nullspace_cli.commands.app"}),
        ("try:\n    import rich\nexcept ImportError:\n    pass", {"rich"}),
    ],
)
def test_imports_are_found(source: str, expected: set[str]) -> None:
    assert imports(source, "engine.models") == expected


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
    names = {f"{PACKAGE}.engine.images", f"{PACKAGE}.engine.images.Picture", f"{PACKAGE}.engine", "torch.nn"}
    assert own(names) == {"engine.images"}
