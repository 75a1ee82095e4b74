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
