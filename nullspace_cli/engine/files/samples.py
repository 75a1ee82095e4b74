"""Samples of pictures as a PNG can hold them, grey or RGB, alpha last, 8 or 16 bits, and the 8-bit levels they are."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from nullspace_cli.engine.files import png

DEEP = 65535
"""White in 16 bits."""

CLIPPED = 255
"""The largest value of 16-bit grey that timm's loader tells from white."""


def is_rounded(samples: png.Samples) -> bool:
    """Whether their 8-bit levels are the nearest, as of 16-bit grey alone, or the high bytes, as Pillow has them."""
    return samples.dtype == np.uint16 and samples.shape[2] == 1


def levels_of(samples: NDArray[Any], *, rounded: bool = False) -> NDArray[np.uint8]:
    """The 8-bit levels of samples: those of 16 bits by their high bytes, or rounded, v 255 / 65535."""
    if samples.dtype == np.uint8:
        return samples
    if not rounded:
        return (samples >> 8).astype(np.uint8)
    # 257 is odd, so there are no ties and adding 128 rounds; the minimum keeps the sum in 16 bits and the level at 255.
    return ((np.minimum(samples, DEEP - 128) + 128) // 257).astype(np.uint8)


def moved(samples: NDArray[Any], levels: NDArray[np.uint8], least: int | None) -> NDArray[np.uint16]:
    """The samples of the given levels that lie nearest to v + 257 times the change of level.

    Args:
        least: of samples whose levels are rounded, the smallest that may be; None where levels are the high bytes.
    """
    new = levels.astype(np.int32)
    target = samples + 257 * (new - levels_of(samples, rounded=least is not None))
    first, last = (256 * new, 256 * new + 255) if least is None else (least, DEEP)
    return np.clip(target, first, last).astype(np.uint16)


def seen_of(samples: png.Samples) -> UInt8[NDArray[np.uint8], "H W 3"]:
    """What is shown of samples: their 8-bit levels, RGB on white."""
    levels = levels_of(samples, rounded=is_rounded(samples))
    channels = levels.shape[2]
    if channels in (2, 4):
        levels = _on_white(levels[..., :-1], levels[..., -1])
    return np.repeat(levels, 3, axis=2) if channels <= 2 else levels


def opaque_of(samples: png.Samples, *, clipped: bool = False) -> UInt8[NDArray[np.uint8], "h w 3"]:
    """The 8-bit levels of samples as RGB without alpha.

    Args:
        clipped: as timm's loader has 16-bit grey, and not scaled.
    """
    channels, rounded = samples.shape[2], is_rounded(samples)
    colour = samples[..., : channels - 1 if channels in (2, 4) else channels]
    levels = np.minimum(colour, CLIPPED).astype(np.uint8) if clipped and rounded else levels_of(colour, rounded=rounded)
    return np.repeat(levels, 3, axis=2) if channels <= 2 else levels


def mode_of(samples: png.Samples) -> str:
    """Pillow's, of a PNG with these samples."""
    return "I;16" if is_rounded(samples) else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[2]]


def _on_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """round((a c + (255 - a) 255) / 255), exactly; opaque pixels stay as they are."""
    seen = np.empty_like(colour, order="C")
    for rows in bands(len(colour)):
        a = alpha[rows, :, None].astype(np.uint16)
        # 255 is odd, so there are no ties and adding 127 rounds; the largest sum, 65152, still fits 16 bits.
        seen[rows] = (a * colour[rows] + (255 - a) * 255 + 127) // 255
    return seen


def off_white(seen: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A colour that `_on_white` turns into what is seen, for 255 - a <= seen: 255 - round(255 (255 - seen) / a).

    Rounding puts a (255 - c) / 255 less than half a level off 255 - seen, so that the next rounding restores it.
    """
    a = np.maximum(alpha, 1)[..., None].astype(np.uint16)  # below it only white is seen, of any colour
    return (255 - (255 * (255 - seen.astype(np.uint16)) + a // 2) // a).astype(np.uint8)


def bands(height: int) -> Iterator[slice]:
    """All rows, some at a time, so that wider numbers are needed of a part of an image only."""
    return (slice(top, top + 256) for top in range(0, height, 256))
