"""The documents of `vitnull watermark`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Count, Document, NonNegative, Percent, Share
from nullspace_cli.engine.documents.commands.run import ExitCode, Failure, Pair, Run, Shard
from nullspace_cli.engine.documents.shared import Answer, Solver, Verdict


class ReaderChange(Document):
    """What of a further reader's 8-bit input differs between source and file."""

    reader: str = Field(description="SIZE/FILTER/CROP_PCT, or a model's name")
    input_pixels_changed: Share
    rms: NonNegative = Field(description="levels, over all values")
    max: Count = Field(description="levels")


class WatermarkImage(Verdict):
    """One image of `vitnull watermark`; a line of --jsonl."""

    source: str
    output: str
    size: Pair
    before: Answer | None
    after: Answer | None
    psnr: float | None
    mark_correlation: float | None
    nullspace: Literal["resize", "patch"]
    rounding: Literal["aware", "nearest"]
    solver: Solver
    readers: list[ReaderChange] = Field(description="by the files' own reading; empty without --for")
    verified: bool | None
    diff: str | None
    float_: str | None = Field(alias="float")
    seconds: NonNegative


class WatermarkSummary(Document):
    count: Count
    failed: Count
    skipped: Count
    matched: Count | None
    match_percent: Percent | None
    mean_confidence_change: Share | None
    max_confidence_change: Share | None
    bit_identical: Count
    images_per_second: NonNegative | None


class Watermark(Run):
    """`vitnull watermark`."""

    schema_: Literal["vitnull/watermark/1"] = Field(alias="schema")
    shard: Shard
    exit_code: ExitCode
    images: list[WatermarkImage]
    summary: WatermarkSummary
    failures: list[Failure]
