"""The Typer application: what commands there are, and the one boundary where errors become exit codes."""

import errno
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from nullspace_cli import __version__
from nullspace_cli.commands import basis, check, claim, demo, evaluate, explain, fool, learn_noise, watermark
from nullspace_cli.commands.console import Console, discard_stdout, fill_closed_streams, flush_streams
from nullspace_cli.commands.exit_codes import INTERRUPTED, TERMINATED, exit_code_on_file
from nullspace_cli.commands.help_pages import Command, environment, exit_codes
from nullspace_cli.commands.options import OutputOptions, expand_groups
from nullspace_cli.commands.streams import Streams

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Of all that typer says of arguments; where it lives depends on typer's version."""


@contextmanager
def _quoted_visibly() -> Iterator[None]:
    """What a usage error quotes of the arguments, with nothing in it that a terminal would obey."""
    try:
        yield
    except UsageError as error:
        from nullspace_cli.engine.text import visible

        vars(error)["message"] = visible(str(vars(error).get("message") or ""))
        raise


class Commands(TyperGroup):
    """All commands; the one place where usage errors pass."""

    def make_context(self, *arguments: Any, **details: Any) -> Any:
        with _quoted_visibly():
            return super().make_context(*arguments, **details)

    def invoke(self, *arguments: Any, **details: Any) -> Any:
        with _quoted_visibly():
            return super().invoke(*arguments, **details)


app = typer.Typer(
    name="vitnull",
    cls=Commands,
    help="The nullspace of vision transformers: what changes the picture and not the network's answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the plain help comes up in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{exit_codes()}\n\n{environment()}",
)


def _print_version(asked: bool) -> None:
    if asked:
        _bounded(lambda *, console, output: console.line(f"vitnull {__version__}"), shared=True)(output=OutputOptions())


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    pass


def _bounded(run: Callable[..., int | None], *, shared: bool) -> Callable[..., None]:
    """The error boundary: whatever a command raises ends as one message on stderr and the right exit code.

    Args:
        shared: whether several processes can share the work.
    """

    @functools.wraps(run)
    def bounded(*arguments: Any, output: OutputOptions, **options: Any) -> None:
        console = Console(output)
        try:
            with console.listening():
                if not shared:
                    _require_one_process()
                with Streams(console) as streams:
                    options = streams.stand_in(run, options)
                    code = run(*arguments, console=console, output=output, **options) or 0
                    streams.send()
            console.flush()
        except KeyboardInterrupt:
            console.error("Interrupted; nothing is left half-written.")
            code = INTERRUPTED
        except BrokenPipeError:
            discard_stdout()  # the reader has had enough, as `head` does
            code = 0
        except Exception as error:  # noqa: BLE001 - this is the boundary; bugs are raised again
            code = _explain(error, console, debug=output.debug)
        raise typer.Exit(code)

    return bounded


def _explain(error: Exception, console: Console, *, debug: bool) -> int:
    """Say what an error means and return its exit code; a bug is raised again, with its traceback."""
    from nullspace_cli.engine.errors import VitnullError, first_line, is_out_of_memory

    if isinstance(error, VitnullError):
        said, code = str(error), error.exit_code
    elif is_out_of_memory(error):
        advice = "Try a smaller --batch-size, --device cpu, or a smaller model."
        said, code = f"Out of memory. {advice} ({first_line(error)})", 1
    else:
        raise error
    if debug:
        console.trace("".join(traceback.format_exception(error)).rstrip())
    console.error(said)
    return code


def _require_one_process() -> None:
    from nullspace_cli.engine.runtime.launch import read_launch

    read_launch().require_alone()


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # Slurm sends one to each process, and torchrun passes on its own
    raise SystemExit(TERMINATED)  # so that temporary files are removed on the way out


claims = typer.Typer(
    name="claim",
    help="Whose model is this? Commit to a model's nullspace, and hold suspects against it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _commands(incomplete: str) -> list[str]:
    return sorted({name.split()[0] for name, _ in all_commands() if name.startswith(incomplete)})


def _register(run: Callable[..., int | None], name: str, *, shared: bool = False, group: typer.Typer = app) -> None:
    group.command(name, cls=Command)(expand_groups(_bounded(run, shared=shared)))


def all_commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The names of all commands, as they are typed, with what they run."""
    for place, name in ((app, ""), *((group.typer_instance, f"{group.name} ") for group in app.registered_groups)):
        for command in place.registered_commands if place else ():
            assert command.callback is not None
            yield f"{name}{command.name}", command.callback


_register(basis.basis, "basis")
_register(learn_noise.learn_noise, "learn-noise", shared=True)
_register(evaluate.evaluate, "eval", shared=True)
_register(watermark.watermark, "watermark", shared=True)
_register(check.check, "check")
_register(fool.fool, "fool")
_register(explain.explain, "explain", shared=True)
_register(claim.commit, "commit", group=claims)
_register(claim.probes, "probes", group=claims)
_register(claim.check, "check", group=claims)
app.add_typer(claims, name="claim")
_register(demo.demo, "demo")


@app.command("help", cls=Command)
def _help(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", autocompletion=_commands, help="As basis, or claim check."),
    ] = None,
) -> None:
    """Say what a command does and takes."""
    typer.main.get_command(app).main([*(words or ()), "--help"], prog_name="vitnull")


def main() -> None:
    """Run the command line."""
    fill_closed_streams()
    signal.signal(signal.SIGTERM, _terminated)
    # torch's threads else spin while they wait, and a machine with other work to do slows down sixfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with exit_code_on_file():
            app()
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        discard_stdout()  # Typer's own: help, and the script of a completion
        Console(OutputOptions()).error(f"Cannot write to stdout: {error.strerror}.")
        sys.exit(1)
    except SystemExit as end:
        if end.code in (INTERRUPTED, TERMINATED):
            _leave(end.code)
        raise


def _leave(code: int) -> NoReturn:
    """End at once. Python would wait for threads that solve something, longer than schedulers do before they kill."""
    from nullspace_cli.engine.files.writing import give_up

    flush_streams()
    give_up()
    os._exit(code)
