"""Heat maps over images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.saliency.methods import upsampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAP = 0.995
"""Quantile of the map that is drawn as hottest: single pixels, as of gradient maps, would leave the rest dark."""

STRENGTH = 0.75
"""Weight of the colours where a map is hottest."""

COLOURS = "inferno"
"""matplotlib's name of the scale: from dark to light, and equal steps look equal, in grey too."""


def heat(saliency: Float[Tensor, "gh gw"], size: tuple[int, int]) -> Float[NDArray[np.float64], "h w"]:
    """A map on an image's grid (h, w), in [0, 1]: magnitudes from the smallest to the `CAP` quantile."""
    values = upsampled(saliency.double().abs()[None], size)[0]
    low, high = float(values.min()), float(torch.quantile(values.flatten(), CAP))
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    array: NDArray[np.float64] = scaled.clamp(0, 1).numpy()
    return array


def draw_scale(figure: "Figure", axes: "Sequence[Axes]") -> None:
    """What the colours mean, beside maps that are each drawn on a scale of its own."""
    colours = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(colours, ax=list(axes), shrink=0.6, pad=0.01, ticks=(0, 1))
    bar.ax.set_yticklabels(["least", f"{CAP:.1%}\nquantile"], fontsize=9)
    bar.set_label("evidence, magnitude; each map's own scale", fontsize=9)


def overlay(
    image: Float[Tensor, "c h w"],
    saliency: Float[Tensor, "gh gw"],
    read: tuple[slice, slice] = (slice(None), slice(None)),
) -> UInt8[NDArray[np.uint8], "h w 3"]:
    """A map over its image in [0, 1], which shows in grey beneath; the hotter, the less of it.

    Args:
        read: the rows and columns that the map lies over; the others are grey alone.
    """
    grey = image.double().clamp(0, 1).mean(0).numpy()[..., None] * 255
    picture = np.repeat(grey, 3, axis=2)
    part = picture[read]
    values = heat(saliency, part.shape[:2])
    weight = STRENGTH * (0.35 + 0.65 * values[..., None])
    picture[read] = (1 - weight) * part + weight * 255 * colormaps[COLOURS](values)[..., :3]
    return picture.round().astype(np.uint8)
