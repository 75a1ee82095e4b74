"""The document of `vitnull fool`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Document, Natural, NonNegative, Positive, may_lack
from nullspace_cli.engine.documents.commands.run import Pair, Range, Run
from nullspace_cli.engine.documents.shared import Answer, Solver, Verdict


class Similarity(Document):
    """How alike two maps are; null where one of them is constant."""

    spearman: float | None
    pearson: float | None
    ssim: float | None
    top10: float | None


class MapSimilarities(Document):
    source_transformed: Similarity
    target_transformed: Similarity
    control: Similarity = may_lack("of the maps before rounding")
    control_row_space: Similarity = may_lack("of the maps before rounding")


class LikenessRecord(Document):
    """How like its target the result looks, and how like its source."""

    ssim_target: float
    ssim_source: float
    psnr_target: float | None
    psnr_source: float | None
    detail_correlation_target: float | None
    detail_correlation_source: float | None
    correlation_target: float | None
    correlation_source: float | None
    score: float


class Predictions(Document):
    source: Answer | None
    target: Answer | None
    transformed: Answer | None
    preview: Answer | None


class Artifacts(Document):
    image: str
    exact: str | None
    noise: str
    sheet: str


class Fooled(Verdict):
    """One pair of `vitnull fool`."""

    source: str
    target: str
    size: Pair
    channels: Literal["red", "all"]
    bounded: bool
    strength: NonNegative
    nullspace: Literal["resize", "patch", "affine"]
    prediction: Predictions
    range: Range
    likeness: LikenessRecord
    saliency: dict[str, MapSimilarities] | None
    saliency_png: dict[str, MapSimilarities] | None
    solver: Solver
    verified: bool | None
    noise_gain: Positive | None = Field(
        description="levels of the picture of the change for one level of 255 of it, about mid-grey; null of no change"
    )
    artifacts: Artifacts


class Sources(Document):
    """How the source was chosen."""

    candidates: Natural
    score: float
    estimate: float
    median_estimate: float
    skipped: list[str]


class Fool(Fooled, Run):
    """`vitnull fool`."""

    schema_: Literal["vitnull/fool/1"] = Field(alias="schema")
    sources: Sources | None
