"""Write docs/cli.md and the man page from the commands' own declarations: `python docs/make_cli.py` (or `make docs`).

With --check nothing is written, and the exit code is 1 if a file is not what would be written.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from typer.models import OptionInfo

from nullspace_cli import __version__
from nullspace_cli.commands.app import all_commands, app
from nullspace_cli.commands.examples import EXAMPLES
from nullspace_cli.commands.help_pages import environment, exit_codes, in_panels

FOLDER = Path(__file__).parent


class Entry:
    """One argument or option of a command, in words."""

    def __init__(self, parameter: inspect.Parameter) -> None:
        self.kind, self.info = get_args(parameter.annotation)
        self.default = parameter.default
        self.is_option = isinstance(self.info, OptionInfo)
        declared = [word for word in (self.info.default, *(self.info.param_decls or ())) if isinstance(word, str)]
        self.names = (declared or [f"--{parameter.name.replace('_', '-')}"]) if self.is_option else []

    @property
    def value(self) -> str:
        """What follows the option: nothing for a flag, its choices, or a placeholder."""
        kind = self.kind
        if isinstance(kind, UnionType):
            kind = next(part for part in get_args(kind) if part is not type(None))
        if kind is bool:
            return ""
        return "|".join(map(str, get_args(kind))) if get_origin(kind) is Literal else str(self.info.metavar)

    @property
    def meaning(self) -> str:
        text, default = str(self.info.help), self.default
        if isinstance(default, str | int | float | Path) and not isinstance(default, bool) and str(default):
            text += f" [default: {default}]"
        if self.info.envvar:
            text += f" [env var: {self.info.envvar}]"
        return text


def _groups(callback: Callable[..., Any]) -> Iterator[tuple[str, list[Entry]]]:
    """Arguments, then options by what they are about."""
    entries = {name: Entry(parameter) for name, parameter in inspect.signature(callback).parameters.items()}
    if arguments := [entry for entry in entries.values() if not entry.is_option]:
        yield "Arguments", arguments
    for panel, names in in_panels(name for name, entry in entries.items() if entry.is_option):
        yield panel, [entries[name] for name in names]


# The page of the documentation


def reference() -> str:
    lines = ["# Command line", "", "Made from the commands' declarations by `make docs`; do not edit.", ""]
    lines += [str(app.info.help), "", exit_codes(), "", environment(), ""]
    for name, callback in all_commands():
        lines += [f"## `vitnull {name}`", "", _unmarked(inspect.getdoc(callback) or ""), ""]
        lines += [f"    {line:<60}  # {meaning}" for line, meaning in EXAMPLES[name]]
        for panel, entries in _groups(callback):
            lines += ["", f"| {panel} | |", "| --- | --- |"]
            lines += [f"| {_spelled(entry)} | {_unmarked(_escaped(entry.meaning))} |" for entry in entries]
        lines.append("")
    return "\n".join(lines)


def _spelled(entry: Entry) -> str:
    words = ", ".join(f"`{name}`" for name in entry.names)
    return _escaped(f"{words} `{entry.value}`".strip() if entry.value else words)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _unmarked(text: str) -> str:
    """Text whose <stem> is no tag of HTML."""
    return text.replace("<", "&lt;")


# The man page


def man_page() -> str:
    lines = [f'.TH VITNULL 1 "" "vitnull {__version__}"', ".SH NAME", _roff(f"vitnull - {app.info.help}")]
    lines += [".SH SYNOPSIS", r".B vitnull", r"\fICOMMAND\fR [\fIOPTION\fR...]"]
    for name, callback in all_commands():
        lines += [f".SH VITNULL {name.upper()}"]
        for paragraph in (inspect.getdoc(callback) or "").split("\n\n"):
            lines += [".PP", _roff(" ".join(paragraph.split()))]
        for panel, entries in _groups(callback):
            lines.append(f".SS {panel}")
            for entry in entries:
                names = ", ".join(rf"\fB{_roff(option)}\fR" for option in entry.names)
                lines += [".TP", f"{names} \\fI{_roff(entry.value)}\\fR".strip(), _roff(entry.meaning)]
        lines.append(".SS Examples")
        for line, meaning in EXAMPLES[name]:
            lines += [".TP", rf"\fB{_roff(line)}\fR", _roff(meaning)]
    lines += [".SH EXIT STATUS", _roff(exit_codes()), ".SH ENVIRONMENT", _roff(environment())]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    r"""Text in which nothing is a request: neither a backslash, nor a hyphen, nor a dot at a line's start."""
    plain = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return rf"\&{plain}" if plain.startswith(".") else plain


FILES = {"cli.md": reference, "vitnull.1": man_page}


def main(check: bool) -> int:
    stale = False
    for name, made in FILES.items():
        file, text = FOLDER / name, made()
        if check:
            stale |= not file.exists() or file.read_text(encoding="utf-8") != text
        else:
            file.write_text(text, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
