"""The picture of a suspect that was held against a claim: one page."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nullspace_cli.engine.ownership.black_box import BlackBox
from nullspace_cli.engine.ownership.claim import Claim
from nullspace_cli.engine.ownership.verdict import Finding
from nullspace_cli.engine.ownership.white_box import WhiteBox
from nullspace_cli.engine.plots.figure import BLUE, GREY, ORANGE, save_figure

COLOURS = {"derived": ORANGE, "not shown": BLUE, "says nothing": GREY}


def draw_check(
    path: Path,
    claim: Claim,
    suspect: str,
    found: WhiteBox | BlackBox,
    finding: Finding,
    *,
    force: bool = False,
) -> Path:
    """Draw the statistic beside its surrogates, and what null noise does beside its mirror image."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    figure.suptitle(
        f"{suspect}: {finding.verdict}\nof the claim to {claim.recipe.model}, digest {claim.digest[:16]}", fontsize=12
    )
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.6, 1]})
    colour = COLOURS[finding.verdict]
    if isinstance(found, BlackBox):
        _draw_surrogates(left, np.r_[found.surrogates, -found.surrogates], found.statistic, colour)
        left.set_xlabel("null noise less its mirror image, over all images")
        _draw_bars(right, found.changed / found.images, found.changed_mirrored / found.images, colour)
        right.set_ylabel("share of labels changed")
    elif found.reading is not None and found.reading.score is not None:
        surrogates = np.zeros(0) if found.surrogates is None else found.surrogates.numpy() / found.reading.spread
        _draw_surrogates(left, surrogates, found.reading.score, colour)
        if found.own is not None and found.own.score is not None:
            left.axvline(found.own.score, color=GREY, ls=":", lw=1.5, label="the claim's own model")
        left.set_xlabel("null noise less its mirror image, in standard deviations of surrogates")
        white = found.reading.white
        _draw_bars(right, found.reading.null / white, found.reading.mirrored / white, colour)
        right.set_ylabel("power read, by that of white noise")
    else:  # nothing could be compared; the reason says why
        left.set_axis_off()
        right.set_axis_off()
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    figure.supxlabel(finding.reason, fontsize=9)
    return save_figure(path, figure, force=force)


def _draw_surrogates(axes: Axes, surrogates: np.ndarray, statistic: float, colour: str) -> None:
    if len(surrogates):
        axes.hist(surrogates, bins=40, color=GREY, alpha=0.5, label=f"{len(surrogates)} surrogates")
    axes.axvline(statistic, color=colour, lw=2.5, label="the claim's null noise")
    axes.set(ylabel="surrogates", title="Is null noise told from its mirror image?")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bars(axes: Axes, null: float, mirrored: float, colour: str) -> None:
    axes.bar(["null noise", "its mirror image"], [null, mirrored], color=[colour, GREY])
    axes.set_title("What each does to the suspect")
    axes.spines[["top", "right"]].set_visible(False)
