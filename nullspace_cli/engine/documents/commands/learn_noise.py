"""The document of `vitnull learn-noise`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Natural, NonNegative
from nullspace_cli.engine.documents.commands.run import Run
from nullspace_cli.engine.documents.shared import Level, NoiseRecord, Plan
from nullspace_cli.engine.files.two_readings import Reading


class LearnedNoiseRecord(NoiseRecord):
    noise: str
    images_per_second: NonNegative | None


class LearnNoise(Run):
    """`vitnull learn-noise`."""

    schema_: Literal["vitnull/learn-noise/1"] = Field(alias="schema")
    level: Level
    reading: Reading
    noises: list[LearnedNoiseRecord]
    images: Natural
    skipped: list[str]
    outputs: Literal["logits", "features"]
    plan: Plan
    preview: str | None
