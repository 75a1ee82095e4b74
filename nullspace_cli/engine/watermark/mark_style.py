"""The target: what a mark is drawn as, so that people see it where only fine detail is free.

What a network reads of an image is mostly its coarse part: the resize keeps nothing else, and the row spaces of trained
patch embeddings hold the low spatial frequencies. Of a mark laid over the picture ("plain") therefore little but its
contours is left. An "outline" is those contours alone, as a light line beside a dark one. A "hatch" fills the mark with
a carrier: lines so fine that the network reads their local mean only, and that mean is the picture's own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from scipy.ndimage import uniform_filter
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.watermark.marks import Mark, Placed, Placement, place

MarkStyle = Literal["plain", "outline", "hatch"]
Period = tuple[float, float]
"""Of a carrier, in pixels down and across; `inf` along an axis on which it does not vary."""
Tint = tuple[float, float, float]
"""How far each channel follows a carrier or an outline, in [-1, 1]."""

Square = tuple[slice, slice]

GREY: Tint = (1.0, 1.0, 1.0)
GREEN_MAGENTA: Tint = (-0.6, 1.0, -0.6)
"""The opponent colours that differ most in luminance: an embedding that reads all of the grey often misses these."""

MODEL_PERIOD: Period = (4, 4)
"""At model size, where no resize sets it: the finest diagonal lines that are not a mere grain."""

DEFAULT_STRENGTH: Mapping[MarkStyle, float] = {"plain": 3.0, "outline": 2.0, "hatch": 1.0}
"""The `Placement.strength` that suits each style. A hatch survives whole and need not be exaggerated; twice as
strong suits it at model size, where it does not."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Rec. 601, of gamma-coded values."""

CONTRAST = 0.35
"""Root mean square of the carrier: below 0.25 it is lost on busy pictures, above 0.4 it hides what is below."""
REACH = 2.5
"""How many times CONTRAST one kind of line may differ from the picture where the other has no head-room."""
COLOUR = 1.0
"""How far the mark's colour takes part in the carrier's; the rest is luminance, which is what letters are read by."""
FLATTEN = 0.6
"""Share of the picture's own fine detail that gives way to the carrier, which would drown in it on a busy picture."""
FAINT = 0.2
"""Weight of a mark's ground (the disc behind white letters) against its figure."""
EDGE = 0.8
"""Height of an outline's light and of its dark line."""

BLOCK_WAVE = 16
"""Pixels of the slowest wave that the blocks of a JPEG are coded by."""

SIDE = 512
"""Pixels of the squares that are treated one by one: their intermediate planes stay in the cache, and one in which
nothing of the mark lies is left out."""
SAMPLED = 1 << 21
"""Pixels of a mark by which its tones are told."""


DISCARDED = 1.0
"""Period of a carrier, in pixels of the finest of several resizes."""


def line_period(ratios: tuple[float, float]) -> Period:
    """The coarsest carrier that a resize discards: horizontal or vertical lines, or a checkerboard of single pixels.

    Coarse, because a viewer too scales pictures down. At 1.5 times the ratio, Pillow's kernels pass 1 to 6 % of the
    carrier's energy; at 1.75 times, 12 to 24 %. Whole periods have an exact mean.

    Args:
        ratios: source pixels per resized pixel, down and across.
    """
    down, across = (math.floor(1.5 * ratio + 1e-6) for ratio in ratios)
    if max(down, across) < 2:
        return (2, 2)
    return (down, math.inf) if down >= across else (math.inf, across)


