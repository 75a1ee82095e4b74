"""The only place that prints. stdout carries the result alone; everything else goes to stderr."""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from nullspace_cli import __version__
from nullspace_cli.commands.flags_in_errors import in_flags
from nullspace_cli.commands.options import OutputOptions

Side = Literal["left", "right"]

WIDE = 100_000
"""Columns of a terminal on which no table is cut off."""


class Described(Protocol):
    """A model, loaded or not."""

    def describe(self) -> dict[str, Any]: ...


class Console:
    """Where one run of a command puts its result and its messages.

    Attributes:
        names: what files, or the beginnings of their names, are called that stand in for others.
    """

    def __init__(self, options: OutputOptions) -> None:
        self.options = options
        self.names: dict[str, str] = {}
        self._stdout_is_taken = False
        self.started = time.monotonic()

    def line(self, text: str = "") -> None:
        """A line of the human result, with nothing in it that a terminal would obey."""
        self._out(_visible(self.called(text)))

    def _out(self, text: str) -> None:
        """To stdout; a character that its encoding lacks is shown by its code."""
        if self._stdout_is_taken:
            self.note(text)
            return
        if sys.stdout is None:  # the process was started with it closed
            return
        encoding = sys.stdout.encoding
        with _to_stdout():
            sys.stdout.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))

    def leave_stdout(self) -> None:
        """Leave stdout to a file that will be sent there; what people are told goes to stderr."""
        self._stdout_is_taken = True

    @property
    def on_terminal(self) -> bool:
        """Whether somebody looks at stdout."""
        return sys.stdout is not None and sys.stdout.isatty()

    def send(self, file: Path) -> None:
        """A file's bytes, to stdout."""
        if sys.stdout is None:
            return
        with _to_stdout(), file.open("rb") as source:
            shutil.copyfileobj(source, sys.stdout.buffer)
            sys.stdout.buffer.flush()

    def called(self, value: Any) -> Any:
        """Texts, and documents of them, with the names that people know."""
        if isinstance(value, str):
            if self.names or ":/" in value:
                from nullspace_cli.engine.files.stand_ins import by_known_names

                return by_known_names(value, self.names)
            return value
        if isinstance(value, Mapping):
            return {self.called(key): self.called(part) for key, part in value.items()}
        return [self.called(part) for part in value] if isinstance(value, list | tuple) else value

    def flush(self) -> None:
        if sys.stdout is None:
            return
        with _to_stdout():
            sys.stdout.flush()

    def json(self, document: Mapping[str, Any]) -> None:
        """The machine's result: one JSON document, as it is declared. Whatever else there is in it is a bug."""
        from nullspace_cli.engine.documents.commands.registry import checked_document

        self._out(checked_document(document))

    def result(self, document: Mapping[str, Any], render: Callable[["Console", Mapping[str, Any]], None]) -> None:
        """What a command has found: its JSON document if --json asks for it, else as `render` shows it to people."""
        if self.options.json:
            self.json(document)
        else:
            render(self, document)

    def record(self, name: str, record: Mapping[str, Any]) -> None:
        """One line of a machine's result, sent off at once; `name` is that of its declaration."""
        from nullspace_cli.engine.documents.commands.registry import checked_line

        self._out(checked_line(name, self.called(record)))
        self.flush()

    @contextmanager
    def progress(self, doing: str, what: str, total: int) -> Iterator[Callable[[], None]]:
        """What goes on, on a terminal: a bar with rate and time left; of a single thing, at which stage it is.

        Call what it gives for each item that is done.

        Args:
            doing: as "stamping".
            what: that is counted.
        """
        if self.options.quiet or not total or not sys.stderr.isatty():
            yield lambda: None
            return
        from rich.console import Console as Terminal
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            SpinnerColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.text import Text

        from nullspace_cli.engine.runtime.stages import stages_told

        ended: list[float] = []  # when each was

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(pace(what, total, ended, task.elapsed or 0.0))

        counted = (BarColumn(), MofNCompleteColumn(), Rate()) if total > 1 else ()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), *counted, TimeElapsedColumn())
        with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
            task = bar.add_task(doing, total=total)

            def tell(stage: str) -> None:
                bar.update(task, description=f"{doing}: {_visible(self.called(stage))}")

            def advance() -> None:
                bar.advance(task)
                ended.append(bar.tasks[0].elapsed or 0.0)

            with stages_told(tell) if total == 1 else nullcontext():
                yield advance

    def table(self, rows: Iterable[tuple[str, object]]) -> None:
        """Names and values in two columns; rows whose value is None are left out."""
        self._columns([(name, value) for name, value in rows if value is not None], ("left", "left"))

    def grid(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table with a header; the first column is aligned left, the others right."""
        self._columns((header, *rows), ["left", *cast(list[Side], ["right"] * (len(header) - 1))])

    def _columns(self, rows: Sequence[Sequence[object]], sides: Sequence[Side]) -> None:
        """By rich, which knows that a Chinese letter is as wide as two others; as wide as need be, on no terminal."""
        from rich.console import Console as Terminal
        from rich.table import Table
        from rich.text import Text

        if not rows:
            return
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        for side in sides:
            table.add_column(justify=side, no_wrap=True)
        for row in rows:
            table.add_row(*(Text(_visible(cell)) for cell in row))
        terminal = Terminal(width=WIDE, color_system=None)
        with terminal.capture() as captured:
            terminal.print(table)
        for line in captured.get().splitlines():
            self.line(line.rstrip())

    def note(self, text: str) -> None:
        """What is going on, unless --quiet."""
        if not self.options.quiet:
            print(_visible(in_flags(self.called(text))), file=sys.stderr, flush=True)  # noqa: T201

    def detail(self, text: str) -> None:
        """What is going on, if --verbose."""
        if self.options.verbose:
            self.note(text)

    def warn(self, text: str) -> None:
        self.note(f"vitnull: warning: {text}")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Pass on what the engine says by its logger, for want of a caller at hand: once, as often as it may say it."""
        told = set[str]()

        class Said(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:  # noqa: N805 - self is the console
                text = record.getMessage()
                if record.levelno >= logging.WARNING:
                    self.warn(text)
                elif text not in told:  # a model that is loaded twice
                    told.add(text)
                    (self.note if record.levelno >= logging.INFO else self.detail)(text)

        logger, handler = logging.getLogger("nullspace_cli"), Said()
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)

    def error(self, text: str) -> None:
        print(f"vitnull: error: {_visible(in_flags(self.called(text)))}", file=sys.stderr, flush=True)  # noqa: T201

    def trace(self, text: str) -> None:
        """Where an error was raised: many lines."""
        print(_visible(text, lines=True), file=sys.stderr, flush=True)  # noqa: T201

    def document(self, command: str, model: Described, seed: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON document of a command: the keys that all share, then its own.

        It is checked here, before it or anything that is made from it is written.
        """
        from nullspace_cli.engine.documents.commands.registry import checked_document

        document = {
            "schema": f"vitnull/{command}/1",
            **model.describe(),
            "seed": seed,
            "seconds": round(time.monotonic() - self.started, 3),
            "versions": {"vitnull": __version__, "torch": version("torch"), "timm": version("timm")},
            **self.called(body),
        }
        checked_document(document)
        return document


def pace(what: str, total: int, ended: Sequence[float], now: float) -> str:
    """How many are done a second and how long the rest takes, by all that is done and not by the last few: several
    threads end in bursts. Nothing before the first is done.

    Args:
        ended: when each was done; as `now`, in seconds from the beginning.
    """
    if not ended or not ended[-1]:
        return ""
    each = ended[-1] / len(ended)
    left = max(0, round((total - len(ended)) * each - (now - ended[-1])))
    speed = f"{1 / each:.1f} {what}/s" if each <= 1 else f"{each:.1f} s each"
    return f"{speed}, {left // 60}:{left % 60:02d} left"


def _visible(value: object, *, lines: bool = False) -> str:
    """Names of files, classes and models, and what libraries say, may hold escapes that a terminal would obey."""
    from nullspace_cli.engine.text import visible

    return visible(str(value), lines=lines)


@contextmanager
def _to_stdout() -> Iterator[None]:
    """A full disk behind stdout is a failure, not a bug; a reader that has closed its end is neither."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        from nullspace_cli.engine.errors import VitnullError

        discard_stdout()
        raise VitnullError(
            f"Cannot write the result to stdout: {error.strerror}. Files that were written are complete."
        ) from error


def discard_stdout() -> None:
    """Send what is still buffered nowhere; Python would fail once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fill_closed_streams() -> None:
    """Put /dev/null in the place of the streams that the process was started without.

    The next files that are opened would else have their numbers, and get what libraries mean for stdout and stderr. For
    want of a stderr, Python and Typer would send messages to stdout.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lives


def flush_streams() -> None:
    """Send off what is still buffered, as far as anybody takes it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # it is full, closed, or None
            stream.flush()
