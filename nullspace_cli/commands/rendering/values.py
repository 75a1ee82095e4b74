"""What several commands say in one way of their JSON documents."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console


def figure(value: float | None, form: str = ".3f") -> str:
    """A dash stands for what nobody measured."""
    return "-" if value is None else format(value, form)


def model_line(about: Mapping[str, Any]) -> str:
    """A model and the weights that were read, if any."""
    if about["weights"] is None:
        return f"{about['model']} (no weights read)"
    return f"{about['model']} ({about['weights']}, sha256 {about['weights_sha256'][:12]})"


def alone(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The record of a run's only image; None where there were others, if only such as failed or were left out."""
    summary, records = document["summary"], document["images"]
    return records[0] if len(records) == 1 and not summary["failed"] and not summary.get("skipped") else None


def tell_failures(console: Console, document: Mapping[str, Any]) -> None:
    """Each image that could not be done, and why, so that the result by itself says what became of all."""
    for failure in document["failures"]:
        console.line(f"failed: {failure['error']}")


def skipped(summary: Mapping[str, Any]) -> str:
    """How many were left out, as the end of a sentence."""
    return f", {summary['skipped']} there already" if summary["skipped"] else ""


def rate(summary: Mapping[str, Any]) -> str:
    """How fast a run was, as the end of a sentence."""
    return f", {summary['images_per_second']:.2f} images/s" if summary["images_per_second"] else ""


def answer(found: Mapping[str, Any]) -> str:
    """A class, with its name (the first of its synonyms) and its probability where these are known."""
    label = f" {found['label'].partition(',')[0]}" if found["label"] else ""
    probability = f" ({found['probability']:.2%})" if found.get("probability") is not None else ""
    return f"class {found['class']}{label}{probability}"


def input_of(record: Mapping[str, Any]) -> str:
    """How much of a model's input has changed, by the reading that the command was given."""
    loaded, shown = _changed(record)
    return loaded if record["reading"] == "timm" else shown


def input_of_both(record: Mapping[str, Any]) -> str:
    """The same by the loader's reading and, where the file is shown another way, by the upright one."""
    loaded, shown = _changed(record)
    return loaded if loaded == shown else f"{loaded}; upright and on white: {shown}"


def _changed(record: Mapping[str, Any]) -> list[str]:
    shares = [record[f"input_pixels_changed{reading}"] for reading in ("", "_shown")]
    return ["-" if s is None else "bit-identical" if s == 0 else f"{s:.4%} changed" for s in shares]


def gained(file: str, gain: float | None) -> str:
    """A picture of noise, and how its levels are to be read."""
    return f"{file} ({f'gain {gain:.3g}; ' if gain else ''}mid-grey is no change)"
