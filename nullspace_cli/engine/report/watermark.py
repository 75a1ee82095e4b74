"""The page of `vitnull watermark`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nullspace_cli.engine.comparison.input_change import Seen
from nullspace_cli.engine.files.orientation import Orientation
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.parts import (
    Facts,
    Images,
    Page,
    Row,
    Section,
    about,
    answer,
    counted,
    figures,
    input_changed,
    keeping,
    kept,
    number,
)
from nullspace_cli.engine.report.pictures import View, amplified, compared, thumbnail
from nullspace_cli.engine.transforms.eval_transform import in_rgb
from nullspace_cli.engine.watermark.result import Pixels, Watermarked

HEADER = ("Model input", "Prediction", "Before", "After", "Confidence moved", "Mark")
ORDER = "those first whose answer or whose model input changed most"
LEFT_OUT = "A larger --report-size has more of them; --json or --jsonl has the figures of all."


def show_watermark(
    gallery: Gallery, record: Mapping[str, Any], result: Watermarked, inputs: tuple[Seen, Seen], turn: Orientation
) -> None:
    """Put an image's pictures by.

    Args:
        record: of the image, as the document has it.
        inputs: what the model is shown of the source and of the file that was written.
        turn: of all of them, to be seen upright.
    """
    before, after = turn.upright(result.source), turn.upright(result.pixels)
    gallery.add(record["source"], badness(record), thumbnail(after), views(before, after, inputs, turn))


def views(before: Pixels, after: Pixels, inputs: tuple[Seen, Seen], turn: Orientation) -> list[View]:
    """Two pictures and what a model sees of them: side by side, and as differences."""
    picture, part = compared("Picture", ("source", before), ("result", after))
    noise = after[part].astype(np.int16) - before[part]
    return [
        picture,
        *seen(inputs, turn),
        amplified("Noise", noise, caption="What was done to the picture, the same part of it."),
    ]


def seen(inputs: tuple[Seen, Seen], turn: Orientation) -> list[View]:
    """What a model is shown of two pictures, 8 bits each, and its difference where there is one."""
    old, new = (turn.upright(in_rgb(pixels)) for pixels in inputs)
    change = new.astype(np.int16) - old
    if not change.any():
        said = "The two are the same, bit for bit."
    else:
        said = f"{np.count_nonzero(change) / change.size:.3%} of the values differ."
    view, _ = compared("Model input", ("of the source", old), ("of the result", new), said)
    return [view, *([amplified("Input difference", change)] if change.any() else ())]


def badness(record: Mapping[str, Any]) -> tuple[float | None, ...]:
    """What makes an image one to look at first."""
    error = record["feature_change"] if record["embedding_error"] is None else record["embedding_error"]
    changed = record["input_pixels_changed" if record["reading"] == "timm" else "input_pixels_changed_shown"]
    correlation = record.get("mark_correlation")
    return (
        record["verified"] is False,
        record["match"] is False,
        record["confidence_change"],
        changed,
        error,
        None if correlation is None else -correlation,
    )


def row(record: Mapping[str, Any]) -> Row:
    """An image in the list."""
    changed = record["input_pixels_changed" if record["reading"] == "timm" else "input_pixels_changed_shown"]
    cells = (
        input_changed(changed),
        kept(record["match"]),
        answer(record["before"]),
        answer(record["after"]),
        number(record["confidence_change"], ".3%"),
        number(record["mark_correlation"], ".2f"),
    )
    return Row(record["source"], cells, facts(record))


def facts(record: Mapping[str, Any]) -> Facts:
    """What is said beside an image."""
    solver = record["solver"]
    return [
        ("Result", record["output"]),
        ("Size", "{} × {} pixels".format(*record["size"])),
        ("Nullspace", record["nullspace"]),
        *verdict(record),
        ("PSNR to the source", None if record["psnr"] is None else f"{record['psnr']:.1f} dB"),
        ("Correlation with the mark", number(record["mark_correlation"], ".2f")),
        ("Solver", f"p = {solver['norm']}, {solver['status']}, residual {solver['residual']:.1e}"),
    ]


def verdict(record: Mapping[str, Any]) -> Facts:
    """What the model says of two files."""
    by_loader, upright = record["input_pixels_changed"], record["input_pixels_changed_shown"]
    before, after, error = record.get("before"), record.get("after"), record["embedding_error"]
    return [
        ("Model input", None if by_loader is None else input_changed(by_loader)),
        ("Model input, upright and on white", None if by_loader == upright else input_changed(upright)),
        ("Prediction", None if record["match"] is None else kept(record["match"])),
        ("Before", before and answer(before)),
        ("After", after and answer(after)),
        ("Patch embeddings moved", None if error is None else f"{error:.3%}"),
        ("Features moved", None if record["feature_change"] is None else f"{record['feature_change']:.3%}"),
    ]


def page(document: Mapping[str, Any], gallery: Gallery) -> Page:
    """All images of a run."""
    summary, records = document["summary"], document["images"]
    broken = sum(record["verified"] is False for record in records)
    readings = {record["reading"]: None for record in records}
    return Page(
        "vitnull watermark",
        _title(summary),
        "People see the mark; the model is given what it was given before, or nearly.",
        [
            (f"{summary['count']:,}", "marked"),
            (f"{summary['bit_identical']:,}", "model inputs bit-identical"),
            *figures([(summary["matched"], "predictions kept")]),
            *figures([(broken or None, "do not hold"), (summary["failed"] or None, "not done")], "bad"),
            *figures([(summary["skipped"] or None, "there already")]),
        ],
        [section(records, gallery)],
        document["failures"],
        about(document, ("Reading", ", ".join(readings) or None)),
    )


def _title(summary: Mapping[str, Any]) -> str:
    count = summary["count"]
    if not count:
        return "No image was marked"
    if summary["bit_identical"]:
        return f"{keeping(summary['bit_identical'], count)} the model's input, bit for bit"
    if summary["matched"]:
        return f"{keeping(summary['matched'], count)} the model's prediction"
    return f"{counted(count, 'image')} marked"


def section(records: Sequence[Mapping[str, Any]], gallery: Gallery, title: str = "", text: str = "") -> Section:
    """A list of watermarked images, with their pictures."""
    return Section(title, text, images=Images(HEADER, [row(record) for record in records], gallery, ORDER, LEFT_OUT))
