"""How --help looks: options in groups, one name for each kind of value, and examples."""

from collections.abc import Iterable, Iterator
from typing import Any

from typer.core import TyperCommand

from nullspace_cli.commands.examples import EXAMPLES
from nullspace_cli.commands.exit_codes import EXIT_CODES

OTHERS = "Options"
PANELS = {
    OTHERS: (),
    "Images and data": (
        *("files_from", "nul", "column", "shard"),
        *("data", "split", "count", "reading", "transform", "skip_bad"),
    ),
    "The mark": ("mark", "text", "font", "treatment", "strength", "fit", "position", "margin", "scale", "opacity"),
    "Files": (
        *("out", "out_dir", "format_", "quality", "skip_existing", "diff", "float_", "pictures", "preview", "csv"),
        *("per_image", "plot", "results", "report", "report_size"),
    ),
    "Model and run": (
        *("model", "class_names", "checkpoint", "checkpoint_key", "pretrained", "model_kwargs", "device", "seed"),
        *("batch_size", "amp", "compile_", "offline", "workers"),
    ),
    "Output": ("json", "jsonl", "force", "quiet", "verbose", "debug", "help"),
}
"""Options by what they are about, as they are called in all commands; those that are named nowhere come first."""

ENVIRONMENT = {
    "VITNULL_MODEL": "the MODEL where none is given",
    "VITNULL_DEVICE": "--device",
    "VITNULL_CACHE": "folder for weights, in place of the hub's own",
    "HF_HUB_OFFLINE": "1: as --offline",
}


def panel_of(name: str) -> str:
    """Which group an option belongs to, by the name of its parameter."""
    return next((panel for panel, names in PANELS.items() if name in names), OTHERS)


def in_panels(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The groups that have some of these options, in their order."""
    known = list(names)
    for panel in PANELS:
        if inside := [name for name in known if panel_of(name) == panel]:
            yield panel, inside


def exit_codes() -> str:
    return f"Exit codes: {', '.join(f'{code} {words}' for code, words in EXIT_CODES.items())}."


def environment() -> str:
    return f"Environment: {', '.join(f'{name} ({words})' for name, words in ENVIRONMENT.items())}."


class Command(TyperCommand):
    """A command whose help is in groups, with its examples at the end."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        parameters = {parameter.name: parameter for parameter in self.get_params(ctx)}
        arguments = [one for one in parameters.values() if one.param_type_name == "argument"]
        if arguments:
            with formatter.section("Arguments"):
                # Without what typer makes of their types, <list[Path]> say: the names are telling.
                formatter.write_dl([(one.metavar or one.name, _record(one, ctx)[1]) for one in arguments])
        for panel, names in in_panels(name for name, one in parameters.items() if one not in arguments):
            with formatter.section(panel):
                formatter.write_dl([_record(parameters[name], ctx) for name in names])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        words = ctx.command_path.split()
        examples = next((EXAMPLES[name] for count in (2, 1) if (name := " ".join(words[-count:])) in EXAMPLES), ())
        with formatter.section("Examples"):
            for line, meaning in examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
                formatter.indent()
                formatter.write_text(meaning)
                formatter.dedent()


def _record(parameter: Any, ctx: Any) -> tuple[str, str]:
    """An option's spelling and meaning; choices without the brackets that say no more."""
    spelling, meaning = parameter.get_help_record(ctx)
    return spelling.replace("<", "").replace(">", ""), meaning
