"""Declarations of documents: what is written is what is declared, and what is read is told from what is not."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from nullspace_cli.engine.documents.base import Document, parse_json, read_json
from nullspace_cli.engine.documents.commands.eval import Eval
from nullspace_cli.engine.documents.commands.registry import DOCUMENTS
from nullspace_cli.engine.documents.kinds import ARTEFACTS
from nullspace_cli.engine.errors import ArtifactError, ModelError
from nullspace_cli.engine.files.reading import read_bounded
from tests.engine.test_broken_files import document_of_eval


class Inner(Document):
    value: Annotated[float, Field(ge=0)] | None
    names: list[str]


class Outer(Document):
    inners: list[Inner]
    by_name: dict[str, Inner] = Field(default={})


GOOD: dict[str, Any] = {"inners": [{"value": 1, "names": ["a"]}, {"value": None, "names": []}]}


NUMBER = "expected a number of at least 0 or null."
OBJECT = "expected an object with value, names."


def with_value(value: Any) -> dict[str, Any]:
    return {"inners": [*GOOD["inners"], {"value": value, "names": []}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"inners": "high"},
            "x: inners is 'high' (text); expected a list of values, each an object with value, names.",
        ),
        ({"inners": [{"names": []}]}, f"x lacks inners[0].value; {NUMBER}"),
        (with_value("1"), f"x: inners[2].value is '1' (text); {NUMBER}"),
        (with_value(True), f"x: inners[2].value is true; {NUMBER}"),
        (with_value(-1), f"x: inners[2].value is -1; {NUMBER}"),
        (with_value("x" * 999), f"x: inners[2].value is '{'x' * 56}... (text); {NUMBER}"),
        ({"inners": [{"value": 1, "names": [None]}]}, "x: inners[0].names[0] is null; expected text."),
        ({"by_name": {"a b": 3}}, f"x: by_name['a b'] is 3; {OBJECT}"),
        ({"by_name": {"\x1b[31m": []}}, f"x: by_name['\\x1b[31m'] is a list of 0; {OBJECT}"),
    ],
)
def test_a_fault_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        Outer.read({**GOOD, **change}, "x")
    assert str(caught.value).startswith(message)


def test_other_faults_are_counted() -> None:
    with pytest.raises(ModelError, match=r"lacks inners.* There are 2 more such faults\. Make it again\."):
        Outer.read({"by_name": {"a": {}}}, "x", ModelError, "Make it again.")


def test_further_keys_are_read_and_not_written() -> None:
    assert Outer.read({**GOOD, "later": 1}, "x").inners[0].value == 1
    assert json.loads(Outer.checked(GOOD)) == GOOD
    for broken in ({**GOOD, "later": 1}, {"inners": [{**GOOD["inners"][0], "value": "1"}]}, {}):
        with pytest.raises(ValidationError):
            Outer.checked(broken)
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            Outer.checked({"inners": [{"value": number, "names": []}]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": 1e999}', "1e999 is too large a number"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice in one object"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 100 + b"]" * 100, "nested too deeply"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_json_is_json(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        parse_json(data, "x", "a document")


def test_files_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": [1, 2.5, null]}')
    assert read_json(tmp_path / "x.json", "a document") == {"a": [1, 2.5, None]}
    with pytest.raises(ArtifactError, match=r"x\.json is larger than .* Expected a document"):
        read_bounded(tmp_path / "x.json", 5, "a document")


def test_what_vitnull_has_written_is_read() -> None:
    document = document_of_eval()
    assert Eval.checked(document) == json.dumps(document)
    assert Eval.read({**document, "later": {"key": 1}}, "x").results[0].limit == 0.5


def test_every_kind_has_its_name() -> None:
    for name, model in DOCUMENTS.items():
        assert model.model_json_schema()["properties"]["schema"]["const"] == f"vitnull/{name}/1"
    for kind, artefact in ARTEFACTS.items():
        properties = artefact.model_json_schema()["properties"]
        assert (properties["schema"]["const"], properties["kind"]["const"]) == (f"vitnull/{kind}/1", kind)
