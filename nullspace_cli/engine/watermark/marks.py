"""The mark: a logo, and where it goes on a canvas."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.hashes import sha256_of
from nullspace_cli.engine.files.pictures import Picture, picture_of, read_picture
from nullspace_cli.engine.watermark.svg import is_svg, read_svg

Plane = NDArray[np.floating]
Fit = Literal["contain", "cover", "stretch", "tile"]
Position = Literal["center", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right"]

SCALE, CORNER_SCALE, TILE_SCALE = 0.8, 0.4, 0.3
"""The `Placement.scale` that suits a box, one in a corner, and tiles: three or four to the shorter side."""

MARGIN = 0.03
"""The `Placement.margin` that suits a box at an edge."""

GAP = 0.4
"""Between tiles, as a share of the geometric mean of a tile's sides: alike for square logos and for lines of text."""

MARK_PIXELS = 1 << 24
"""Larger pictures of a mark are scaled down as they are read: as floats, 80 megapixels of colour are a gigabyte, and
no canvas has room for all of them."""
COLOURS = 12
"""From here on many: of 59 photos 56 have so many, a flag saved as a JPEG has 3."""


@dataclass(frozen=True, eq=False)
class Mark:
    """A logo: colour [h, w, 3] in [0, 1] and coverage [h, w] in [0, 1].

    `origin` is the file that it was read from, or the text that it spells; `like_a_photo` is whether the file is opaque
    and of many colours, as photos are and logos are not.
    """

    colour: Plane
    coverage: Plane
    origin: Path | str
    like_a_photo: bool = False

    @property
    def text(self) -> str | None:
        """What it spells; None for a picture."""
        return self.origin if isinstance(self.origin, str) else None

    @property
    def sha256(self) -> str:
        """Of the file's bytes, or of the text in UTF-8."""
        if isinstance(self.origin, Path):
            return sha256_of(self.origin)
        return hashlib.sha256(self.origin.encode()).hexdigest()


@dataclass(frozen=True)
class Placement:
    """Where and how strongly the mark goes onto the canvas.

    Attributes:
        fit: "contain" keeps the mark's shape inside its box, "cover" fills the box and crops, "stretch" fills it;
            "tile" repeats the mark all over the canvas, so that it cannot be cropped away.
        position: where the box lies on the canvas; where one of the tiles does.
        margin: between the box, where it lies at an edge, and that edge, as a share of the canvas's shorter side, below
            0.5. The box gives way to it.
        scale: the box's sides as a share of the canvas's, in (0, 1]; of a tile, its longer side as a share of the
            canvas's shorter one.
        opacity: multiplies the mark's coverage.
        strength: multiplies the difference of target and source; 1 is the mark as drawn, more exaggerates it, at no
            cost to the guarantee.
    """

    fit: Fit = "contain"
    position: Position = "center"
    scale: float = 0.8
    opacity: float = 1.0
    strength: float = 3.0
    margin: float = 0.0

    @classmethod
    def suiting(
        cls, fit: Fit, position: Position, scale: float | None, margin: float | None, opacity: float
    ) -> "Placement":
        """That with the scale and the margin that suit fit and position, where none was asked for."""
        if scale is None:
            scale = TILE_SCALE if fit == "tile" else CORNER_SCALE if "-" in position else SCALE
        if margin is None:
            margin = 0.0 if fit == "tile" or position == "center" else MARGIN
        return cls(fit, position, scale, opacity, margin=margin)


@dataclass(frozen=True, eq=False)
class Placed:
    """A mark at its final size: colour and coverage in [0, 1], of the part of the canvas that it touches.

    Attributes:
        top, left: that part's corner on the canvas, in pixels.
        layers: colour and coverage; of tiles, one of those that repeat.
        down, across: for each row and column of the part, which of the layers' stands there.
    """

    top: int
    left: int
    layers: Float32[Tensor, "4 _ _"]
    down: Int64[Tensor, " h"]
    across: Int64[Tensor, " w"]

    @classmethod
    def once(cls, top: int, left: int, layers: Float32[Tensor, "4 h w"]) -> "Placed":
        """The layers as they are."""
        return cls(top, left, layers, *map(torch.arange, layers.shape[1:]))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.down), len(self.across)

    @property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns of the canvas."""
        height, width = self.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def part(self, rows: slice, columns: slice) -> tuple[Float32[Tensor, "3 k m"], Float32[Tensor, "k m"]]:
        """Colour and coverage of some rows and columns: of a whole canvas of tiles they would take gigabytes."""
        layers = self.layers[:, self.down[rows]][:, :, self.across[columns]]
        return layers[:3], layers[3]

    @property
    def colour(self) -> Float32[Tensor, "3 h w"]:
        return self.part(slice(None), slice(None))[0]

    @property
    def coverage(self) -> Float32[Tensor, "h w"]:
        return self.part(slice(None), slice(None))[1]


def read_mark(path: Path, notice: Callable[[str], None] = lambda text: None) -> Mark:
    """Read a logo, a picture or an SVG.

    Its alpha says where it covers; an opaque one covers wherever it is not its own background.

    The background of an opaque logo is the colour of its four corners, where they agree: a logo on white paper or on
    black stamps its drawing, not a rectangle. Where they differ, the whole picture is the mark.

    Args:
        notice: is told what of the file is doubtful.

    Raises:
        ImageError: as `read_picture`, or nothing of the mark would be visible.
    """
    if is_svg(path):
        return mark_of(picture_of(read_svg(path), str(path)), path)
    picture = read_picture(path, "shown")
    picture.tell(notice)
    return mark_of(picture, path)


def mark_of(picture: Picture, origin: Path | str) -> Mark:
    """A logo that has been read, as of `read_mark`.

    Raises:
        ImageError: nothing of the mark would be visible.
    """
    pixels = _reduced(picture.pixels)
    colour: Plane = np.divide(pixels, 255, dtype=np.float32)
    coverage: Plane
    like_a_photo = False
    if picture.alpha is not None and picture.alpha.min() < 255:
        coverage = np.divide(_reduced(picture.alpha), 255, dtype=np.float32)
        colour = _uncomposited(colour, coverage)
    else:
        like_a_photo = _colours(pixels) >= COLOURS
        corners = colour[[0, 0, -1, -1], [0, -1, 0, -1]]
        distance = np.abs(colour - corners.mean(0)).max(2)
        agree = np.abs(corners - corners.mean(0)).max() < 0.04
        coverage = np.clip(distance / max(float(distance.max()), 1e-6), 0, 1) if agree else np.ones_like(distance)
        if agree:
            colour = _uncomposited(colour, coverage, corners.mean(0))
    if float(coverage.max(initial=0)) < 0.01:
        raise ImageError(
            f"{picture.path} is blank: nothing of it would be seen. Use a logo that differs from its background."
        )
    return Mark(colour, coverage, origin, like_a_photo)


def _colours(pixels: UInt8[NDArray[np.uint8], "h w 3"]) -> int:
    """How many colours, of 16 levels a channel, nine in ten pixels have at least."""
    red, green, blue = (pixels >> 4).astype(np.int16).transpose(2, 0, 1)
    counts = np.sort(np.bincount((red * 256 + green * 16 + blue).ravel()))[::-1]
    return int((counts.cumsum() < 0.9 * counts.sum()).sum()) + 1


def _reduced(pixels: UInt8[NDArray[np.uint8], "h w *c"]) -> UInt8[NDArray[np.uint8], "h1 w1 *c"]:
    """At most about MARK_PIXELS of them, each the mean of a square; colours over white stay what their alpha says."""
    factor = math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / MARK_PIXELS))
    return pixels if factor <= 1 else np.asarray(Image.fromarray(pixels).reduce(factor))


def _uncomposited(colour: Plane, coverage: Plane, ground: Plane | float = 1.0) -> Plane:
    """The mark's own colour, from what it looks like over `ground`."""
    alpha = np.maximum(coverage, 1 / 255)[..., None]
    return np.clip((colour - (1 - alpha) * ground) / alpha, 0, 1)


