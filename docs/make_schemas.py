"""Write docs/schemas/ and docs/keys.md from the declarations of all documents: `python docs/make_schemas.py`.

With --check nothing is written, and the exit code is 1 if a file is not what would be written.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nullspace_cli.engine.documents.base import in_words, resolved
from nullspace_cli.engine.documents.commands.registry import DOCUMENTS, LINES
from nullspace_cli.engine.documents.kinds import ARTEFACTS
from nullspace_cli.engine.documents.model_folder import ModelFolder
from nullspace_cli.engine.documents.transformers_folder import ImageProcessorConfig, TransformersConfig

FOLDER = Path(__file__).parent / "schemas"
PAGE = Path(__file__).parent / "keys.md"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> Iterator[tuple[str, str]]:
    """The name and the text of each file."""
    named: dict[str, type[BaseModel]] = {
        **DOCUMENTS,
        **{f"{name}.line": model for name, model in LINES.items()},
        **{f"{kind}.safetensors": model for kind, model in ARTEFACTS.items()},
        "model-folder": ModelFolder,
        "transformers-config": TransformersConfig,
        "image-processor": ImageProcessorConfig,
    }
    for name, model in named.items():
        schema = {"$schema": DIALECT, "$id": f"vitnull/{name}", **_plain(model.model_json_schema())}
        yield f"{name}.json", json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _plain(node: Any) -> Any:
    """Without the titles that only repeat names, and without defaults, which say no more than that a key may lack."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, dict):
        return node
    kept: dict[str, Any] = {
        key: {name: _plain(part) for name, part in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in node.items()
        if key not in ("title", "default")
    }
    if "description" in kept:
        kept["description"] = " ".join(kept["description"].split())
    return kept


def page() -> str:
    """Every key that a command prints, in tables for people."""
    lines = ["# Keys of the JSON documents", "", "Made from the declarations by `make docs`; do not edit.", ""]
    lines += ["`a.b` is the key `b` of the object `a`, `a[]` each of a list, `a.NAME` each of an object by names.", ""]
    for name, model in DOCUMENTS.items():
        lines += [f"## {name}", "", " ".join((model.__doc__ or "").split()), "", "| key | value | meaning |"]
        lines += ["| --- | --- | --- |"]
        schema = model.model_json_schema()
        for key, node in _keys(schema, schema):
            value, meaning = (text.replace("|", "\\|") for text in (in_words(node, schema), node["description"]))
            lines.append(f"| `{key}` | {value} | {' '.join(meaning.split())} |")
        lines.append("")
    return "\n".join(lines)


def _keys(node: Any, schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of an object and of all that is in it, by their places."""
    for key, part in node.get("properties", {}).items():
        yield f"{prefix}{key}", part
        yield from _inside(part, schema, f"{prefix}{key}")


def _inside(node: Any, schema: Any, place: str) -> Iterator[tuple[str, Any]]:
    node = resolved(node, schema)
    for option in node.get("anyOf", [node]):
        part = resolved(option, schema)
        yield from _keys(part, schema, f"{place}.")
        if "items" in part:
            yield from _inside(part["items"], schema, f"{place}[]")
        if isinstance(part.get("additionalProperties"), dict):
            yield from _inside(part["additionalProperties"], schema, f"{place}.NAME")


def main(check: bool) -> int:
    made = dict(schemas())
    if check:
        there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
        return int(there != made or PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