def wave_period(ratios: tuple[float, float]) -> Period:
    """As `line_period`, for a JPEG: whole halves of a wave fill a block of 8 x 8 pixels, or whole blocks a half.

    With `wave_phase` such a wave is one of those that a block is coded by: a coefficient or two make it, where lines of
    another period take many. Where either would do it varies along rows: there the usual tables are coarser.
    """
    down, across = (math.floor(1.5 * ratio + 1e-6) for ratio in ratios)
    lines = max(down, across)
    if lines < 3:  # finer than a block's finest wave
        return line_period(ratios)
    length = BLOCK_WAVE / math.ceil(BLOCK_WAVE / lines) if lines < BLOCK_WAVE else lines // BLOCK_WAVE * BLOCK_WAVE
    return (length, math.inf) if down > across else (math.inf, length)


def wave_phase(period: Period, size: tuple[int, int], flipped: Sequence[bool]) -> float:
    """The phase of an upright picture's waves that are those of the blocks of 8 x 8 pixels that it is stored in.

    Args:
        size: of the picture, down and across.
        flipped: whether its rows and its columns are stored from their end.
    """
    return sum((0.5 - (side if back else 0)) / length for length, side, back in zip(period, size, flipped, strict=True))


def diagonal_period(ratio: float) -> Period:
    """The coarsest carrier that each of several resizes discards, along rows as well as columns: diagonal lines.

    Args:
        ratio: source pixels per resized pixel of the finest resize.
    """
    side = max(2, math.floor(DISCARDED * ratio + 1e-6))
    return (side, side)


def visible_tint(
    read_part: Callable[[Float[Tensor, "2 3 h w"]], Float[Tensor, "2 3 h w"]], size: tuple[int, int], period: Period
) -> Tint:
    """The tint whose carrier keeps more luminance contrast when what a network's first layers read is projected out.

    contrast(v) = |luminance(tint)| ||v - P v|| / ||v||, v the carrier's two phases on images of `size`.

    Args:
        read_part: P, the projection of float64 images in pixel space onto the row space.
        size: (height, width), of a patch or an image.
    """
    down, across = (torch.arange(side, dtype=torch.float64) for side in size)
    angle = 2 * math.pi * (down[:, None] / period[0] + across / period[1] + 1 / 8)

    def contrast(tint: Tint) -> float:
        channels = torch.tensor(tint, dtype=torch.float64)[:, None, None]
        v = torch.stack([angle.sin(), angle.cos()])[:, None] * channels
        kept = 1 - float(read_part(v).square().sum() / v.square().sum())
        return abs(float(_luminance(channels))) * math.sqrt(max(kept, 0))

    return max((GREY, GREEN_MAGENTA), key=contrast)


def target_image(
    image: Shaped[Tensor, "c h w"],
    mark: Mark,
    placement: Placement,
    style: MarkStyle = "plain",
    period: Period = MODEL_PERIOD,
    tint: Tint = GREY,
    phase: float = 0.0,
) -> Shaped[Tensor, "c h w"]:
    """What the watermarked image should look like: t = x + strength * opacity * change; may leave [0, 1].

    Args:
        image: x in [0, 1], or in whole levels, uint8, as t is then, too; RGB or, with one channel, greyscale: then the
            mark is one of luminance.
        period: of the hatch's lines, and the width of an outline's; see `line_period`.
        tint: of hatch and outline; see `visible_tint`.
        phase: of the hatch where the image begins, in periods; see `wave_phase`.
    """
    placed = _with_margin(place(mark, image.shape[2], image.shape[1], placement), _width(period), image)
    ink = _Ink.of(placed)
    target = image.clone()
    weight = placement.strength * placement.opacity
    for own, seen in _squares(placed.shape, _width(period)):
        colour, coverage = placed.part(*seen)
        if not coverage.any():
            continue
        down, across = (_moved(side, start) for side, start in zip(seen, (placed.top, placed.left), strict=True))
        x = in_unit_range(image[:, down, across])
        colour, coverage = colour.to(x), coverage.to(x)
        layer = _Layer(
            x=x,
            colour=colour if len(x) == 3 else _luminance(colour),
            coverage=coverage,
            ink=ink.plane(colour, coverage),
            polarity=ink.polarity,
            corner=(down.start, across.start),
            period=period,
            phase=phase,
            tint=torch.tensor(tint if len(x) == 3 else (1.0,), dtype=x.dtype, device=x.device)[:, None, None],
        )
        drawn = (x + weight * STYLES[style](layer))[:, *(_moved(a, -b.start) for a, b in zip(own, seen, strict=True))]
        rows, columns = (_moved(side, start) for side, start in zip(own, (placed.top, placed.left), strict=True))
        target[:, rows, columns] = in_unit_of(image, drawn)
    return target


