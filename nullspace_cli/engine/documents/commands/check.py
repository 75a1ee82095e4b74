"""The documents of `vitnull check`."""

from typing import Annotated, Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Count, Document, NonNegative, Percent, Sha256, Share
from nullspace_cli.engine.documents.commands.run import ExitCode, Failure, Pair, RunOfAny, Shard
from nullspace_cli.engine.documents.shared import Answer, DataConfig, Verdict
from nullspace_cli.engine.files.two_readings import Reading

Levels = Annotated[float, Field(ge=0, le=255)]
Level = Annotated[int, Field(ge=0, le=255)]
Quality = Annotated[int, Field(ge=1, le=100)]


class Change(Document):
    """Of 8-bit values: the share that differs, and by how many levels."""

    input_pixels_changed: Share
    rms: Levels
    max: Level


class Recompressed(Document):
    """A reader's input once a file has been saved as a JPEG, against its input of the source as it is."""

    quality: Quality
    result: Change
    source: Change = Field(description="the source itself, saved so: what the JPEG alone does")


class ReaderChange(Change):
    """What a reader is given of the result, against what it is given of the source."""

    reader: str
    input_pixels_changed_shown: Share | None = Field(description="of the files as they are shown: upright, on white")
    rms_shown: Levels | None
    max_shown: Level | None
    jpeg: list[Recompressed]
    asked: bool = Field(description="whether its input was asked to stay")
    verified: bool | None = Field(description="whether it has, to the tolerance; null where nobody asked")


class ModelAnswers(Verdict):
    """What a model says of both files."""

    model: str
    before: Answer | None
    after: Answer | None
    verified: bool


class DownAndUp(Document):
    """A file scaled down to 224 pixels and up again, against the file."""

    rms: Levels
    ratio: NonNegative | None = Field(description="over the rms of a scaling from 224 to 112; null where that is 0")
    suspicious: bool = Field(description="whether it has more fine detail than photos that were measured")


class DownAndUps(Document):
    source: DownAndUp
    result: DownAndUp


class OfBoth(Document):
    source: Pair
    result: Pair


class FormatsOfBoth(Document):
    source: str
    result: str


class CheckImage(Document):
    """One pair of `vitnull check`; a line of --jsonl."""

    source: str
    result: str
    formats: FormatsOfBoth
    sizes: OfBoth
    reading: Reading
    pixels: Change | None = Field(description="of the pictures themselves; null where their sizes differ")
    readers: list[ReaderChange]
    models: list[ModelAnswers]
    down_and_up: DownAndUps
    verified: bool | None = Field(description="whether all that was asked to stay has; null where nothing was")
    seconds: NonNegative


class CheckedModel(Document):
    model: str
    weights: str
    weights_sha256: Sha256
    data_config: DataConfig


class ReaderSummary(Document):
    """A reader over all images."""

    reader: str
    asked: bool
    bit_identical: Count
    mean_changed: Share | None
    mean_rms: Levels | None
    max: Level | None


class ModelSummary(Document):
    """A model over all images."""

    model: str
    matched: Count | None
    match_percent: Percent | None
    mean_confidence_change: Share | None
    max_confidence_change: Share | None
    bit_identical: Count


class Suspicious(Document):
    source: Count
    result: Count


class CheckSummary(Document):
    count: Count
    failed: Count
    verified: Count | None = Field(description="images of which all that was asked to stay has; null where nothing was")
    other_size: Count
    readers: list[ReaderSummary]
    models: list[ModelSummary]
    suspicious: Suspicious
    images_per_second: NonNegative | None


class Unmatched(Document):
    """Images of a folder that have no counterpart in the other."""

    source: list[str]
    result: list[str]


class Check(RunOfAny):
    """`vitnull check`."""

    schema_: Literal["vitnull/check/1"] = Field(alias="schema")
    shard: Shard
    exit_code: ExitCode
    reading: Reading
    keep: Literal["input", "answer"]
    tolerance: Levels
    jpeg: list[Quality]
    models: list[CheckedModel]
    images: list[CheckImage]
    summary: CheckSummary
    unmatched: Unmatched
    failures: list[Failure]
