"""The page of `vitnull fool`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nullspace_cli.engine.adversarial.report import Report
from nullspace_cli.engine.plots.heat_maps import overlay
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.parts import Images, Page, Row, Section, Table, about, answer, number
from nullspace_cli.engine.report.pictures import amplified, compared, thumbnail
from nullspace_cli.engine.report.watermark import verdict
from nullspace_cli.engine.transforms.eval_transform import in_rgb, to_8_bits

NAMES = {
    "source": "source",
    "target": "target",
    "transformed": "transformed",
    "preview": "transformed and clipped, as it is drawn",
}
"""What the model is asked about, and in words; of an 8-bit image there is no preview."""
TITLES = {
    True: "To the network it is the source still",
    False: "The network tells it from its source",
    None: "What the network is given is the source's, as nearly as said here",
}
"""By whether the prediction stayed."""


def show_fooled(gallery: Gallery, done: Report) -> None:
    """Put a pair's pictures by: what people see, what the model sees, and where it looks."""
    upright = done.turn.upright
    source, target, result = (upright(picture) for picture in done.pictures)
    inputs = [upright(in_rgb(to_8_bits(view))) for view in done.views]
    clipped = "" if done.record["bounded"] else "The result is a float image, drawn clipped."
    versus, part = compared("Against the target", ("target", target), ("result", result), clipped)
    moved = inputs[2].astype(np.int16) - inputs[0]
    change = result[part].astype(np.int16) - source[part]
    views = [
        versus,
        compared("Against the source", ("source", source), ("result", result), clipped)[0],
        compared("Model input", ("of the source", inputs[0]), ("of the result", inputs[2]), clipped)[0],
        *([amplified("Input difference", moved, caption="Of result and source.")] if moved.any() else []),
        amplified("Noise", change, caption="Of result and source, the part that is shown against the target."),
    ]
    for method, (first, _, last) in done.maps.items():
        shown = [upright(overlay(done.views[i], saliency)) for i, saliency in ((0, first), (2, last))]
        where = "Where the model looks" + ("." if done.record["bounded"] else ", of the result in the float image.")
        views.append(compared(method, ("source", shown[0]), ("result", shown[1]), where)[0])
    gallery.add(done.record["artifacts"]["image"], (), thumbnail(result), views)


def page(document: Mapping[str, Any], gallery: Gallery) -> Page:
    """One pair."""
    prediction, like = document["prediction"], document["likeness"]
    return Page(
        "vitnull fool",
        TITLES[document["match"]],
        figures=[
            *(
                (answer(prediction[name]), f"{words}, says the model")
                for name, words in NAMES.items()
                if prediction[name]
            ),
            (number(like["ssim_target"], ".2f"), "SSIM to the target"),
            (number(like["ssim_source"], ".2f"), "SSIM to the source"),
        ],
        sections=[section(document, gallery)],
        about=about(document, ("Reading", document["reading"])),
    )


def section(record: Mapping[str, Any], gallery: Gallery, title: str = "", text: str = "") -> Section:
    """One pair's pictures and figures."""
    images = Images((), [_row(record)], gallery, "of one pair", "A larger --report-size has them.")
    return Section(title, text, images=images, tables=[_likeness(record), *_saliency(record)])


def _row(record: Mapping[str, Any]) -> Row:
    solver, (low, high) = record["solver"], record["range"]
    preview = record["prediction"]["preview"]
    files = record["artifacts"]
    facts = [
        ("Source", record["source"]),
        ("Target", record["target"]),
        ("Result", files["image"] if record["bounded"] else files["exact"]),
        ("Kind", f"{'8-bit' if record['bounded'] else 'float'} image, {record['nullspace']} nullspace"),
        ("Size", "{} × {} pixels".format(*record["size"])),
        ("Range", f"{low:.3g} to {high:.3g}"),
        ("Strength", f"{record['strength']:g}"),
        *verdict(record),
        ("Clipped, as it is drawn", preview and answer(preview)),
        ("Solver", f"p = {solver['norm']}, {solver['status']}, residual {solver['residual']:.1e}"),
    ]
    return Row(files["image"], (), facts)


def _likeness(record: Mapping[str, Any]) -> Table:
    like = record["likeness"]
    keys = ("ssim", "correlation", "detail_correlation", "psnr")
    rows = [[name, *(number(like[f"{key}_{name}"], ".3f") for key in keys)] for name in ("target", "source")]
    return Table("How like it is", ("Result to", "SSIM", "Correlation", "Of detail", "PSNR, dB"), rows)


def _saliency(record: Mapping[str, Any]) -> list[Table]:
    if not record["saliency"]:
        return []
    rows = [
        [
            method,
            number(pairs["source_transformed"]["spearman"], ".3f"),
            number(record["saliency_png"][method]["source_transformed"]["spearman"], ".3f"),
            *(
                number(pairs[name]["spearman"], ".3f")
                for name in ("target_transformed", "control", "control_row_space")
            ),
        ]
        for method, pairs in record["saliency"].items()
    ]
    header = ("Method", "Source, result", "After PNG", "Target, result", "Random noise", "Row-space noise")
    return [Table("How alike the maps are: Spearman", header, rows)]
