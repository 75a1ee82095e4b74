"""The names of a model's classes, as people keep them: a JSON list, an object by indices, or a name a line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nullspace_cli.engine.documents.base import describe, parse_json
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.files.reading import MIB, read_bounded

EXPECTED = 'names of classes: a JSON list, a JSON object {"0": NAME, ...}, or a name a line'


def read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """The names of classes 0 to `count` - 1.

    Raises:
        ModelError: the file cannot be read, is none of the three, or names other classes.
    """
    data = read_bounded(path, 16 * MIB, EXPECTED, ModelError)
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{"):
        value = parse_json(data, f"{path}", EXPECTED, ModelError)
        names = _by_index(path, value) if isinstance(value, Mapping) else value
    else:
        try:
            names = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise ModelError(f"{path} is not text in UTF-8 (byte {error.start}). Expected {EXPECTED}.") from error
        while names and not names[-1]:
            names.pop()
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ModelError(f"{path} has {describe(name)} for class {index}. Expected {EXPECTED}.")
    if len(names) != count:
        raise ModelError(f"{path} names {len(names)} classes; the model has {count}. Give one name for each of them.")
    return tuple(names)


def _by_index(path: Path, names: Mapping[str, Any]) -> list[Any]:
    for index in range(len(names)):
        if str(index) not in names:
            raise ModelError(f"{path} has {len(names)} names and none for class {index}. Expected {EXPECTED}.")
    return [names[str(index)] for index in range(len(names))]
