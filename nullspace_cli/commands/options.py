"""Options that several commands share, as groups: a command takes a group as one parameter, Typer sees its fields."""

import ast
import functools
import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from nullspace_cli.engine.models.model_request import ModelRequest

DEFAULT_MODEL = "vit_small_patch32_224"

MANY = 1_000_000
"""The most of what could as well be without a limit, so that every number fits whatever it is multiplied by."""


def number(
    *names: str,
    least: float = 0,
    most: float = MANY,
    above: bool = False,
    infinite: bool = False,
    kind: type[float] = float,
    metavar: str = "X",
    **details: Any,
) -> Any:
    """An option that takes a finite number from `least` to `most`. All do: typer's own let nan and inf through.

    Args:
        above: whether `least` itself is too little.
        infinite: whether inf is allowed, too.
        kind: float or int.
    """
    parse = functools.partial(read_number, least=least, most=most, above=above, infinite=infinite, kind=kind)
    vars(parse)["__name__"] = kind.__name__  # which older versions of typer ask for
    low, high = None if above else least, None if most == MANY else most  # for --help alone
    return typer.Option(*names, parser=parse, min=low, max=high, metavar=metavar, **details)


def whole(*names: str, least: int = 1, most: int = MANY, metavar: str = "N", **details: Any) -> Any:
    """An option that takes a whole number."""
    return number(*names, least=least, most=most, kind=int, metavar=metavar, **details)


def read_number(
    text: Any,
    *,
    least: float,
    most: float,
    above: bool = False,
    infinite: bool = False,
    kind: type[float] = float,
    words: str = "",
    option: str | None = None,
) -> float:
    """The number that a text spells, or typer.BadParameter; `words` are what is allowed besides.

    Args:
        option: whose value it is, where typer does not know.
    """
    try:
        value = kind(text)
    except (ValueError, OverflowError):
        value = math.nan
    if (least < value if above else least <= value) and (value <= most or (infinite and value == math.inf)):
        return value
    noun = "a whole number" if kind is int else "a number"
    low, high = (f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound in (least, most))
    bounds = f"above {low}, at most {high}" if above else f"from {low} to {high}"
    raise typer.BadParameter(
        f"'{text}' is not {words}{noun} {bounds}{', or inf' if infinite else ''}", param_hint=option
    )


def given(text: str) -> str:
    """A parser of options: a name that is not empty, as the shell makes it of a variable that is not set."""
    if not text:
        raise typer.BadParameter("the name is empty")
    return text


def path_name(text: str | Path) -> Path:
    """A parser of options: the path that a text names."""
    return Path(given(str(text)))


def image_name(text: str | Path) -> Path:
    """A parser of arguments: the path of an image; - is stdin, for which a file will stand in."""
    return path_name(text)


def file_name(text: str | Path) -> Path:
    """A parser of options: the path of a file to write, which a folder's name is not."""
    path = path_name(text)
    if str(text).endswith(("/", "\\", "/.")) or path.name in ("", ".."):
        raise typer.BadParameter(f"{text} is the name of a folder; give that of a file")
    return path


def _model_names(incomplete: str) -> list[str]:
    """What a shell offers of models' names."""
    from nullspace_cli.engine.models.timm_names import known_names

    return [name for name in known_names() if name.startswith(incomplete)]


NAMES_MODEL: Any = {"metavar": "MODEL", "autocompletion": _model_names}
"""Of an argument or an option that takes a model."""

