"""The mark: a logo or a line of text, and where it goes on a canvas."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nullspace_cli.engine.errors import ImageError, UsageError
from nullspace_cli.engine.files.hashes import sha256_of
from nullspace_cli.engine.files.pictures import Picture, read_picture

Plane = NDArray[np.floating]
Fit = Literal["contain", "cover", "stretch", "tile"]
Position = Literal["center", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right"]

DEFAULT_SCALE: Mapping[Fit, float] = {"contain": 0.8, "cover": 0.8, "stretch": 0.8, "tile": 0.3}
"""The `Placement.scale` that suits each fit: of tiles, three or four to the shorter side."""

GAP = 0.4
"""Between tiles, as a share of the geometric mean of a tile's sides: alike for square logos and for lines of text."""

CAP_HEIGHT = 256
"""Pixels of a capital of `text_mark`: marks are scaled down cleanly, never up, on canvases of usual size."""

MARK_PIXELS = 1 << 24
"""Larger pictures of a mark are scaled down as they are read: as floats, 80 megapixels of colour are a gigabyte, and
no canvas has room for all of them."""

TEXT_SIDE = 8192
"""Pixels; longer or more lines are lettered smaller, so that a page of text does not fill the memory."""


@dataclass(frozen=True, eq=False)
class Mark:
    """A logo: colour [h, w, 3] in [0, 1] and coverage [h, w] in [0, 1].

    `origin` is the file that it was read from, or the text that it spells.
    """

    colour: Plane
    coverage: Plane
    origin: Path | str

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


@dataclass(frozen=True, eq=False)
class Placed:
    """A mark at its final size: colour and coverage in [0, 1], of the part of the canvas that it touches.

    `top` and `left` are that part's corner on the canvas, in pixels.
    """

    top: int
    left: int
    colour: Float32[Tensor, "3 h w"]
    coverage: Float32[Tensor, "h w"]

    @property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns of the canvas."""
        height, width = self.coverage.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def read_mark(path: Path, notice: Callable[[str], None] = lambda text: None) -> Mark:
    """Read a logo. Its alpha says where it covers; an opaque one covers wherever it is not its own background.

    The background of an opaque logo is the colour of its four corners, where they agree: a logo on white paper or on
    black stamps its drawing, not a rectangle. Where they differ, the whole picture is the mark.

    Args:
        notice: is told what of the file is doubtful.

    Raises:
        ImageError: as `read_picture`, or nothing of the mark would be visible.
    """
    picture = read_picture(path, "shown")
    picture.tell(notice)
    return mark_of(picture, path)


def mark_of(picture: Picture, origin: Path | str) -> Mark:
    """A logo that has been read, as of `read_mark`.

    Raises:
        ImageError: nothing of the mark would be visible.
    """
    colour: Plane = np.divide(_reduced(picture.pixels), 255, dtype=np.float32)
    coverage: Plane
    if picture.alpha is not None and picture.alpha.min() < 255:
        coverage = np.divide(_reduced(picture.alpha), 255, dtype=np.float32)
        colour = _uncomposited(colour, coverage)
    else:
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
    return Mark(colour, coverage, origin)


def _reduced(pixels: UInt8[NDArray[np.uint8], "h w *c"]) -> UInt8[NDArray[np.uint8], "h1 w1 *c"]:
    """At most about MARK_PIXELS of them, each the mean of a square; colours over white stay what their alpha says."""
    factor = math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / MARK_PIXELS))
    return pixels if factor <= 1 else np.asarray(Image.fromarray(pixels).reduce(factor))


def _uncomposited(colour: Plane, coverage: Plane, ground: Plane | float = 1.0) -> Plane:
    """The mark's own colour, from what it looks like over `ground`."""
    alpha = np.maximum(coverage, 1 / 255)[..., None]
    return np.clip((colour - (1 - alpha) * ground) / alpha, 0, 1)


