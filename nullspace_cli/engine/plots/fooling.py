"""Sheets of fooled networks: the paper's figures 5 and 7 in one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nullspace_cli.engine.adversarial.report import Report
from nullspace_cli.engine.models.classes import name_of
from nullspace_cli.engine.plots.figure import save_figure
from nullspace_cli.engine.plots.heat_maps import draw_scale, overlay
from nullspace_cli.engine.plots.parts import most_changed
from nullspace_cli.engine.watermark.result import Pixels

CELL, CAPTION = 2.7, 0.3
"""Inches."""

ROWS = ("source", "target", "transformed")
PAIRS = ("target_transformed", "source_transformed")
"""Of saliency maps, that are compared below the second row and the third."""

WIDEST = 8
"""Columns side by side; more go below, in bands."""

PART = 200
"""Side, in pixels, of what is shown of a large picture, each pixel by several."""


def draw_fooling(path: Path, report: Report, *, force: bool = False) -> Path:
    """Draw source, target and transformed image, one a row, with what the network says and where it looks.

    Of pictures larger than the network's input a part is shown enlarged, too: scaled down, they lose what is the
    target's, for people as for the network. The correlations are Spearman's. Of a float image a clipped picture is
    shown: what the network says of that stands before what it says of the float image, whose maps are drawn.
    """
    record, upright, (height, width) = report.record, report.turn.upright, report.views.shape[2:]
    if report.turn.transposed:
        height, width = width, height
    pictures = _pictures(report)
    count = len(pictures) + len(report.maps)
    bands = -(-count // WIDEST)
    across = -(-count // bands)
    lines = CAPTION * (4 if record["bounded"] else 6)
    size = CELL * across + (1.2 if report.maps else 0.4), bands * (3 * CELL * height / width + lines)
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(hspace=0.01, wspace=0.01)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(3 * bands, across, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for i, (axis, name) in enumerate(zip(axes[:, 0], ROWS * bands, strict=True)):
        axis.set_ylabel(f"{name}, clipped" if i % 3 == 2 and not record["bounded"] else name, fontsize=15)
    columns = [axes[3 * band : 3 * band + 3, column] for band in range(bands) for column in range(across)]
    for column, (title, shown) in zip(columns, pictures.items(), strict=False):
        column[0].set_title(title, fontsize=14)
        for axis, picture in zip(column, shown, strict=True):
            axis.imshow(upright(picture), interpolation="nearest" if title else "antialiased")
    for axis, name in zip(columns[0], ROWS, strict=True):
        axis.set_xlabel(answer_to(record, name), fontsize=13)
    for column, (method, maps) in zip(columns[len(pictures) :], report.maps.items(), strict=False):
        column[0].set_title(method, fontsize=14)
        for axis, view, saliency in zip(column, report.views, maps, strict=True):
            axis.imshow(upright(overlay(view, saliency)))
        for axis, pair, other in zip(column[1:], PAIRS, ("transformed", "source"), strict=True):
            axis.set_xlabel(_likeness(record, method, pair, other), fontsize=12)
    if report.maps:
        draw_scale(figure, list(axes.flat))
    return save_figure(path, figure, force=force)


def _pictures(report: Report) -> dict[str, Sequence[Pixels]]:
    """The columns of pictures by their titles: what the network reads of them or, where they are large, two views."""
    read = [picture[report.read] for picture in report.pictures]
    if min(read[0].shape[:2]) < PART + max(report.views.shape[2:]):
        return {"": read}
    part = most_changed(read[0], read[2], (PART, PART))
    return {"": report.pictures, f"{PART} x {PART} pixels of it": [picture[part] for picture in read]}


def answer_to(record: Mapping[str, Any], name: str) -> str:
    """What the network says of one of the pictures in ROWS as it is shown; of a clipped one of the float image, too."""
    said = record["prediction"]
    if name != "transformed" or record["bounded"] or said[name] is None:
        return _answer(said[name])
    return f"{_answer(said['preview'])}\nunclipped: {_answer(said[name])}"


def _answer(answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return ""
    return f"{name_of(answer)[:24]} {answer['probability']:.1%}"


def _likeness(record: Mapping[str, Any], method: str, pair: str, other: str) -> str:
    """How alike two maps are: those that are drawn, of the file or of the float image; the clipped one's, too."""
    of_file = _spearman(record["saliency_png"][method][pair])
    if record["bounded"]:
        return f"{of_file} to {other}"
    return f"{_spearman(record['saliency'][method][pair])} to {other}\n(unclipped; clipped: {of_file})"


def _spearman(figures: Mapping[str, float | None]) -> str:
    spearman = figures["spearman"]
    return "a constant map" if spearman is None else f"ρ = {spearman:.2f}"