ModelArgument = Annotated[
    str,
    typer.Argument(
        **NAMES_MODEL,
        envvar="VITNULL_MODEL",
        help="A timm name with or without tag, hf-hub:ORG/NAME, local-dir:PATH, or the embedded demo / demo-cnn.",
    ),
]
FilesFromOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=path_name, help="Read more image names from FILE, one a line; - is stdin."),
]
NulOption = Annotated[
    bool, typer.Option("-0", help="The names of --files-from end with NULs, as find -print0 writes them.")
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME",
        parser=given,
        help="Which images of a sample are meant: a tar file's KEY.NAME, or a table's column. Repeatable. "
        "[default: those with the shortest names; the first column]",
    ),
]
JsonlOption = Annotated[
    bool, typer.Option("--jsonl", help="Print one JSON record a line, each as its image is finished.")
]
BasisOption = Annotated[
    Path | None, typer.Option(metavar="FILE", parser=path_name, help="A basis made by `vitnull basis` for this model.")
]
RoundingOption = Annotated[
    Literal["aware", "nearest"], typer.Option(help="aware: so that the 8-bit file keeps what the solution kept.")
]
DATA_HELP = (
    "A folder of images or of class folders, tar or Parquet files, hfds/NAME, torch/NAME:FOLDER, s3://...; or demo."
)
DataOption = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        parser=given,
        help=DATA_HELP,
    ),
]
TransformOption = Annotated[
    Literal["model", "squash"],
    typer.Option(help="The model's own eval transform, or the paper's: squashed to the input size, nothing cropped."),
]
ReadingOption = Annotated[
    Literal["timm", "shown"],
    typer.Option(
        help="How the model is given a file. timm: as the loaders of timm and torchvision do, pixels as they are "
        "stored, without alpha. shown: as people see it, turned upright and on white."
    ),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, by name; else they are an error.")
]
WorkersOption = Annotated[
    int | None, whole(most=1024, help="Threads that decode images. [default: as many as there are cores, up to 16]")
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
            parser=path_name,
            help="Weights to load instead of the published ones: .safetensors, .pth, .pt, .ckpt, .bin, .npz, or the "
            ".index.json of several files.",
        ),
    ] = None
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            parser=given,
            help="Which of the dictionaries in that file, as teacher or state_dict.net. [default: the one that fits]",
        ),
    ] = None
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--no-pretrained",
            help="Published weights, or random ones for smoke tests.",
        ),
    ] = True
    class_names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path_name,
            help="Names of the classes, for models that have none: a JSON list, {index: name}, or a name a line.",
        ),
    ] = None
    model_kwargs: Annotated[
        list[str],
        typer.Option(
            "--model-kwargs",
            metavar="K=V",
            parser=_keyword,
            help="Argument of timm.create_model; repeatable.",
        ),
    ] = field(default_factory=list)
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE",
            envvar="VITNULL_DEVICE",
            help="auto, cpu, cuda or cuda:N. A missing device is an error.",
        ),
    ] = "auto"
    seed: Annotated[int, whole(least=0, most=2**32 - 1, help="Seed of everything random.")] = 0
    batch_size: Annotated[
        int | None,
        whole(help="Images in one forward pass. [default: 32; of a data set on a GPU, as many as fit into its memory]"),
    ] = None
    amp: Annotated[
        Literal["none", "bf16", "fp16"],
        typer.Option(help="Mixed precision of forward passes."),
    ] = "none"
    offline: Annotated[bool, typer.Option("--offline", help="Use cached weights only.")] = False

    def files(self, name: str) -> list[Path]:
        """The files that a model's weights and configuration are read from, as far as they are the user's own."""
        from nullspace_cli.demo.models import DEMO_MODELS, WEIGHTS

        found = [*self.weights_files(), *([self.class_names] if self.class_names else [])]
        if name.startswith("local-dir:"):
            with suppress(OSError, ValueError):  # for whoever builds the model to report
                found += Path(name.removeprefix("local-dir:")).iterdir()
        return [*found, *(WEIGHTS / demo.weights for demo in DEMO_MODELS.values())]

    def weights_files(self) -> list[Path]:
        """The files of --checkpoint, if there is one."""
        if self.checkpoint is None:
            return []
        from nullspace_cli.engine.models.weights_file import files_of

        return files_of(self.checkpoint)

    def published(self, name: str) -> "ModelRequest":
        """The request for a further model, with weights of its own."""
        return replace(
            self, checkpoint=None, checkpoint_key=None, class_names=None, pretrained=True, model_kwargs=[]
        ).request(name)

    def request(self, name: str, device: str | None = None) -> "ModelRequest":
        """The request for a model, on another device than was asked for if one is given."""
        from nullspace_cli.engine.models.model_request import ModelRequest

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
            checkpoint_key=self.checkpoint_key,
            class_names=self.class_names,
        )


@dataclass(frozen=True)
class OutputOptions:
    """How results and messages are given."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only on stderr.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False

    def require_one_form(self, *, jsonl: bool) -> None:
        """Of a command that can print lines as well."""
        if jsonl and self.json:
            raise typer.BadParameter("use --json or --jsonl, not both", param_hint="--jsonl")


def _parse_keyword(text: str) -> tuple[str, Any]:
    """`img_size=224` to ("img_size", 224): a Python literal where it is one, else the text itself."""
    name, _, value = text.partition("=")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # as its documentation has them
        return name, value


def artifact_stem(model: str) -> str:
    """A file name for a model's name: hf-hub:org/name becomes org_name, local-dir:path/to/name becomes name."""
    if model.startswith("local-dir:"):
        from nullspace_cli.engine.files.paths import real

        return Path(real(Path(model.removeprefix("local-dir:")))).name
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