def text_mark(text: str) -> Mark:
    r"""White lettering in the font that Pillow carries; a line break, or a typed \n, starts a new line.

    Raises:
        UsageError: the text is blank, or the font lacks one of its characters.
    """
    lines = [line.strip() for line in text.replace("\\n", "\n").expandtabs(1).splitlines()]
    lettering = "\n".join(lines).strip("\n")
    if not lettering:
        raise UsageError(f"The text {text!r} is blank: nothing of it would be seen. Give some letters.")
    font, stroke = _font(CAP_HEIGHT)
    _check_glyphs(lettering, font)
    side = max(1.5 * CAP_HEIGHT * len(lines), *(font.getlength(line) for line in lines))
    if side > TEXT_SIDE:
        font, stroke = _font(CAP_HEIGHT * TEXT_SIDE / side)
    canvas = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = canvas.multiline_textbbox((0, 0), lettering, font, align="center", stroke_width=stroke)
    image = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    drawing = ImageDraw.Draw(image)
    drawing.multiline_text((-left, -top), lettering, 255, font, align="center", stroke_width=stroke)
    coverage = np.pad(np.asarray(image.crop(image.getbbox()), np.float32) / 255, math.ceil(stroke))
    return Mark(np.broadcast_to(np.float32(1), (*coverage.shape, 3)), coverage, text)


def _font(cap_height: float) -> tuple[ImageFont.FreeTypeFont, float]:
    """The font at a size, and the stroke that makes it bold enough to be read against a busy picture."""
    font = ImageFont.load_default(cap_height)
    assert isinstance(font, ImageFont.FreeTypeFont)
    _, top, _, bottom = font.getbbox("H")
    return font.font_variant(size=cap_height**2 / (bottom - top)), cap_height / 20


def _check_glyphs(text: str, font: ImageFont.FreeTypeFont) -> None:
    small = font.font_variant(size=32)

    def drawn(character: str) -> bytes:
        return bytes(small.getmask(character))

    absent = drawn("\U0010ffff")
    if lacking := sorted({c for c in text if not c.isspace() and drawn(c) == absent}):
        raise UsageError(f"The built-in font cannot write {' '.join(lacking)}. Use a picture of the text as the mark.")


def place(mark: Mark, width: int, height: int, placement: Placement) -> Placed:
    """Fit the mark onto a canvas of the given size, in pixels."""
    if placement.fit == "tile":
        box_w = box_h = max(1, round(min(width, height) * placement.scale))
    else:
        box_w, box_h = max(1, round(width * placement.scale)), max(1, round(height * placement.scale))
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
    top, left = round((height - h) * down), round((width - w) * right)
    if placement.fit == "tile":
        layers, top, left = _tiled(layers, width, height, top, left), 0, 0
    colour = layers[:3].div_(layers[3].clamp_min(1e-6)).clamp_(0, 1)
    return Placed(top, left, colour, layers[3].clamp_(0, 1))


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


def _tiled(layers: Float[Tensor, "4 h w"], width: int, height: int, top: int, left: int) -> Float[Tensor, "4 H W"]:
    """The tile over the whole canvas, one of them at (top, left), every other row shifted by half, as bricks are."""
    _, h, w = layers.shape
    gap = max(1, round(GAP * (h * w) ** 0.5))
    course = torch.zeros(4, h + gap, w + gap)
    course[:, :h, :w] = layers
    pair = torch.cat([course, course.roll((w + gap) // 2, 2)], 1)
    rows, columns = torch.arange(height) - top, torch.arange(width) - left
    return pair[:, (rows % pair.shape[1])[:, None], columns % pair.shape[2]]


def _corner(position: Position) -> tuple[float, float]:
    """How far down and to the right the box goes, 0 to 1."""
    down = 0.0 if position.startswith("top") else 1.0 if position.startswith("bottom") else 0.5
    right = 0.0 if position.endswith("left") else 1.0 if position.endswith("right") else 0.5
    return down, right
