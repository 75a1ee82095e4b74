"""Figures and answers of JSON documents, as people read them."""

from collections.abc import Mapping
from typing import Any


def figure(value: float | None, form: str = ".3f") -> str:
    """A dash stands for what nobody measured."""
    return "-" if value is None else format(value, form)


def answer(found: Mapping[str, Any]) -> str:
    """A class, with its name (the first of its synonyms) and its probability where these are known."""
    label = f" {found['label'].partition(',')[0]}" if found["label"] else ""
    probability = f" ({found['probability']:.2%})" if found.get("probability") is not None else ""
    return f"class {found['class']}{label}{probability}"


def broken_promise(record: Mapping[str, Any], tolerance: float) -> str:
    """What of a file that did not pass verification has changed, as a clause."""
    kept = {True: "the class is kept", False: "the class is another", None: "there are no classes"}[record["match"]]
    for name, key in (("embedding", "embedding_error"), ("feature", "feature_change")):
        if record[key] is not None:
            return f"{kept}, {name} change {record[key]:.3g} (tolerance {tolerance:.3g})"
    return kept
