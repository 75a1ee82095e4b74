"""A watermark that was made: how close it is to its source, and how well it shows what was wanted."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.documents.artefacts import Provenance, write_tensors
from nullspace_cli.engine.documents.kinds import WATERMARK
from nullspace_cli.engine.files.hashes import sha256_of_each
from nullspace_cli.engine.files.jpeg_pictures import ComparedWith
from nullspace_cli.engine.watermark.design import Design

Pixels = UInt8[NDArray[np.uint8], "H W 3"]
Plane = Float[NDArray[np.float32], "H W"]
Nullspace = Literal["resize", "patch", "affine"]
Rounding = Literal["aware", "nearest"]
CHUNK = 256
"""Rows of an image that are measured at a time."""


class Unrounded(NamedTuple):
    """Images [3, h, w] in [0, 1] before rounding: the exact solution, the source and the target."""

    image: Float[Tensor, "3 h w"]
    source: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]


class Jpeg(NamedTuple):
    """A result that is a JPEG.

    Attributes:
        data: its bytes.
        lost: what it goes without of the source, in words.
        compared_with: the JPEG whose pixels the source's are taken to be: "source", or the "plain JPEG" made of it.
        size_ratio: of its bytes to that one's.
        blocks_changed: share of the luma's blocks that are not that one's own.
    """

    data: bytes
    lost: tuple[str, ...]
    compared_with: ComparedWith
    size_ratio: float
    blocks_changed: float


@dataclass(frozen=True, eq=False)
class Watermarked:
    """A watermark that was made.

    Attributes:
        source: the source at the result's size, as the network is shown it.
        wanted: the target, within the range of pixels.
        pixels: the result.
        nullspace: whose: the resize's, the patch embedding's, or that of first layers that read images as a whole.
        solver: the certificate: norm, status, iterations, gap, residual, bound_violation, and what was left unmarked.
        unrounded: makes the images before rounding.
        drawn: makes the change of luminance, in [-1, 1], by which the mark would be drawn on mid-grey.
        jpeg: where the result is one.
    """

    source: Pixels
    wanted: Pixels
    pixels: Pixels
    nullspace: Nullspace
    rounding: Rounding
    solver: Mapping[str, Any]
    unrounded: Callable[[], Unrounded]
    drawn: Callable[[], Plane]
    jpeg: Jpeg | None = None


def fidelity(result: Watermarked) -> dict[str, float | None]:
    """How close the picture stays to its source (PSNR in dB), and how well the change shows the wanted one."""
    count, sums = result.source.size, np.zeros(5)
    for change, wanted in _changes(result):
        powers = (np.vdot(a, b) for a, b in ((change, change), (wanted, wanted), (change, wanted)))
        sums += change.sum(), wanted.sum(), *powers
    mean_change, mean_wanted, power, wanted_power, product = sums / count
    spread = (power - mean_change**2) * (wanted_power - mean_wanted**2)
    return {
        "psnr": float(10 * np.log10(255**2 / power)) if power else None,
        "mark_correlation": float((product - mean_change * mean_wanted) / spread**0.5) if spread > 0 else None,
    }


def attained(result: Watermarked) -> float:
    """How much of the wanted change was made: <z - x, t - x> / ||t - x||^2. 1 where nothing was wanted."""
    made = wished = 0.0
    for change, wanted in _changes(result):
        made, wished = made + float(np.vdot(change, wanted)), wished + float(np.vdot(wanted, wanted))
    return made / wished if wished else 1.0


def _changes(result: Watermarked) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The change that was made and the one that was wanted, in levels, some rows at a time, wherever there are any."""
    for start in range(0, len(result.source), CHUNK):
        source, *others = (part[start : start + CHUNK] for part in (result.source, result.pixels, result.wanted))
        columns = np.flatnonzero(np.any([(part != source).any((0, 2)) for part in others], 0))
        if len(columns):
            hull = slice(columns[0], columns[-1] + 1)
            before = source[:, hull].astype(np.float64)
            yield others[0][:, hull] - before, others[1][:, hull] - before


def noise_picture(result: Watermarked) -> Pixels:
    """The watermark's noise, drawn."""
    return shown_noise(result.pixels.astype(np.int16) - result.source)


def shown_noise(noise: Shaped[NDArray[Any], "h w 3"]) -> Pixels:
    """Noise in any unit as a picture: mid-grey is no change, the largest change is black or white."""
    largest = float(np.abs(noise).max(initial=0)) or 1.0
    picture: Pixels = (128 + (noise * np.float32(127 / largest))).round().astype(np.uint8)
    return picture


def gain_of(noise: Shaped[NDArray[Any], "h w 3"], levels: float = 1.0) -> float | None:
    """By how much `shown_noise` enlarges noise: levels drawn for one level of change; None where there is none.

    Args:
        levels: of the 255 in one unit of the noise.
    """
    largest = float(np.abs(noise).max(initial=0)) * levels
    return 127 / largest if largest else None


def noise_gain(result: Watermarked) -> float | None:
    """That of `noise_picture`."""
    return gain_of(result.pixels.astype(np.int16) - result.source)


def save_float(
    path: Path,
    result: Watermarked,
    design: Design,
    source: Path,
    basis: Path | None,
    *,
    model: str,
    weights_sha256: str | None,
    seed: int,
) -> Path:
    """Write `image`, the exact solution before rounding, `source` and `target`: [3, h, w] in pixel space [0, 1]."""
    parents = {**sha256_of_each({"source": source, "basis": basis}), "mark": design.mark.sha256}
    parameters = {"norm": result.solver["norm"], "nullspace": result.nullspace, **design.describe()}
    provenance = Provenance(WATERMARK, "pixel", model, weights_sha256, seed, parameters, parents)
    return write_tensors(path, result.unrounded()._asdict(), provenance, force=True)
