"""The index of a model whose weights lie in several files, as far as it says which is where."""

from typing import Annotated

from pydantic import Field

from nullspace_cli.engine.documents.base import Document


class WeightsIndex(Document):
    """model.safetensors.index.json, or pytorch_model.bin.index.json."""

    weight_map: Annotated[dict[str, str], Field(min_length=1)]
