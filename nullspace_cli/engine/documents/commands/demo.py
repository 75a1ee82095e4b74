"""The document of `vitnull demo`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Document, Natural, Percent, Positive
from nullspace_cli.engine.documents.commands.basis import Check, Patches
from nullspace_cli.engine.documents.commands.explain import ExplainImage
from nullspace_cli.engine.documents.commands.fool import Fooled
from nullspace_cli.engine.documents.commands.learn_noise import LearnedNoiseRecord
from nullspace_cli.engine.documents.commands.run import Run
from nullspace_cli.engine.documents.commands.watermark import WatermarkImage
from nullspace_cli.engine.documents.shared import Level, Plan, Result


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
    noises: list[LearnedNoiseRecord]
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
