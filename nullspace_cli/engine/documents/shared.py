"""What several documents have in common."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nullspace_cli.engine.documents.base import (
    Count,
    Document,
    Natural,
    NonNegative,
    Percent,
    Positive,
    Share,
    describe,
    may_lack,
)
from nullspace_cli.engine.files.two_readings import Reading

Level = Literal["encoder", "input"]
Control = Literal["none", "shuffle", "uniform"]
Pixels = Literal["pixel", "normalized"]

MAX_CHANNELS, MAX_STD, MAX_MEAN = 4096, 1e6, 1e6
"""Wide bounds on data configurations: within them, no normalised pixel overflows."""
MAX_RESIZED = 1 << 25
"""Pixels: an image that would be resized to more is refused. 3000 x 3 of them, scaled to a height of 256, are 65
million, of which the network reads a thousandth."""

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""timm's names for PIL's resampling filters."""
CropMode = Literal["center", "squash", "border"]

Bound = Annotated[float, Field(ge=-1e-6, le=100 + 1e-6)]
"""Of an interval of percentages, which ends at 0 and 100 up to rounding."""


class DataConfig(Document):
    """How a model's images are read: timm's data configuration."""

    input_size: Annotated[list[Natural], Field(min_length=3, max_length=3, description="channels, height, width")]
    mean: Annotated[list[Annotated[float, Field(ge=-MAX_MEAN, le=MAX_MEAN)]], Field(min_length=1)]
    std: Annotated[list[Annotated[float, Field(ge=1 / MAX_STD, le=MAX_STD)]], Field(min_length=1)]
    interpolation: Interpolation
    crop_pct: Positive = 0.875
    crop_mode: CropMode = "center"

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        channels, height, width = self.input_size
        if channels > MAX_CHANNELS or height * width > MAX_RESIZED:
            raise ValueError(
                f"input_size is {self.input_size}; expected at most {MAX_CHANNELS} channels and {MAX_RESIZED} pixels"
            )
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean {self.mean} and std {self.std} are not {channels} numbers each")
        # Nothing would be left of side / crop_pct, or more than can be held.
        if not (self.crop_pct <= min(height, width) and height * width <= MAX_RESIZED * self.crop_pct**2):
            raise ValueError(f"crop_pct is {describe(self.crop_pct)}; expected a fraction such as 0.875")
        if self.crop_mode == "border" and not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"the model pads with its mean colour {self.mean}; expected numbers from 0 to 1")
        return self


class NullityProof(Document):
    """What proves a nullity.

    Of a patch, the singular values of its matrix (svd). Of a whole image, blocks of the matrix that bound its rank from
    below by what counting allows at most (staircase), or a factorisation by which the eigenvalues of A A^T or A^T A
    above a bound were counted (inertia).
    """

    method: Literal["svd", "staircase", "inertia"]
    threshold: NonNegative = Field(
        description="share of the largest singular value up to which one counts as zero; of staircase, no singular "
        "value of a block lies below"
    )


class Answer(Document):
    """A class that a network predicts."""

    class_: Count = Field(alias="class")
    label: str | None
    probability: Share | None


class Named(Document):
    """A class without its probability."""

    class_: Count = Field(alias="class")
    label: str | None


class Plan(Document):
    """All that decides what noise is learned, besides the model."""

    level: Level
    limits: Annotated[list[Positive], Field(min_length=1)]
    protocol: Literal["adamw", "sgd", "paper-accum"]
    rounds: Natural
    lr: NonNegative
    fraction: Share
    norm: Annotated[float, Field(ge=1)] | Literal["inf"] = Field(
        description="the p of the loss; JSON has no infinity, so that of the largest entry is the text inf"
    )
    stop_eps: NonNegative | None
    step_images: Natural
    seed: int
    data: str
    images: Natural
    data_config: DataConfig


class NoiseRecord(Document):
    """What came of learning one noise; equal runs share it."""

    limit: Positive
    rounds: Natural
    steps: Natural
    loss_first: NonNegative
    loss_last: NonNegative
    norm_init: NonNegative
    norm_final: NonNegative
    stopped: bool


class Solver(Document):
    """The certificate of a projection: figures by which anybody can check it."""

    norm: Literal[1, 2]
    status: Literal["solved", "iteration_limit"]
    iterations: Count
    gap: float | None
    residual: NonNegative | None
    bound_violation: NonNegative | None
    patches: Count = may_lack("problems, one for each patch; where the patches were solved")
    unmarked_patches: Count = may_lack("patches that kept their source")
    gave_way: Share = may_lack("share of the pixels whose target was blended to the source")


class Fit(Document):
    """How noise on the tokens was realised in pixels."""

    status: str
    iterations: Count
    excess: float
    bound: Positive
    share_at_bound: Share


class Verdict(Document):
    """What the model says of two files."""

    match: bool | None
    confidence_change: Share | None
    logit_mse: NonNegative | None
    embedding_error: NonNegative | None
    feature_cosine: float | None
    feature_change: NonNegative | None
    reading: Reading
    input_pixels_changed: Share | None
    input_pixels_changed_shown: Share | None
    input_max_change: Count | None = Field(
        description="largest change of a value of the model's 8-bit input, in levels"
    )


class Accuracy(Document):
    """Percentages of images that are classified correctly."""

    clean: Percent | None
    noisy: Percent


class Result(Document):
    """One noise, or one control of it, over all images."""

    noise: str
    noise_model: str
    kind: Literal["learned", "exact", "near"]
    level: Level
    limit: Positive | None
    sigma: Positive | None
    rtol: Share | None = Field(default=None, description="of noise from a near nullspace, that of its file")
    transfer: bool
    realised: bool
    residual: NonNegative | None
    solver: Fit | None
    control: Control
    trials: Natural
    match_percent: Percent | None
    match_ci95: Annotated[list[Bound], Field(min_length=2, max_length=2)] | None
    match_trials: list[Percent] | None
    logit_mse: NonNegative | None
    logit_mse_per_class: NonNegative | None
    probability_mse: NonNegative | None
    feature_mse: NonNegative | None
    feature_cosine: Annotated[float, Field(ge=-1.001, le=1.001)] | None
    confidence_change: Share | None
    noise_norm: NonNegative
    accuracy: Accuracy | None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        size, value = ("limit", self.limit) if self.kind == "learned" else ("sigma", self.sigma)
        if value is None:
            raise ValueError(f"it is {self.kind} noise and has no {size}; expected a positive number")
        if (self.match_percent is None) != (self.match_ci95 is None):
            raise ValueError("match_percent and match_ci95 belong together; expected both, or null for both")
        return self


def same(a: float, b: float) -> bool:
    """Whether two numbers are one that has been through JSON."""
    return math.isclose(a, b, rel_tol=1e-12)
