"""What a suspect answers to probes: JSON, one answer a line."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from nullspace_cli.engine.documents.base import Document, may_lack


class ProbeAnswer(Document):
    """The answer to one probe: its logits (or log probabilities), or its label alone."""

    image: Annotated[str, Field(min_length=1, description="the probe's file, or its name without folder and ending")]
    logits: Annotated[list[float], Field(min_length=2)] | None = may_lack("where the suspect gives its label alone")
    label: int | str | None = may_lack("where the suspect gives logits")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.logits is None) == (self.label is None):
            raise ValueError("expected either logits or a label")
        return self
