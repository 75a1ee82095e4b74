"""The page of `vitnull explain`."""

from collections.abc import Mapping, Sequence
from typing import Any

from nullspace_cli.engine.models.classes import name_of
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.parts import (
    UNKNOWN,
    Cell,
    Images,
    Page,
    Plot,
    Row,
    Section,
    Table,
    about,
    answer,
    counted,
    figures,
    number,
)
from nullspace_cli.engine.report.pictures import compared, thumbnail
from nullspace_cli.engine.watermark.result import Pixels

ORDER = "those first of which the model is least sure"
LEFT_OUT = "A larger --report-size has more of them; the overlays that were written are whole."


def show_explained(gallery: Gallery, record: Mapping[str, Any], seen: Pixels, overlays: Mapping[str, Pixels]) -> None:
    """Put an image's pictures by: what the model sees of it, and the same under each map."""
    views = [compared(name, ("model input", seen), (name, overlay))[0] for name, overlay in overlays.items()]
    prediction = record["prediction"]
    gallery.add(record["source"], [-prediction["probability"] if prediction else 0], thumbnail(seen), views)


def page(document: Mapping[str, Any], gallery: Gallery, curves: str | None = None) -> Page:
    """All images of a run.

    Args:
        curves: those of faithfulness, as an SVG.
    """
    records, summary, faithful, noise = (document[key] for key in ("images", "summary", "faithfulness", "noise"))
    methods = list(dict.fromkeys(name for record in records for name in record["methods"]))
    plots = (
        [Plot("How long predictions stay when pixels are taken away in the order of a map", curves)] if curves else []
    )
    measured = Section(
        "How far the maps can be trusted",
        plots=plots,
        tables=[*([_faithfulness(faithful)] if faithful else []), *([_noise(noise)] if noise else [])],
    )
    return Page(
        "vitnull explain",
        f"Where the model sees what it says of {counted(summary['count'], 'image')}",
        "The hotter, the more a method makes of a place: light is hot, and grey shows what is of no account.",
        [
            (f"{summary['count']:,}", "explained"),
            (f"{len(methods)}", "method" if len(methods) == 1 else "methods"),
            *figures([(summary["failed"] or None, "not done")], "bad"),
        ],
        [section(records, gallery), *([measured] if measured.tables else [])],
        document["failures"],
        about(document, ("Methods", ", ".join(methods) or None), ("Reading", document["reading"])),
    )


def section(records: Sequence[Mapping[str, Any]], gallery: Gallery, title: str = "", text: str = "") -> Section:
    """A list of images with their maps."""
    rows = [_row(record) for record in records]
    return Section(title, text, images=Images(("Prediction", "Explained"), rows, gallery, ORDER, LEFT_OUT))


def _row(record: Mapping[str, Any]) -> Row:
    prediction, explained = record["prediction"], record["explained"]
    cells = answer(prediction), name_of(explained) if explained else UNKNOWN
    facts: list[tuple[str, Cell | None]] = [
        ("Prediction", prediction and answer(prediction)),
        ("Explained", explained and name_of(explained)),
        ("Sheet", record["sheet"]),
        ("Maps", record["float"]),
    ]
    for name, found in record["methods"].items():
        grid = "{} × {}".format(*found["grid"])
        facts.append((name, f"{grid} values from {found['range'][0]:.2g} to {found['range'][1]:.2g}"))
    return Row(record["source"], cells, facts)


def _faithfulness(methods: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            *(number(found[key], ".3f") for key in ("positive", "negative", "positive_label", "negative_label")),
            number(found["random"]["positive"], ".3f"),
            number(found["random"]["negative"], ".3f"),
        ]
        for name, found in methods.items()
    ]
    return Table(
        "Areas under the curves",
        ("Method", "Positive", "Negative", "Positive, label", "Negative, label", "Random, pos.", "Random, neg."),
        rows,
        "Positive: the most relevant pixels go first, and a faithful map has a small area. Negative: the least "
        "relevant go first, and a faithful map has a large one.",
    )


def _noise(noise: Mapping[str, Any]) -> Table:
    kinds = ("null", "random", "row_space")
    rows: list[list[Cell]] = [
        [name, *(number(pairs[kind]["spearman"], ".3f") for kind in kinds)] for name, pairs in noise["methods"].items()
    ]
    matches = [number(noise["match_percent"][kind], ".1f") for kind in kinds]
    return Table(
        "Maps under noise, against maps without: Spearman",
        ("Method", "Null space", "At random", "Row space"),
        [*rows, ["Predictions kept, %", *matches]],
        f"Noise of rms {noise['rms']:g} in [0, 1] pixels.",
    )
