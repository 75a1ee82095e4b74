"""Options that several commands share, as groups: a command takes a group as one parameter, Typer sees its fields."""

import ast
import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from nullspace_cli.engine.models import ModelRequest

MODEL_PANEL, OUTPUT_PANEL = "Model and run", "Output"

DEFAULT_MODEL = "vit_small_patch32_224"

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        envvar="VITNULL_MODEL",
        help="A timm name with or without tag, hf-hub:ORG/NAME, local-dir:PATH, or the embedded demo / demo-cnn.",
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write the result.")]

FilesFromOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Read more image names from FILE, one a line; - is stdin.")
]
JsonlOption = Annotated[
    bool, typer.Option("--jsonl", help="Print one JSON record a line, each as its image is finished.")
]
BasisOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A basis made by `vitnull basis` for this model.")
]
RoundingOption = Annotated[
    Literal["aware", "nearest"], typer.Option(help="aware: so that the 8-bit file keeps what the solution kept.")
]
DataOption = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="A folder of class folders, with or without train/ and val/; a flat folder of images; or demo.",
    ),
]
TransformOption = Annotated[
    Literal["model", "squash"],
    typer.Option(help="The model's own eval transform, or the paper's: squashed to the input size, nothing cropped."),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, by name; else they are an error.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that decode images. [default: as many as there are cores, up to 16]")
]


def _keyword(text: str) -> str:
    if "=" not in text.strip("="):
        raise typer.BadParameter(f"'{text}' is not of the form name=value")
    return text


@dataclass(frozen=True)
class ModelOptions:
    """Which weights, on which device."""

    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights to load instead of the published ones (.safetensors, .pth, .npz).",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--no-pretrained",
            help="Published weights, or random ones for smoke tests.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = True
    model_kwargs: Annotated[
        list[str],
        typer.Option(
            "--model-kwargs",
            metavar="K=V",
            parser=_keyword,
            help="Argument of timm.create_model; repeatable.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = field(default_factory=list)
    device: Annotated[
        str,
        typer.Option(
            envvar="VITNULL_DEVICE",
            help="auto, cpu, cuda or cuda:N. A missing device is an error.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = "auto"
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.", rich_help_panel=MODEL_PANEL)
    ] = 0
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.", rich_help_panel=MODEL_PANEL)] = (
        32
    )
    amp: Annotated[
        Literal["none", "bf16", "fp16"],
        typer.Option(help="Mixed precision of forward passes.", rich_help_panel=MODEL_PANEL),
    ] = "none"
    offline: Annotated[
        bool, typer.Option("--offline", help="Use cached weights only.", rich_help_panel=MODEL_PANEL)
    ] = False

    def request(self, name: str, device: str | None = None) -> "ModelRequest":
        """The request for a model, on another device than was asked for if one is given."""
        from nullspace_cli.engine.models import ModelRequest

        return ModelRequest(
            name=name,
            checkpoint=self.checkpoint,
            pretrained=self.pretrained,
            kwargs=dict(_parse_keyword(text) for text in self.model_kwargs),
            device=device or self.device,
            amp=self.amp,
            batch_size=self.batch_size,
            offline=self.offline,
            seed=self.seed,
        )


@dataclass(frozen=True)
class OutputOptions:
    """How results and messages are given."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT_PANEL)] = False
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.", rich_help_panel=OUTPUT_PANEL)] = (
        False
    )
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Errors only on stderr.", rich_help_panel=OUTPUT_PANEL)
    ] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.", rich_help_panel=OUTPUT_PANEL)] = (
        False
    )
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=OUTPUT_PANEL)] = False


def _parse_keyword(text: str) -> tuple[str, Any]:
    """`img_size=224` to ("img_size", 224): a Python literal where it is one, else the text itself."""
    name, _, value = text.partition("=")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def artifact_stem(model: str) -> str:
    """A file name for a model's name: hf-hub:org/name becomes org_name, local-dir:path/to/name becomes name."""
    if model.startswith("local-dir:"):
        return Path(model.removeprefix("local-dir:")).resolve().name
    return model.removeprefix("hf-hub:").strip("/").replace("/", "_").replace("\\", "_")


def expand_groups(run: Callable[..., None]) -> Callable[..., None]:
    """Give `run` a signature in which every parameter that is a group of options is replaced by the group's fields.

    The parameter `console` is the boundary's to pass and is hidden.
    """
    signature = inspect.signature(run)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            parameters += [_parameter(member) for member in fields(parameter.annotation)]
        elif name != "console":
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(run)
    def expanded(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{member.name: values.pop(member.name) for member in fields(group)})
        run(**values)

    vars(expanded)["__signature__"] = signature.replace(parameters=parameters)
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _parameter(member: Field[Any]) -> inspect.Parameter:
    default = member.default if member.default_factory is MISSING else member.default_factory()
    return inspect.Parameter(member.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=member.type)
