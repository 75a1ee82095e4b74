"""The documents of `vitnull claim`."""

from typing import Annotated, Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import (
    Count,
    Document,
    Natural,
    NonNegative,
    Positive,
    Sha256,
    Share,
    may_lack,
)
from nullspace_cli.engine.documents.commands.run import ExitCode, Pair, Run, RunOfAny

P = Annotated[float, Field(gt=0, le=1)]
Interval = Annotated[list[Share], Field(min_length=2, max_length=2)]
Degrees = Annotated[float, Field(ge=0, le=90 + 1e-6)]
Verdict = Literal["derived", "not shown", "says nothing"]


class ClaimCommit(Run):
    """`vitnull claim commit`. Of a model without a nullspace to claim with there are fewer keys."""

    schema_: Literal["vitnull/claim-commit/1"] = Field(alias="schema")
    digest: Sha256 | None = Field(description="to publish and to have timestamped")
    claim: str | None = Field(description="the file that was written")
    revealed: bool
    files_sha256: dict[str, Sha256]
    embedding_sha256: Sha256 | None
    in_chans: Natural = may_lack("where the model has patches")
    patch_size: Pair | None = may_lack("where it is known")
    rank: Count | None
    nullity: Count | None
    rtol: Share = may_lack("where the model has patches")
    pairs: Natural
    visibility: NonNegative | None = Field(
        description="what the model reads of null noise and its mirror image in the mean, by that of white noise"
    )
    score: float | None = Field(
        description="how far its reading of null noise is from that of the mirror image, in standard deviations"
    )


class ClaimOf(Document):
    """The claim that a document is about."""

    file: str
    digest: Sha256
    model: str
    weights_sha256: Sha256


class Rounding(Document):
    """What the claim's own first layer reads of null noise, by what it reads of its mirror image."""

    before: NonNegative | None
    after: NonNegative | None = Field(description="of the probes as they were written")


class ClaimProbes(RunOfAny):
    """`vitnull claim probes`."""

    schema_: Literal["vitnull/claim-probes/1"] = Field(alias="schema")
    claim: ClaimOf
    data: str
    images: list[str]
    pairs: Natural
    size: Pair = Field(description="width and height")
    format: Literal["png", "safetensors"]
    out_dir: str
    probes: Natural = Field(description="how many there are, and answers that `claim check --answers` expects")
    noise_rms: Positive = Field(description="in levels of 255")
    null_to_mirrored: Rounding


class AnglesBetween(Document):
    """Principal angles between what both first layers read, in degrees."""

    smallest: Degrees
    median: Degrees
    largest: Degrees
    overlap: Share = Field(description="mean of the squared cosines")
    overlap_mirrored: Share = Field(description="the same with the claim's mirrored left to right")


class Weights(Document):
    """A suspect's first layer, held against the claim's."""

    patch_size: Pair | None
    p: P | None
    surrogates: Natural | None
    score: float | None
    own_score: float | None
    likeness: float | None = Field(description="score by the claim's own score, in the frequencies that both have")
    null_to_mirrored: NonNegative | None
    visibility: NonNegative | None
    angles: AnglesBetween | None
    angles_beyond_references: AnglesBetween | None = Field(
        description="without what more than half of the references' row spaces have in common"
    )


class AskedSuspect(Document):
    """A suspect's answers to probes."""

    images: Natural
    pairs: Natural
    answers: Literal["logits", "labels"]
    statistic: float
    p: P
    null_to_mirrored: NonNegative | None
    movement: NonNegative | None
    changed: Count
    changed_mirrored: Count
    changed_ci95: Interval
    changed_mirrored_ci95: Interval
    mcnemar_p: P


class Reference(Document):
    """A network that has nothing of the claim's, or so it is said, held against it as a suspect is."""

    model: str
    weights_sha256: Sha256
    verdict: Verdict
    reason: str
    weights: Weights


class ClaimCheck(RunOfAny):
    """`vitnull claim check`; the model is the suspect."""

    schema_: Literal["vitnull/claim-check/1"] = Field(alias="schema")
    exit_code: ExitCode
    claim: ClaimOf
    published: bool = Field(description="whether the digest was held against the one that was published")
    level: P
    verdict: Verdict
    reason: str
    by_weights: Weights | None
    by_answers: AskedSuspect | None
    answers: str | None
    references: list[Reference]
    plot: str | None
