"""What a file that is written is, by its ending; an ending that says another thing is refused."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from nullspace_cli.commands.options import file_name

STREAM = Path("-")
"""As it is typed for stdin where a file is read, and for stdout where one is written."""


@dataclass(frozen=True)
class FileKind:
    """
    Attributes:
        words: as in "is ...".
        endings: the usual one first.
        chosen: whether the ending chooses the format, so that it has to be one of these.
        text: whether a terminal may show it.
    """

    words: str
    endings: tuple[str, ...]
    chosen: bool = False
    text: bool = False


ARCHIVES = (".tar", ".parquet")
"""Of files that hold many images."""
PLOT = FileKind("a plot", (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".svg", ".pdf"), chosen=True)
WATERMARK = FileKind("a watermark", (".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", *ARCHIVES), chosen=True)
NOISE_PICTURE = FileKind("the picture of the noise", (".png",), chosen=True)
PAGE = FileKind("a report", (".html", ".htm"), chosen=True, text=True)
TENSORS = FileKind("a safetensors file", (".safetensors",))
DOCUMENT = FileKind("a JSON document", (".json",), text=True)
LINES = FileKind("a file of JSON lines", (".jsonl", ".ndjson", ".json"), text=True)
TABLE = FileKind("a table", (".csv",), text=True)
KINDS = (PLOT, WATERMARK, NOISE_PICTURE, PAGE, TENSORS, DOCUMENT, LINES, TABLE)


def to_write(kind: FileKind) -> Callable[[str | Path], Path]:
    """A parser of options: the name of a file of this kind that is to be written."""
    parse = functools.partial(_named, kind=kind)
    vars(parse)["__name__"] = "FILE"  # which older versions of typer ask for
    return parse


def _named(text: str | Path, *, kind: FileKind) -> Path:
    path = file_name(text)
    if path != STREAM and (fault := _fault(path, kind)):
        raise typer.BadParameter(f"{path}: {fault}")
    return path


def _fault(path: Path, kind: FileKind) -> str | None:
    """Why a name is none of a file of this kind; None if it may be."""
    ending = path.suffix.lower()
    if ending in kind.endings:
        return None
    wanted = f"{kind.words} is a {', '.join(kind.endings)}"
    others = [other.words for other in KINDS if ending in other.endings]
    if others:
        return f"{wanted}; {ending} is the ending of {others[0]}"

    from nullspace_cli.engine.files.paths import is_folder, is_stream

    if not kind.chosen or is_stream(path):
        return None
    if is_folder(path):
        return "it is a folder; give the name of a file in it"
    return f"{wanted}; {f'none is written as {ending}' if ending else 'this has no ending that says the format'}"


OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE", parser=to_write(TENSORS), help="Where to write the result; - is stdout."
    ),
]
