"""The mark: a logo fitted onto a canvas, and the target image that shows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.images import read_picture

Plane = NDArray[np.floating]
Fit = Literal["contain", "cover", "stretch"]
Position = Literal["center", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right"]


@dataclass(frozen=True)
class Mark:
    """A logo: colour [h, w, 3] in [0, 1] and coverage [h, w] in [0, 1]."""

    colour: Plane
    coverage: Plane
    path: Path


@dataclass(frozen=True)
class Placement:
    """Where and how strongly the mark goes onto the canvas.

    Attributes:
        fit: "contain" keeps the mark's shape inside its box, "cover" fills the box and crops, "stretch" fills it.
        position: where the box lies on the canvas.
        scale: the box's sides as a share of the canvas's.
        opacity: multiplies the mark's coverage.
        strength: the target is x + strength * (marked x - x); above 1 it exaggerates, at no cost to the guarantee.
    """

    fit: Fit = "contain"
    position: Position = "center"
    scale: float = 0.8
    opacity: float = 1.0
    strength: float = 3.0


def read_mark(path: Path) -> Mark:
    """Read a logo. Its alpha says where it covers; an opaque one covers wherever it is not its own background.

    The background of an opaque logo is the colour of its four corners, where they agree: a logo on white paper or on
    black stamps its drawing, not a rectangle. Where they differ, the whole picture is the mark.

    Raises:
        ImageError: as `read_picture`, or nothing of the mark would be visible.
    """
    picture = read_picture(path)
    colour: Plane = picture.pixels / 255
    coverage: Plane
    if picture.alpha is not None and picture.alpha.min() < 255:
        coverage = picture.alpha / 255
        colour = _uncomposited(colour, coverage)
    else:
        corners = colour[[0, 0, -1, -1], [0, -1, 0, -1]]
        distance = np.abs(colour - corners.mean(0)).max(2)
        agree = np.abs(corners - corners.mean(0)).max() < 0.04
        coverage = np.clip(distance / max(float(distance.max()), 1e-6), 0, 1) if agree else np.ones_like(distance)
        if agree:
            colour = _uncomposited(colour, coverage, corners.mean(0))
    if float(coverage.max(initial=0)) < 0.01:
        raise ImageError(f"{path} is blank: nothing of it would be seen. Use a logo that differs from its background.")
    return Mark(colour, coverage, path)


def _uncomposited(colour: Plane, coverage: Plane, ground: Plane | float = 1.0) -> Plane:
    """The mark's own colour, from what it looks like over `ground`."""
    alpha = np.maximum(coverage, 1 / 255)[..., None]
    return np.clip((colour - (1 - alpha) * ground) / alpha, 0, 1)


def place(
    mark: Mark, width: int, height: int, placement: Placement
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """The mark's colour and coverage on a canvas of the given size, coverage 0 outside."""
    box_w, box_h = max(1, round(width * placement.scale)), max(1, round(height * placement.scale))
    mark_h, mark_w = mark.coverage.shape
    ratios = (box_w / mark_w, box_h / mark_h)
    if placement.fit == "stretch":
        size = (box_w, box_h)
    else:
        ratio = min(ratios) if placement.fit == "contain" else max(ratios)
        size = (max(1, round(mark_w * ratio)), max(1, round(mark_h * ratio)))
    # Resized as premultiplied colour, so that hidden colours under zero coverage do not bleed into the edges.
    layers = np.dstack([mark.colour * mark.coverage[..., None], mark.coverage])
    resized = np.stack([_resize(layers[..., i], size) for i in range(4)])
    if placement.fit == "cover":
        top, left = (size[1] - box_h) // 2, (size[0] - box_w) // 2
        resized = resized[:, top : top + box_h, left : left + box_w]
    _, h, w = resized.shape
    vertical, horizontal = _corner(placement.position)
    top, left = round((height - h) * vertical), round((width - w) * horizontal)
    canvas = np.zeros((4, height, width))
    canvas[:, top : top + h, left : left + w] = resized
    coverage = canvas[3].clip(0, 1)
    colour = np.where(coverage > 0, canvas[:3] / np.maximum(coverage, 1e-6), 0).clip(0, 1)
    return torch.from_numpy(colour), torch.from_numpy(coverage)


def _resize(layer: Plane, size: tuple[int, int]) -> Plane:
    return np.asarray(Image.fromarray(layer.astype(np.float32)).resize(size, Image.Resampling.LANCZOS), np.float32)


def _corner(position: Position) -> tuple[float, float]:
    """How far down and to the right the box goes, 0 to 1."""
    down = 0.0 if position.startswith("top") else 1.0 if position.startswith("bottom") else 0.5
    right = 0.0 if position.endswith("left") else 1.0 if position.endswith("right") else 0.5
    return down, right


def target_image(image: Float[Tensor, "3 h w"], mark: Mark, placement: Placement) -> Float[Tensor, "3 h w"]:
    """t = x + strength * coverage * (mark - x): what the watermarked image should look like; may leave [0, 1]."""
    colour, coverage = place(mark, image.shape[2], image.shape[1], placement)
    weight = placement.strength * placement.opacity * coverage.to(image)
    return image + weight * (colour.to(image) - image)
