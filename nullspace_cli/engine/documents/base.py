"""Documents with declared keys and types: how they are checked, and how a fault is put into words.

The same declarations check what is written (strictly: an undeclared key is a bug) and what is read (a later version's
further keys are passed over), and make the JSON schemas in docs/.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nullspace_cli.engine.documents.meanings import meaning_of
from nullspace_cli.engine.errors import ArtifactError, VitnullError
from nullspace_cli.engine.files.reading import MIB, read_bounded

MAX_DEPTH = 64
"""Levels of lists and objects in what is read; ours have a dozen at most."""
MAX_JSON = 64 * MIB
"""Bytes of a JSON file that is read: a document of `vitnull eval` with some ten thousand results."""

Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Natural = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def may_lack(why: str) -> Any:
    """A key that not every document has; where it is there it is of its type, and not null."""
    return Field(default=None, description=why)


def _say_meanings(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Give each key of a schema a description: the declaration's own, else what keys of the name mean."""
    owners = [owner.__name__ for owner in model.__mro__]
    for key, node in schema.get("properties", {}).items():
        own, meaning = node.get("description"), meaning_of(owners, key)
        if meaning and own and key not in schema.get("required", ()):
            node["description"] = f"{meaning}; {own}"  # which says when the key is there
        elif meaning and not own:
            node["description"] = meaning


class Document(BaseModel):
    """Keys with types that are taken as they are: "1" is no number, true is none, and neither are NaN and infinity."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        defer_build=True,
        json_schema_extra=_say_meanings,
    )

    @classmethod
    def checked(cls, document: Mapping[str, Any], *, indent: int | None = None, sort_keys: bool = False) -> str:
        """What will be written, as JSON; a document that breaks its own declaration is a bug, and none is written.

        Raises:
            ValueError: that bug.
        """
        text = json.dumps(document, indent=indent, sort_keys=sort_keys, allow_nan=False)
        # Not by pydantic's own reader of JSON, which refuses the names of files that are not Unicode.
        cls.model_validate(json.loads(text), extra="forbid")
        return text

    @classmethod
    def read(cls, value: Any, where: str, error: type[VitnullError] = ArtifactError, hint: str = "") -> Self:
        """Check what has been read.

        Args:
            where: whose document it is, for the message: a file, or "the provenance of" one.
            hint: what to do, the last sentence of the message.

        Raises:
            error: a key is missing or is not what it should be; the message names it, what it is and what was expected.
        """
        try:
            return cls.model_validate(value, extra="ignore")
        except ValidationError as failure:
            raise error(" ".join(filter(None, (_in_words(failure, cls, where), hint)))) from failure


# Reading JSON


def read_json(path: Path, expected: str, error: type[VitnullError] = ArtifactError, limit: int = MAX_JSON) -> Any:
    """What a JSON file holds.

    Raises:
        error: it is no regular file, too large, or `parse_json` refuses it.
    """
    return parse_json(read_bounded(path, limit, expected, error), f"{path}", expected, error)


def parse_json(data: bytes | str, where: str, expected: str, error: type[VitnullError] = ArtifactError) -> Any:
    """JSON as its standard has it: UTF-8, no NaN or infinity, no key twice in one object, not nested without end.

    Raises:
        error: it is something else.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_unique)
        _refuse_deep(value)
    except RecursionError as failure:
        raise error(f"{where} is nested too deeply. Expected {expected}.") from failure
    except UnicodeDecodeError as failure:
        raise error(f"{where} is not text in UTF-8 (byte {failure.start}). Expected {expected}.") from failure
    except ValueError as failure:
        raise error(f"{where} is not valid JSON: {failure}. Expected {expected}.") from failure
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_shown(twice)} stands twice in one object")
    return made


def _refuse_deep(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise RecursionError
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1


# Faults in words


def _in_words(failure: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first of the faults: "x.json: results[3].match_percent is 'high' (text); expected a number or null." """
    faults = failure.errors(include_url=False)
    fault = faults[0]
    schema = model.model_json_schema()
    place, node = _place(fault["loc"], schema)
    more = len({tuple(map(str, other["loc"])) for other in faults}) - 1
    others = f" There are {more} more such faults." if more > 1 else ""
    if fault["type"] == "missing":
        return f"{where} lacks {place}; expected {in_words(node, schema)}.{others}"
    if fault["type"] == "value_error":
        text = str(fault["msg"]).removeprefix("Value error, ")
        return f"{where}: {place + ': ' if place else ''}{text}.{others}"
    found = describe(fault["input"])
    start = f"{where}: {place} is" if place else f"{where} holds"
    return f"{start} {found}; expected {in_words(node, schema)}.{others}"


def describe(value: Any) -> str:
    """A value that was found, for messages: short, on one line, and with its type."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"{_shown(value)} (text)"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "an object with " + (f"the keys {', '.join(map(_shown, list(value)[:4]))}" if value else "no keys")
    if isinstance(value, int | float):
        return _cut(str(value) if not isinstance(value, int) or value.bit_length() < 200 else "a huge number")
    return f"{_cut(repr(value))} ({type(value).__name__})"


def _shown(value: Any) -> str:
    return _cut(ascii(value) if not str(value).isprintable() else repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _place(location: tuple[int | str, ...], schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """A place in a document as "results[3].match_percent", and what the schema says of it."""
    node, names = resolved(schema, schema), ""
    for step in location:
        inner = _inner(node, step, schema)
        if inner is None:
            continue  # pydantic's name of one of several types that the value might have had
        node = inner
        names += f"[{step}]" if isinstance(step, int) else f".{step}" if step.isidentifier() else f"[{_shown(step)}]"
    return names.removeprefix("."), node


def _inner(node: Mapping[str, Any], step: int | str, schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    node = resolved(node, schema)
    for part in (node, *(resolved(option, schema) for option in node.get("anyOf", ()))):
        if isinstance(step, int) and "items" in part:
            return part["items"]
        if isinstance(step, int) and "prefixItems" in part:
            return part["prefixItems"][step]
        if step in part.get("properties", {}):
            return part["properties"][step]
        if isinstance(step, str) and isinstance(part.get("additionalProperties"), Mapping):
            return part["additionalProperties"]
    return None


def resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


NAMES = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
PATTERNS = {"^[0-9a-f]{64}$": "64 hexadecimal digits", "^[1-9][0-9]*/[1-9][0-9]*$": "I/N"}
BOUNDS = {
    "minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below",
    "minLength": "of at least", "maxLength": "of at most",
}  # fmt: skip


def in_words(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a schema wants, in words."""
    node = resolved(node, schema)
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(in_words(option, schema) for option in node["anyOf"]))
    if "const" in node:
        return _shown(node["const"])
    if "enum" in node:
        return "one of " + ", ".join(map(_shown, node["enum"]))
    kind = node.get("type")
    if kind == "array":
        low, high = node.get("minItems"), node.get("maxItems")
        count = f"{low} values" if low == high and low is not None else "values"
        return f"a list of {count}, each {in_words(node['items'], schema)}" if "items" in node else f"a list of {count}"
    if kind == "object":
        keys = list(node.get("properties", {}))
        return "an object" + (f" with {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}" if keys else "")
    if "pattern" in node:
        return PATTERNS.get(node["pattern"]) or str(node["description"])
    bounds = " and ".join(f"{words} {node[name]:g}" for name, words in BOUNDS.items() if name in node)
    return f"{NAMES.get(str(kind), 'something else')} {bounds}".rstrip()
