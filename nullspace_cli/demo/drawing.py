"""Draws the images of the embedded demo: ten classes of shapes and textures, the same bytes on every machine.

Two things make the bytes portable. All randomness is read as raw 64-bit words of PCG64, whose stream numpy guarantees
(its distributions it does not). All pixel arithmetic is float64 ``+ - * / sqrt abs min max floor``, which IEEE 754
rounds exactly; no sine, cosine or exponential, whose last bit differs between libraries, ever touches a pixel.

No class is told by colour: the colours of figure and ground are drawn without looking at the class.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float64]

SPLITS = {"train": 0, "val": 1, "test": 2}
"""Each split is a stream of its own, so that no image of one is ever drawn in another."""


class Rng:
    """Uniform numbers from PCG64's raw words, seeded by a tuple of integers."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(list(seed))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def below(self, count: int) -> int:
        return (int(self._bits.random_raw()) >> 32) % count

    def plane(self, height: int, width: int) -> Plane:
        """A [height, width] plane of uniform numbers in [-1, 1)."""
        words = self._bits.random_raw(height * width) >> np.uint64(11)
        return words.astype(np.float64).reshape(height, width) * 2.0**-52 - 1.0

    def direction(self) -> tuple[float, float]:
        """A unit vector by the rational parametrisation of the circle: no sine, so no last-bit differences."""
        t = self.uniform(-1.0, 1.0)
        c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        return ((c, s), (-s, c), (-c, -s), (s, -c))[self.below(4)]


# --- signed distances, negative inside, in object coordinates where the figure fits the unit circle


def _disk(u: Plane, v: Plane, rng: Rng) -> Plane:
    return np.sqrt(u * u + v * v) - 0.85


def _ring(u: Plane, v: Plane, rng: Rng) -> Plane:
    width = rng.uniform(0.16, 0.22)
    return np.abs(np.sqrt(u * u + v * v) - (0.9 - width)) - width


def _square(u: Plane, v: Plane, rng: Rng) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - 0.68


def _triangle(u: Plane, v: Plane, rng: Rng) -> Plane:
    slope = sqrt(3.0) / 2
    return np.maximum(v, np.maximum(slope * u - 0.5 * v, -slope * u - 0.5 * v)) - 0.47


_PENTAGON = (
    (0.0, 1.0),
    (0.9510565162951535, 0.30901699437494745),
    (0.5877852522924731, -0.8090169943749475),
    (-0.5877852522924731, -0.8090169943749475),
    (-0.9510565162951535, 0.30901699437494745),
)


def _star(u: Plane, v: Plane, rng: Rng) -> Plane:
    # A pentagram is the set inside at least four of its five edges: the second largest of the five distances.
    first = np.full_like(u, -np.inf)
    second = first
    for a, b in _PENTAGON:
        distance = a * u + b * v - 0.33
        second = np.maximum(second, np.minimum(first, distance))
        first = np.maximum(first, distance)
    return second


def _cross(u: Plane, v: Plane, rng: Rng) -> Plane:
    arm = rng.uniform(0.22, 0.28)
    x, y = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(x - 0.92, y - arm), np.maximum(y - 0.92, x - arm))


def _crescent(u: Plane, v: Plane, rng: Rng) -> Plane:
    shift = rng.uniform(0.42, 0.52)
    w = u - shift
    return np.maximum(np.sqrt(u * u + v * v) - 0.9, 0.74 - np.sqrt(w * w + v * v))


def _cloth(u: Plane, v: Plane, rng: Rng) -> Plane:
    """The outline of a textured patch: a rectangle with rounded corners, of any aspect."""
    a, b = rng.uniform(0.6, 0.85), rng.uniform(0.6, 0.85)
    corner = 0.2
    x, y = np.maximum(np.abs(u) - a + corner, 0), np.maximum(np.abs(v) - b + corner, 0)
    return np.sqrt(x * x + y * y) - corner


def _wave(u: Plane, period: float, phase: float) -> Plane:
    """Signed distance to bands of half the period: a triangle wave."""
    x = u / period + phase
    return (0.5 - np.abs(2 * (x - np.floor(x)) - 1)) * (period / 2)


def _stripes(u: Plane, v: Plane, rng: Rng) -> Plane:
    return np.maximum(_cloth(u, v, rng), _wave(u, rng.uniform(0.36, 0.5), rng.uniform()))


def _checks(u: Plane, v: Plane, rng: Rng) -> Plane:
    period = rng.uniform(0.55, 0.75)
    cloth = _cloth(u, v, rng)
    a, b = _wave(u, period, rng.uniform()), _wave(v, period, rng.uniform())
    return np.maximum(cloth, np.minimum(np.maximum(a, b), np.maximum(-a, -b)))


def _dots(u: Plane, v: Plane, rng: Rng) -> Plane:
    period = rng.uniform(0.4, 0.5)
    cloth = _cloth(u, v, rng)
    x, y = u / period + rng.uniform(), v / period + rng.uniform()
    x, y = (x - np.floor(x) - 0.5) * period, (y - np.floor(y) - 0.5) * period
    return np.maximum(cloth, np.sqrt(x * x + y * y) - 0.33 * period)


