"""Figures of saliency: sheets of maps over their image, and curves of faithfulness."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nullspace_cli.engine.plots.figure import GREY, save_figure
from nullspace_cli.engine.plots.heat_maps import draw_scale
from nullspace_cli.engine.saliency.faithfulness import FRACTIONS, FaithfulnessOfMany

Pixels = UInt8[NDArray[np.uint8], "h w 3"]


def draw_saliency(
    path: Path, title: str, image: Pixels, overlays: Mapping[str, Pixels], *, force: bool = False
) -> Path:
    """Draw a sheet: an image and its maps by several methods, each with its name."""
    panels = {"image": image, **overlays}
    rows = -(-len(panels) // 6)
    columns = -(-len(panels) // rows)
    height, width, _ = image.shape
    figure = Figure(figsize=(2.3 * columns + 0.8, (2.3 * height / width + 0.25) * rows + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=13)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, picture) in zip(axes, panels.items(), strict=False):
        axis.imshow(picture)
        axis.set_title(name, fontsize=11)
    draw_scale(figure, list(axes))
    return save_figure(path, figure, force=force)


def draw_faithfulness(path: Path, title: str, found: FaithfulnessOfMany, *, force: bool = False) -> Path:
    """Write the figure of `faithfulness_figure`."""
    return save_figure(path, faithfulness_figure(title, found), force=force)


def faithfulness_figure(title: str, found: FaithfulnessOfMany) -> Figure:
    """Draw the curves of all methods, most relevant pixels first and least relevant first, beside random maps."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=13)
    for axes, name, text in zip(
        figure.subplots(1, 2, sharey=True),
        ("positive", "negative"),
        ("most relevant pixels first (low is good)", "least relevant pixels first (high is good)"),
        strict=True,
    ):
        _draw_curves(axes, found, name)
        axes.set(title=text, xlabel="share of the pixels taken away", xlim=(0, 0.9), ylim=(-0.02, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("share of predictions kept")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return figure


def _draw_curves(axes: Axes, found: FaithfulnessOfMany, name: str) -> None:
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for i, (method, curves) in enumerate(found.methods.items()):
        style = ("-", "--", "-.")[i % 3]
        curve = getattr(curves, name)
        axes.plot(FRACTIONS, curve.accuracy, style, color=colours[i % len(colours)], lw=1.8, label=method)
    for i, ((rows, columns), curves) in enumerate(found.controls.items()):
        curve, style = getattr(curves, name), ("o:", "s:")[i % 2]
        axes.plot(FRACTIONS, curve.accuracy, style, color=GREY, lw=1.8, ms=4, label=f"random, {rows} × {columns}")
