"""- on the command line, and what the shell makes of <(...): files that stand in for stdin and stdout."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.file_kinds import STREAM, FileKind
from nullspace_cli.commands.options import image_name
from nullspace_cli.commands.outputs import STAND_INS

GIB = 2**30
_ENDINGS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}
"""Of images of stdin, by Pillow's names: what results are called by, and whether a JPEG becomes one."""


class Streams:
    """The files that stand in for streams, while a command runs; nothing of them is left."""

    def __init__(self, console: Console) -> None:
        self._console, self._stack = console, ExitStack()
        self._stdout: Path | None = None

    def __enter__(self) -> "Streams":
        return self

    def __exit__(self, *error: object) -> None:
        STAND_INS.discard(self._stdout)
        self._stack.close()

    def stand_in(self, run: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a command's options, with files in place of streams.

        Raises:
            typer.BadParameter: two of them want one stream, or there is nothing to read or nobody to take a picture.
        """
        groups = {name: value for name, value in values.items() if is_dataclass(value) and not isinstance(value, type)}
        grouped = {
            name: {part.name: getattr(group, part.name) for part in fields(group)} for name, group in groups.items()
        }
        values = {**values, **{part: value for group in grouped.values() for part, value in group.items()}}
        parsers = dict(_parsers(run))
        images = [name for name, parser in parsers.items() if parser is image_name and values.get(name)]
        given = [path for name in images for path in _listed(values[name])]
        piped = list(dict.fromkeys(path for path in given if _is_piped(path)))
        written = {name: kind for name, kind in _kinds(parsers) if values.get(name) == STREAM}
        if piped or written:
            _require_one_process()
        if STREAM in piped and values.get("files_from") == STREAM:
            raise typer.BadParameter("stdin is either the list or an image", param_hint="--files-from")
        files = {path: self._spooled(path) for path in piped}
        opened = dict(values)
        for name in images if files else ():
            value = values[name]
            opened[name] = (
                [files.get(path, path) for path in value] if isinstance(value, list) else files.get(value, value)
            )
        for name in images:
            if isinstance(opened[name], Path):
                opened[name] = self._at_hand(opened[name])
        if len(written) > 1:
            raise typer.BadParameter(f"{' and '.join(sorted(map(_flag, written)))} cannot both be stdout")
        for name, kind in written.items():
            opened[name] = self._for_stdout(name, kind, values, list(files.values()) or given)
        for name, parts in grouped.items():
            opened[name] = replace(groups[name], **{part: opened.pop(part) for part in parts})
        return opened

    def send(self) -> None:
        """Pass on what has been written in stdout's place."""
        if self._stdout and self._stdout.exists():
            self._console.send(self._stdout)

    def _folder(self) -> Path:
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="vitnull-")))

    def _spooled(self, path: Path) -> Path:
        """An image that can be read once, as a file.

        Raises:
            typer.BadParameter: there is none.
        """
        if path == STREAM and sys.stdin is None:
            raise typer.BadParameter("cannot read the image: stdin is closed")
        if path == STREAM and sys.stdin.isatty():
            raise typer.BadParameter("- is stdin, and that is the terminal; pipe an image into it, or name a file")
        file = self._folder() / "stdin"
        with ExitStack() as stack, file.open("wb") as target:
            source = sys.stdin.buffer if path == STREAM else stack.enter_context(path.open("rb"))
            while data := source.read(2**20):
                target.write(data)
                if target.tell() > GIB:
                    raise typer.BadParameter(f"more than 1 GiB came from {_called(path)}; no image is that large")
        named = file.rename(file.with_suffix(_ending_of(file)))
        self._console.names[str(named)] = _called(path)
        return named

    def _at_hand(self, path: Path) -> Path:
        """An image on the disk; of several, which a list may name, each is fetched when its turn comes."""
        from nullspace_cli.engine.files.stand_ins import at_hand

        return self._stack.enter_context(at_hand(path, self._console.names))

    def _for_stdout(self, name: str, kind: FileKind, values: Mapping[str, Any], sources: list[Path]) -> Path:
        """The file whose content is to go to stdout."""
        if self._console.options.json or values.get("jsonl"):
            raise typer.BadParameter("stdout has the JSON already; name a file", param_hint=_flag(name))
        if self._console.on_terminal and not kind.text:
            said = "- is stdout, and that is the terminal; send it elsewhere, or name a file"
            raise typer.BadParameter(said, param_hint=_flag(name))
        self._console.leave_stdout()
        ending = kind.endings[0]
        if kind.chosen and (asked := values.get("format_")):
            from nullspace_cli.commands.image_files import format_of

            ending = f".{format_of(sources[0], asked) if sources else asked}"
        self._stdout = self._folder() / f"stdout{ending}"
        STAND_INS.add(self._stdout)
        self._console.names[str(self._stdout)] = "-"
        return self._stdout


def _parsers(run: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Those of a command's options, of its groups of options, too."""
    for name, parameter in inspect.signature(run).parameters.items():
        group = parameter.annotation
        members = {part.name: part.type for part in fields(group)} if is_dataclass(group) else {name: group}
        for member, annotation in members.items():
            for part in get_args(annotation)[1:]:
                yield member, getattr(part, "parser", None)


def _kinds(parsers: Mapping[str, Any]) -> Iterator[tuple[str, FileKind]]:
    for name, parser in parsers.items():
        kind = parser.keywords.get("kind") if isinstance(parser, functools.partial) else None
        if isinstance(kind, FileKind):
            yield name, kind


def _listed(value: Path | list[Path]) -> list[Path]:
    return value if isinstance(value, list) else [value]


def _is_piped(path: Path) -> bool:
    """Whether it is stdin or, as the shell writes <(...), a pipe that is open already and not one with a name."""
    from nullspace_cli.engine.files.paths import is_stream

    return path == STREAM or (path.parent in (Path("/dev/fd"), Path("/proc/self/fd")) and is_stream(path))


def _called(path: Path) -> str:
    return "stdin" if path == STREAM else str(path)


def _flag(name: str) -> str:
    return f"--{name.strip('_').replace('_', '-')}"


def _ending_of(file: Path) -> str:
    """By what it holds; none, where others are to say what is wrong with it."""
    from nullspace_cli.engine.errors import ImageError
    from nullspace_cli.engine.files.image_opening import opened

    with file.open("rb") as start:
        if b"<svg" in start.read(1024):
            return ".svg"
    with suppress(ImageError), opened(file) as image:
        return _ENDINGS.get(image.format or "", "")
    return ""


def _require_one_process() -> None:
    from nullspace_cli.engine.runtime.launch import read_launch

    if (group := read_launch().group) and group.world > 1:
        raise typer.BadParameter(f"{group.world} processes share no stdin and no stdout; name files in place of -")
