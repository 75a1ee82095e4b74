"""The documents of `vitnull explain`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Count, Document, NonNegative, Percent, Positive, Share
from nullspace_cli.engine.documents.commands.run import ExitCode, Failure, Pair, Range, Run, Shard
from nullspace_cli.engine.documents.shared import Answer, Named
from nullspace_cli.engine.files.two_readings import Reading


class Map(Document):
    overlay: str | None
    grid: Pair
    range: Range


class ExplainImage(Document):
    """One image of `vitnull explain`; a line of --jsonl."""

    source: str
    prediction: Answer | None
    explained: Named | None
    methods: dict[str, Map]
    sheet: str | None
    float_: str | None = Field(alias="float")
    seconds: NonNegative


class ExplainSummary(Document):
    count: Count
    failed: Count
    skipped: Count
    images_per_second: NonNegative | None


class Areas(Document):
    positive: NonNegative
    negative: NonNegative
    positive_label: NonNegative | None
    negative_label: NonNegative | None


class Curves(Document):
    positive: list[Share]
    negative: list[Share]
    positive_label: list[Share] | None
    negative_label: list[Share] | None


class Faithfulness(Areas):
    random: Areas
    curves: Curves


class MapSimilarity(Document):
    spearman: float | None
    pearson: float | None
    ssim: float | None
    top10: float | None
    undefined: Count


class MapSimilarities(Document):
    null: MapSimilarity
    random: MapSimilarity
    row_space: MapSimilarity


class Matches(Document):
    null: Percent | None
    random: Percent | None
    row_space: Percent | None


class NoiseComparison(Document):
    """Maps with noise against maps without."""

    rms: Positive
    match_percent: Matches
    methods: dict[str, MapSimilarities]


class ExplainMeasured(Document):
    """What `vitnull explain` says of all images; the last line of --jsonl."""

    shard: Shard
    exit_code: ExitCode
    summary: ExplainSummary
    faithfulness: dict[str, Faithfulness] | None
    plot: str | None
    noise: NoiseComparison | None
    failures: list[Failure]


class Explain(ExplainMeasured, Run):
    """`vitnull explain`."""

    schema_: Literal["vitnull/explain/1"] = Field(alias="schema")
    reading: Reading
    images: list[ExplainImage]
