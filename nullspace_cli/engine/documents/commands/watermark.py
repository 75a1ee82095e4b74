"""The documents of `vitnull watermark`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Count, Document, NonNegative, Percent, Positive, Share
from nullspace_cli.engine.documents.commands.run import ExitCode, Failure, Pair, Run, Shard
from nullspace_cli.engine.documents.shared import Answer, Solver, Verdict


class Legibility(Document):
    """The share of the mark's area that people can see."""

    full: Share = Field(description="with each pixel of the picture shown as one")
    half: Share = Field(description="scaled to half its sides")


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
    text: str | None = Field(description="what was lettered; null where the mark is a picture")
    size: Pair
    before: Answer | None
    after: Answer | None
    psnr: float | None
    mark_correlation: float | None
    legibility: Legibility
    nullspace: Literal["resize", "patch", "affine"]
    rounding: Literal["aware", "nearest"]
    solver: Solver
    compared_with: Literal["source", "plain JPEG"] = Field(
        description="whose input the model's is compared with: the source's, or that of its plain encode as a JPEG"
    )
    file_size_ratio: Positive | None = Field(description="of a JPEG, to the one that it is compared with")
    blocks_changed: Share | None = Field(description="of a JPEG's luma")
    readers: list[ReaderChange] = Field(description="by the files' own reading; empty without --for")
    verified: bool | None
    diff: str | None
    diff_gain: Positive | None = Field(description="levels of that picture for one level of change, about mid-grey")
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