FIGURES: dict[str, Callable[[Plane, Plane, Rng], Plane]] = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
}
CLASSES = tuple(FIGURES)


def _tinted(rng: Rng, luma: float, tint: float) -> tuple[float, float, float]:
    """A colour of about the given luma (0..1) whose channels differ by up to `tint` either way."""
    r, g, b = (rng.uniform(-tint, tint) for _ in range(3))
    mean = (r + g + b) / 3
    return luma + r - mean, luma + g - mean, luma + b - mean


def _smooth(rng: Rng, size: int, cells: int) -> Plane:
    """Low-frequency noise: a coarse grid of uniform numbers, interpolated bilinearly to [size, size]."""
    grid = rng.plane(cells + 1, cells + 1)
    at = (np.arange(size) + 0.5) * (cells / size)
    i = np.minimum(np.floor(at).astype(np.int64), cells - 1)
    f = at - i
    rows = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
    return rows[:, i] * (1 - f)[None, :] + rows[:, i + 1] * f[None, :]


def _clutter(image: Plane, rng: Rng, colour: tuple[float, float, float], opacity: float) -> None:
    """One small bar or blob, drawn in place; too small to be taken for a figure."""
    size = image.shape[1]
    x, y = rng.uniform(0, size), rng.uniform(0, size)
    c, s = rng.direction()
    long, thin = rng.uniform(0.02, 0.07) * size, rng.uniform(0.008, 0.025) * size
    reach = int(long + thin) + 2
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    bottom, right = min(size, int(y) + reach), min(size, int(x) + reach)
    if top >= bottom or left >= right:
        return
    v = (np.arange(top, bottom) + 0.5 - y)[:, None]
    u = (np.arange(left, right) + 0.5 - x)[None, :]
    along, across = np.maximum(np.abs(c * u + s * v) - long, 0), c * v - s * u
    cover = np.clip(0.5 - (np.sqrt(along * along + across * across) - thin), 0, 1) * opacity
    for channel, value in enumerate(colour):
        box = image[channel, top:bottom, left:right]
        box += cover * (value - box)


def draw(
    split: str, index: int, *, size: int = 224, hardness: float = 1.0, seed: int = 0
) -> tuple[NDArray[np.uint8], int]:
    """Image `index` of a split and its class.

    Args:
        split: "train", "val" or "test".
        index: any non-negative integer; the class is ``index % 10``, so every run of ten holds each class once.
        size: side in pixels; the composition does not depend on it, the pixel noise does.
        hardness: 0 (large, bright, alone) to 1 (the demo's own data: smaller, fainter, either polarity, cluttered,
            unevenly lit). Below 1 it serves as the curriculum of `train.py`.
        seed: another seed, another data set.

    Returns:
        uint8 pixels [size, size, 3] (RGB) and the class index.
    """
    label = index % len(CLASSES)
    rng = Rng(seed, SPLITS[split], index)

    contrast = rng.uniform(0.45 - 0.2 * hardness, 0.6)
    dark = rng.uniform(0.08, 0.92 - contrast)
    lighter = rng.uniform() >= 0.5 * hardness
    ground_luma, figure_luma = (dark, dark + contrast) if lighter else (dark + contrast, dark)
    tint = 0.05 + 0.25 * hardness
    ground, figure = _tinted(rng, ground_luma, tint), _tinted(rng, figure_luma, tint)

    radius = size * rng.uniform(0.44 - 0.12 * hardness, 0.48)
    free = max(size / 2 - 0.8 * radius, 0)
    x0, y0 = (size / 2 + free * rng.uniform(-1, 1) * (0.3 + 0.5 * hardness) for _ in range(2))
    c, s = rng.direction()

    image = np.empty((3, size, size))
    mottle = _smooth(rng, size, 3 + rng.below(4)) * rng.uniform(0, 0.08 * hardness)
    for channel in range(3):
        image[channel] = ground[channel] + mottle
    for _ in range(rng.below(1 + int(8 * hardness))):
        share = rng.uniform(0.2, 0.8)
        luma = ground_luma + share * (figure_luma - ground_luma)
        _clutter(image, rng, _tinted(rng, luma, tint), rng.uniform(0.4, 0.9))

    axis = np.arange(size) + 0.5
    u, v = (axis[None, :] - x0) / radius, (axis[:, None] - y0) / radius
    distance = FIGURES[CLASSES[label]](c * u + s * v, c * v - s * u, rng)
    cover = np.clip(0.5 - distance * radius, 0, 1)
    for channel in range(3):
        image[channel] += cover * (figure[channel] - image[channel])
    if rng.uniform() < hardness:
        for _ in range(rng.below(3)):
            _clutter(image, rng, _tinted(rng, (ground_luma + figure_luma) / 2, tint), rng.uniform(0.4, 0.9))

    slant_x, slant_y = (rng.uniform(-0.25, 0.25) * hardness for _ in range(2))
    image *= 1 + slant_x * (axis / size - 0.5)[None, None, :] + slant_y * (axis / size - 0.5)[None, :, None]
    image += rng.plane(size, size)[None] * rng.uniform(0, 0.04 * hardness)
    return np.floor(np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0), label
