"""The down-and-up test: whether a picture has more fine detail than photos have, as marks and scaling attacks do.

Scaled down and up again, a picture lacks what only its own size can show. Where that is much, somebody may have put it
there: as an image that is another one once it is scaled (an image-scaling attack), or as a hatched mark. This loss is
one of the figures of Decamouflage (Kim et al., arXiv 2010.03735; there squared). But of a photo of leaves it is large,
too. A photo has about as much detail in one octave as in the next, so it is held against what the next scaling loses.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.comparison.input_change import change_between

SIDE = 224
"""Of the picture that is scaled down: what most networks read."""
THRESHOLD = 1.6
"""Of a ratio that few photos reach (docs/checking.md has the shares)."""


class DownAndUp(NamedTuple):
    """What is lost of a picture that is scaled down and up again.

    Attributes:
        rms: root mean square of the difference, in levels, for a scaling to a shorter side of `SIDE`.
        ratio: the same over that of a scaling from there to half of it; None where that loses nothing.
        suspicious: whether the ratio is above `THRESHOLD`.
    """

    rms: float
    ratio: float | None
    suspicious: bool


def down_and_up(pixels: UInt8[NDArray[Any], "H W 3"]) -> DownAndUp:
    """Of a picture no larger than that, nothing is lost and nothing can be said."""
    image = Image.fromarray(pixels)
    scale = min(1.0, SIDE / min(image.size))
    small = image.resize(_scaled(image.size, scale), Image.Resampling.BICUBIC)
    lost, next_lost = _lost(image, small.size), _lost(small, _scaled(small.size, 0.5))
    ratio = lost / next_lost if next_lost else None
    return DownAndUp(lost, ratio, ratio is not None and ratio > THRESHOLD)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _lost(image: Image.Image, size: tuple[int, int]) -> float:
    """The rms of what a scaling to a size and back loses, in levels."""
    back = image.resize(size, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)
    return change_between(np.asarray(image), np.asarray(back)).rms
