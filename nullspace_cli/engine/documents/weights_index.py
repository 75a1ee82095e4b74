"""The index of a model whose weights lie in several files, as far as it says which is where."""

from typing import Annotated

from pydantic import Field

from nullspace_cli.engine.documents.base import Document

FileName = Annotated[
    str,
    Field(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$", description="the name of a weights file beside it"),
]
"""In no other folder; "." and ".." are none."""


class WeightsIndex(Document):
    """model.safetensors.index.json, or pytorch_model.bin.index.json."""

    weight_map: Annotated[dict[str, FileName], Field(min_length=1)]
