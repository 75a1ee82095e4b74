"""Names of classes from people's files."""

import json
from pathlib import Path

import pytest

from nullspace_cli.engine.documents.class_names import read_class_names
from nullspace_cli.engine.errors import ModelError

NAMES = ("tench, Tinca tinca", "Éclair", "3")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(NAMES),
        "\ufeff" + "\r\n".join(NAMES) + "\r\n\n",
        json.dumps(NAMES),
        json.dumps({str(i): name for i, name in reversed(list(enumerate(NAMES)))}, indent=1),
    ],
)
def test_three_ways_to_keep_names(tmp_path: Path, text: str) -> None:
    file = tmp_path / "names"
    file.write_text(text, encoding="utf-8", newline="")
    assert read_class_names(file, 3) == NAMES


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a\nb", "names 2 classes; the model has 3"),
        (b"", "names 0 classes"),
        (b"a\n\nc", "has '' (text) for class 1"),
        (b'["a", 1, "c"]', "has 1 for class 1"),
        (b'["a", "b"', "is not valid JSON"),
        (b'{"a": 0, "b": 1, "c": 2}', "none for class 0"),
        (b'{"1": "a", "2": "b", "3": "c"}', "none for class 0"),
        (b"a\n\xff\nc", "is not text in UTF-8"),
    ],
)
def test_what_are_no_names(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "names"
    file.write_bytes(data)
    with pytest.raises(ModelError) as error:
        read_class_names(file, 3)
    assert said in str(error.value)
    assert str(file) in str(error.value)
