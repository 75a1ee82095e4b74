"""How the loss fell while noise was learned."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nullspace_cli.engine.noise.trainer import LearningResult
from nullspace_cli.engine.plots.figure import plain_ticks, save_figure, shades
from nullspace_cli.engine.text import shortest


def draw_losses(path: Path, model: str, learned: Sequence[LearningResult], *, force: bool = False) -> Path:
    """Draw the loss of each noise over the optimiser steps, darker for larger sampling limits."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for (record, losses), color in zip(learned, shades(len(learned)), strict=True):
        axes.plot(np.arange(1, len(losses) + 1), losses, color=color, lw=1.6)
        end = f" {shortest(record['limit'])}" + (" (stopped)" if record["stopped"] else "")
        axes.annotate(end, (len(losses), losses[-1]), color=color, va="center", fontsize=9)
    axes.set(xlabel="optimiser step", ylabel="loss", title=f"{model}: noise from U(-lim, lim), lim beside its curve")
    if any(loss > 0 for _, losses in learned for loss in losses):  # else there is nothing to take the logarithm of
        axes.set_yscale("log")
        plain_ticks(axes.yaxis, (loss for _, losses in learned for loss in losses))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    steps = max(len(losses) for _, losses in learned)
    axes.set_xlim(0, 1.1 * steps)  # with room for the limits
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(path, figure, force=force)
