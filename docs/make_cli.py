"""Write docs/cli.md from the commands' own declarations: `python docs/make_cli.py > docs/cli.md` (or `make docs`)."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from typer.models import OptionInfo

from nullspace_cli.commands.app import all_commands, app


def document() -> str:
    lines = ["# Command line", "", "Made from the commands' declarations by `make docs`; do not edit.", ""]
    lines += [str(app.info.help), "", str(app.info.epilog), ""]
    for name, callback in all_commands():
        lines += [f"## `vitnull {name}`", "", inspect.getdoc(callback) or "", ""]
        lines += ["| argument or option | meaning |", "| --- | --- |"]
        lines += [f"| {spelling} | {meaning} |" for spelling, meaning in _parameters(callback)]
        lines.append("")
    return "\n".join(lines)


def _parameters(callback: Any) -> Iterator[tuple[str, str]]:
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, info = get_args(parameter.annotation)
        text = str(info.help)
        if isinstance(parameter.default, str | int | float | Path) and not isinstance(parameter.default, bool):
            text += f" Default: `{parameter.default}`."
        if info.envvar:
            text += f" Environment: `{info.envvar}`."
        yield _spelling(name, kind, info).replace("|", "\\|"), text.replace("|", "\\|")


def _spelling(name: str, kind: Any, info: Any) -> str:
    if not isinstance(info, OptionInfo):
        return f"`{info.metavar or name.upper()}`"
    declared = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
    options = declared or [f"--{name.replace('_', '-')}"]
    return ", ".join(f"`{option}`" for option in options) + _value(kind, info.metavar)


def _value(kind: Any, metavar: str | None) -> str:
    """What follows the option: nothing for a flag, its choices, or a placeholder."""
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return f" `{'|'.join(map(str, get_args(kind)))}`"
    return f" `{metavar or getattr(kind, '__name__', 'value').upper()}`"


if __name__ == "__main__":
    print(document(), end="")