def place(mark: Mark, width: int, height: int, placement: Placement) -> Placed:
    """Fit the mark onto a canvas of the given size, in pixels."""
    margin = round(placement.margin * min(width, height))
    if placement.fit == "tile":
        box_w = box_h = max(1, round(min(width, height) * placement.scale))
    else:
        box_w, box_h = (max(1, min(round(side * placement.scale), side - 2 * margin)) for side in (width, height))
    mark_h, mark_w = mark.coverage.shape
    ratios = (box_w / mark_w, box_h / mark_h)
    if placement.fit == "stretch":
        size = (box_w, box_h)
    else:
        ratio = max(ratios) if placement.fit == "cover" else min(ratios)
        size = (max(1, round(mark_w * ratio)), max(1, round(mark_h * ratio)))
    if placement.fit == "cover":
        # Only what is kept of it is made: of a mark that is a line, all of it would fill the memory.
        left, top = (size[0] - box_w) // 2, (size[1] - box_h) // 2
        layers = _resized(mark, size, (left, top, left + box_w, top + box_h))
    else:
        layers = _resized(mark, size, (0, 0, *size))
    _, h, w = layers.shape
    down, right = _corner(placement.position)
    top, left = (
        margin + round((side - 2 * margin - own) * at) for side, own, at in ((height, h, down), (width, w, right))
    )
    layers[:3].div_(layers[3].clamp_min(1e-6))
    layers.clamp_(0, 1)
    return _tiled(layers, width, height, top, left) if placement.fit == "tile" else Placed.once(top, left, layers)


def _resized(mark: Mark, size: tuple[int, int], part: tuple[int, int, int, int]) -> Float32[Tensor, "4 h w"]:
    """Colour times coverage, and coverage, at (width, height) `size`: of that the part (left, top, right, bottom).

    Premultiplied, so that hidden colours under zero coverage do not bleed into the edges.
    """
    height, width = mark.coverage.shape
    left, top, right, bottom = part
    box = (left * width / size[0], top * height / size[1], right * width / size[0], bottom * height / size[1])
    layers = np.empty((4, bottom - top, right - left), np.float32)
    for i, layer in enumerate(layers):
        plane = mark.coverage if i == 3 else mark.colour[..., i] * mark.coverage
        image = Image.fromarray(plane.astype(np.float32))
        layer[:] = np.asarray(image.resize(layer.shape[::-1], Image.Resampling.LANCZOS, box))
    return torch.from_numpy(layers)


def _tiled(layers: Float32[Tensor, "4 h w"], width: int, height: int, top: int, left: int) -> Placed:
    """The tile over the whole canvas, one of them at (top, left), every other row shifted by half, as bricks are."""
    _, h, w = layers.shape
    gap = max(1, round(GAP * (h * w) ** 0.5))
    course = torch.zeros(4, h + gap, w + gap)
    course[:, :h, :w] = layers
    pair = torch.cat([course, course.roll((w + gap) // 2, 2)], 1)
    rows, columns = torch.arange(height) - top, torch.arange(width) - left
    return Placed(0, 0, pair, rows % pair.shape[1], columns % pair.shape[2])


def _corner(position: Position) -> tuple[float, float]:
    """How far down and to the right the box goes, 0 to 1."""
    down = 0.0 if position.startswith("top") else 1.0 if position.startswith("bottom") else 0.5
    right = 0.0 if position.endswith("left") else 1.0 if position.endswith("right") else 0.5
    return down, right
