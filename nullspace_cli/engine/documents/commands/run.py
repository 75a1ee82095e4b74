"""What the documents of all commands have in common."""

from typing import Annotated

from pydantic import Field

from nullspace_cli.engine.documents.base import Document, Natural, NonNegative, Sha256
from nullspace_cli.engine.documents.shared import DataConfig

Pair = Annotated[list[Natural], Field(min_length=2, max_length=2)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class Versions(Document):
    vitnull: str
    torch: str
    timm: str


class OneModel(Document):
    """Of which model a document is."""

    model: str
    weights: str | None = Field(description="pretrained, embedded, random or a file; null where none were read")
    weights_sha256: Sha256 | None
    data_config: DataConfig


class AnyModels(Document):
    """The same of any number of models: null where there is none, and where there are several."""

    model: str | None
    weights: str | None
    weights_sha256: Sha256 | None
    data_config: DataConfig | None


class Stamp(Document):
    """What every command says of its run, whichever the models."""

    device: str
    seed: int
    seconds: NonNegative
    versions: Versions


class Run(Stamp, OneModel):
    """What every command says of its run."""


class RunOfAny(Stamp, AnyModels):
    """What a command says of a run of any number of models."""


ExitCode = Annotated[int, Field(ge=0, le=255, description="what the command ends with; torchrun and others make it 1")]
Shard = Annotated[str, Field(pattern="^[1-9][0-9]*/[1-9][0-9]*$", description="I/N of --shard; 1/1 is all")]


class Failure(Document):
    """An input that could not be done; with --jsonl a line, in place of its record."""

    source: str
    error: str
