"""What several commands say in one way of their JSON documents."""

from collections.abc import Mapping
from typing import Any


def figure(value: float | None, form: str = ".3f") -> str:
    """A dash stands for what nobody measured."""
    return "-" if value is None else format(value, form)


def model_line(about: Mapping[str, Any]) -> str:
    """A model and the weights that were read, if any."""
    if about["weights"] is None:
        return f"{about['model']} (no weights read)"
    return f"{about['model']} ({about['weights']}, sha256 {about['weights_sha256'][:12]})"


def rate(summary: Mapping[str, Any]) -> str:
    """How fast a run was, as the end of a sentence."""
    return f", {summary['images_per_second']:.2f} images/s" if summary["images_per_second"] else ""


def answer(found: Mapping[str, Any]) -> str:
    """A class, with its name (the first of its synonyms) and its probability where these are known."""
    label = f" {found['label'].partition(',')[0]}" if found["label"] else ""
    probability = f" ({found['probability']:.2%})" if found.get("probability") is not None else ""
    return f"class {found['class']}{label}{probability}"
