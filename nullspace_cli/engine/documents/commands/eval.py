"""The documents of `vitnull eval`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Count, Document, Natural, NonNegative, Percent, Positive, may_lack
from nullspace_cli.engine.documents.commands.run import ExitCode, Run
from nullspace_cli.engine.documents.shared import Answer, Control, Level, Result
from nullspace_cli.engine.files.two_readings import Reading


class Eval(Run):
    """`vitnull eval`: what --json prints, --out writes and --results reads."""

    schema_: Literal["vitnull/eval/1"] = Field(alias="schema")
    data: str
    split: str
    reading: Reading = may_lack("of documents that were written since it is a choice")
    exit_code: ExitCode | None = may_lack("of documents that were written before it was said")
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
