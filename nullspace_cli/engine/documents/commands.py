"""The JSON documents that commands print and write: what scripts rely on."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import (
    Count,
    Document,
    Natural,
    NonNegative,
    Percent,
    Positive,
    Sha256,
    Share,
    may_lack,
)
from nullspace_cli.engine.documents.parts import (
    Answer,
    Control,
    DataConfig,
    Level,
    Named,
    NoiseRecord,
    Pixels,
    Plan,
    Result,
    Solver,
    Verdict,
)


class Versions(Document):
    vitnull: str
    torch: str
    timm: str


class Run(Document):
    """What every command says of its run."""

    model: str
    weights: str | None = Field(description="pretrained, embedded, random or a file; null where none were read")
    weights_sha256: Sha256 | None
    data_config: DataConfig
    device: str
    seed: int
    seconds: NonNegative
    versions: Versions


class Failure(Document):
    """An input that could not be done."""

    source: str
    error: str


# vitnull basis


class Check(Document):
    """What the network itself says of null noise, beside random noise of equal norm."""

    passed: bool | None
    null_logit_mse: NonNegative
    random_logit_mse: NonNegative
    residual: NonNegative
    outputs: Literal["logits", "features"]


Pair = Annotated[list[Natural], Field(min_length=2, max_length=2)]


class Patches(Document):
    """A patch embedding and its nullspace."""

    kind: Literal["patch"]
    in_chans: Natural
    patch_size: Pair
    patch_dim: Natural
    embed_dim: Natural
    rank: Count
    nullity: Count
    rtol: Share
    sigma_max: NonNegative
    sigma_min: NonNegative
    nullity_per_channel: list[Count]
    space: Pixels


class Basis(Run):
    """`vitnull basis`. Of a model without an exact nullspace there are fewer keys."""

    schema_: Literal["vitnull/basis/1"] = Field(alias="schema")
    kind: Literal["patch", "overlapping", "branches", "unknown"]
    layers: list[str] = may_lack("who reads the image, where it is not one map of patches")
    stride: Pair | None = may_lack("as layers")
    in_chans: Natural
    patch_size: Pair | None
    patch_dim: Natural = may_lack("where the model has patches")
    embed_dim: Natural = may_lack("where the model has patches")
    rank: Count | None
    nullity: Count | None
    rtol: Share = may_lack("where the model has patches")
    sigma_max: NonNegative = may_lack("where the model has patches")
    sigma_min: NonNegative = may_lack("where the model has patches")
    nullity_per_channel: list[Count] = may_lack("where the model has patches")
    space: Pixels = may_lack("where the model has patches")
    check: Check | None
    basis: str | None
    preview: str | None


# vitnull learn-noise


class LearnedNoise(NoiseRecord):
    noise: str
    images_per_second: NonNegative | None


class LearnNoise(Run):
    """`vitnull learn-noise`."""

    schema_: Literal["vitnull/learn-noise/1"] = Field(alias="schema")
    level: Level
    noises: list[LearnedNoise]
    images: Natural
    skipped: list[str]
    outputs: Literal["logits", "features"]
    plan: Plan
    preview: str | None


# vitnull eval


class Eval(Run):
    """`vitnull eval`: what --json prints, --out writes and --results reads."""

    schema_: Literal["vitnull/eval/1"] = Field(alias="schema")
    data: str
    split: str
    transform: str
    images: Natural
    outputs: Literal["logits", "features"]
    accuracy: Percent | None
    ground_truth: str
    results: list[Result]
    skipped: list[str]


class EvalPlot(Document):
    """`vitnull eval --results ... --plot` without a model."""

    schema_: Literal["vitnull/eval-plot/1"] = Field(alias="schema")
    plot: str
    results: list[str]


class Correct(Document):
    before: bool
    after: bool


class EvalImage(Document):
    """A line of `vitnull eval --per-image`: one image under one noise."""

    image: str
    label: str | None
    noise: str
    level: Level
    limit: Positive | None
    sigma: Positive | None
    realised: bool
    control: Control
    trial: Count
    before: Answer | None
    after: Answer | None
    match: bool | None
    logit_mse: NonNegative | None
    feature_cosine: float | None
    correct: Correct | None


# vitnull watermark


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
    images: list[WatermarkImage]
    summary: WatermarkSummary
    failures: list[Failure]


# vitnull fool


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


class Likeness(Document):
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


Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class Fooled(Verdict):
    """One pair of `vitnull fool`."""

    source: str
    target: str
    size: Pair
    channels: Literal["red", "all"]
    bounded: bool
    strength: NonNegative
    nullspace: Literal["resize", "patch"]
    prediction: Predictions
    range: Range
    likeness: Likeness
    saliency: dict[str, MapSimilarities] | None
    saliency_png: dict[str, MapSimilarities] | None
    solver: Solver
    verified: bool | None
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


# vitnull explain


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


class MapLikeness(Document):
    spearman: float | None
    pearson: float | None
    ssim: float | None
    top10: float | None
    undefined: Count


class MapLikenesses(Document):
    null: MapLikeness
    random: MapLikeness
    row_space: MapLikeness


class Matches(Document):
    null: Percent | None
    random: Percent | None
    row_space: Percent | None


class NoiseComparison(Document):
    """Maps with noise against maps without."""

    rms: Positive
    match_percent: Matches
    methods: dict[str, MapLikenesses]


class ExplainMeasured(Document):
    """What `vitnull explain` says of all images; the last line of --jsonl."""

    summary: ExplainSummary
    faithfulness: dict[str, Faithfulness] | None
    plot: str | None
    noise: NoiseComparison | None
    failures: list[Failure]


class Explain(ExplainMeasured, Run):
    """`vitnull explain`."""

    schema_: Literal["vitnull/explain/1"] = Field(alias="schema")
    images: list[ExplainImage]


# vitnull demo


class CheckedPatches(Patches):
    check: Check


class Kept(Document):
    null: Percent
    random: Percent


class DemoNoise(Document):
    std: Positive
    match_percent: dict[str, Kept]


class DemoLearned(Document):
    level: Level
    noises: list[LearnedNoise]
    images: Natural
    plan: Plan
    preview: str
    results: list[Result]


class Demo(Run):
    """`vitnull demo`."""

    schema_: Literal["vitnull/demo/1"] = Field(alias="schema")
    images: Natural
    accuracy: dict[str, Percent]
    nullspace: CheckedPatches
    noise: DemoNoise
    cnn: str | None
    watermarks: list[WatermarkImage]
    native: WatermarkImage
    learned_noise: DemoLearned
    fool: Fooled
    explain: list[ExplainImage]
    artifacts: list[str]


DOCUMENTS: Mapping[str, type[Document]] = {
    "basis": Basis,
    "learn-noise": LearnNoise,
    "eval": Eval,
    "eval-plot": EvalPlot,
    "watermark": Watermark,
    "fool": Fool,
    "explain": Explain,
    "demo": Demo,
}
"""By the name in `schema`: vitnull/NAME/1."""

LINES: Mapping[str, type[Document]] = {
    "eval": EvalImage,
    "watermark": WatermarkImage,
    "explain": ExplainImage,
    "explain-measured": ExplainMeasured,
}
"""Records of files with one on each line, by the command that writes them."""


def checked_document(document: Mapping[str, Any]) -> str:
    """A command's document as it is printed.

    Raises:
        ValueError: it breaks its declaration, which is a bug.
    """
    name = str(document["schema"]).split("/")[1]
    return DOCUMENTS[name].checked(document, indent=2)


def checked_line(name: str, record: Mapping[str, Any]) -> str:
    """A record of LINES as it is printed.

    Raises:
        ValueError: as `checked_document`.
    """
    return LINES[name].checked(record)