def in_unit_range(image: Shaped[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """An image in [0, 1], of one that may be in levels."""
    return image if image.is_floating_point() else image.to(torch.float32).div_(255)


def in_unit_of(image: Shaped[Tensor, "c h w"], target: Float[Tensor, "_ _ _"]) -> Shaped[Tensor, "_ _ _"]:
    """A target in levels, clipped to them and rounded, where the image that it is for is in levels."""
    return target if image.is_floating_point() else target.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _with_margin(placed: Placed, margin: int, image: Float[Tensor, "c h w"]) -> Placed:
    """The same mark with more of the canvas around it, as far as there is: contours have an outer side."""
    (height, width), (h, w) = image.shape[1:], placed.shape
    above, left = min(margin, placed.top), min(margin, placed.left)
    below, right = min(margin, height - placed.top - h), min(margin, width - placed.left - w)
    sides = (left, right, above, below)
    if not any(sides):
        return placed  # tiles have none
    return Placed.once(placed.top - above, placed.left - left, F.pad(placed.layers, sides))


def _squares(shape: tuple[int, int], margin: int) -> Iterator[tuple[Square, Square]]:
    """The squares that are treated one by one, and the same with the neighbours that smoothing needs."""

    def cut(size: int) -> Iterator[tuple[slice, slice]]:
        for start in range(0, size, SIDE):
            stop = min(start + SIDE, size)
            yield slice(start, stop), slice(max(0, start - margin), min(size, stop + margin))

    for (rows, seen_rows), (columns, seen_columns) in product(*map(cut, shape)):
        yield (rows, columns), (seen_rows, seen_columns)


def _moved(side: slice, by: int) -> slice:
    return slice(side.start + by, side.stop + by)


@dataclass(frozen=True)
class _Ink:
    """Which of a mark's tones is its figure, as luminance, and how far from it its ground is; polarity 1 is light."""

    tone: float
    spread: float
    polarity: float

    @classmethod
    def of(cls, placed: Placed) -> "_Ink":
        """The figure is the tone of the smaller area: letters on a disc, not the disc."""
        every = slice(None, None, math.ceil(math.sqrt(math.prod(placed.shape) / SAMPLED)))
        colour, coverage = placed.part(every, every)
        seen = _luminance(colour)[0][coverage >= 0.5 * coverage.max()]
        low, high, mean = float(seen.min()), float(seen.max()), float(seen.mean())
        if high - low < 0.2:
            return cls(mean, math.inf, 1.0 if mean >= 0.5 else -1.0)
        light = mean < (low + high) / 2
        return cls(high if light else low, high - low, 1.0 if light else -1.0)

    def plane(self, colour: Float[Tensor, "3 h w"], coverage: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """Coverage, less where the mark's tone is that of its ground."""
        distance = (_luminance(colour)[0] - self.tone).abs() / self.spread
        return coverage * (1 - (1 - FAINT) * distance.clamp(0, 1))


@dataclass(frozen=True, eq=False)
class _Layer:
    """What a style reads: a piece of the picture and of the mark over it, at `corner` on the canvas."""

    x: Float[Tensor, "c h w"]
    colour: Float[Tensor, "c h w"]
    coverage: Float[Tensor, "h w"]
    ink: Float[Tensor, "h w"]
    polarity: float
    corner: tuple[int, int]
    period: Period
    phase: float
    tint: Float[Tensor, "c 1 1"]


def _plain(layer: _Layer) -> Float[Tensor, "c h w"]:
    """coverage * (colour - x)."""
    return layer.coverage * (layer.colour - layer.x)


def _outline(layer: _Layer) -> Float[Tensor, "c h w"]:
    """The ink less its own local mean: light within the contour and dark without, or for a dark mark the reverse."""
    relief = layer.ink - _smoothed(layer.ink[None], layer.period)[0]
    return layer.polarity * 2 * EDGE * relief * layer.tint


def _hatch(layer: _Layer) -> Float[Tensor, "c h w"]:
    """The carrier in place of the picture's own detail, and an outline; x + change stays in [0, 1]."""
    base = _smoothed(layer.x, layer.period).clamp(0, 1)
    chroma = layer.colour - _luminance(layer.colour) if len(layer.x) == 3 else torch.zeros_like(layer.x)
    contrast = CONTRAST * layer.tint.abs() * (1 + layer.polarity * COLOUR * chroma)
    change = layer.ink * _carrier(base, contrast, layer) + FLATTEN * layer.coverage * (base - layer.x)
    room = 2 * (base * (1 - base)).sqrt()  # as much as the carrier has; a line that must be clipped would not survive
    return (layer.x + change + room * _outline(layer)).clamp(0, 1) - layer.x


def _carrier(base: Float[Tensor, "c h w"], contrast: Float[Tensor, "c h w"], layer: _Layer) -> Float[Tensor, "c h w"]:
    """Two-tone lines of local mean zero, of rms `contrast` where the head-room above and below `base` allows it.

    The light lines rise by r and the dark ones fall by f; with light ones on a share f / (r + f) of the area the mean
    is 0 and the mean square r f. Near white, where r is short, few deep dark lines do what many shallow ones cannot.
    """
    up, down = 1 - base, base
    rise, fall = (
        torch.minimum(own, (contrast**2 / torch.minimum(contrast, other).clamp_min(1e-6)).clamp_max(REACH * contrast))
        for own, other in ((up, down), (down, up))
    )
    share = fall / (rise + fall).clamp_min(1e-6)
    lit = _lines(share, layer)
    if bool((layer.tint < 0).any()):
        lit = torch.where(layer.tint < 0, 1 - _lines(1 - share, layer), lit)
    return lit * (rise + fall) - fall


def _lines(share: Float[Tensor, "c h w"], layer: _Layer) -> Float[Tensor, "c h w"]:
    """How much of each pixel lies on lines that cover `share` of each period, centred on whole pixels."""
    down, across = (
        torch.arange(corner, corner + (1 if math.isinf(period) else size), dtype=torch.float64) / period
        for corner, size, period in zip(layer.corner, share.shape[1:], layer.period, strict=True)
    )
    phase = (down[:, None] + across + layer.phase) % 1
    distance = torch.minimum(phase, 1 - phase).to(share)
    pixel = 1 / _width(layer.period)
    # The line of this period and, where lines are so wide that they nearly meet, that of the next.
    nearer, farther = (((share + pixel) / 2 - d).clamp_min(0) for d in (distance, 1 - distance))
    return (nearer.minimum(share.clamp_max(pixel)) + farther) / pixel


STYLES: Mapping[MarkStyle, Callable[[_Layer], Float[Tensor, "c h w"]]] = {
    "plain": _plain,
    "outline": _outline,
    "hatch": _hatch,
}


def _width(period: Period) -> int:
    return math.ceil(min(period))


def _smoothed(planes: Float[Tensor, "c h w"], period: Period) -> Float[Tensor, "c h w"]:
    """The mean over a square of one period."""
    return torch.from_numpy(uniform_filter(planes.cpu().numpy(), _width(period), axes=(1, 2), mode="nearest")).to(
        planes
    )


def _luminance(colour: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
    red, green, blue = LUMINANCE
    return (red * colour[0] + green * colour[1] + blue * colour[2])[None]
