"""What `datasets` writes beside and into tables, as far as it says where they are and which columns are images."""

from typing import Annotated, Any

from pydantic import Field

from nullspace_cli.engine.documents.base import Document
from nullspace_cli.engine.documents.weights_index import FileName


class DataFile(Document):
    filename: FileName


class SavedState(Document):
    """state.json of a split that was saved."""

    data_files: Annotated[list[DataFile], Field(alias="_data_files")]


class SavedSplits(Document):
    """dataset_dict.json of a data set that was saved with its splits."""

    splits: list[FileName]


class Info(Document):
    features: dict[str, Any] | None = None


class TableInfo(Document):
    """What the schema of a table says under "huggingface"."""

    info: Info | None = None
