"""Watermarks at the model's own size (paper, section 6, eq. 7 and A.2).

The image at *model size* is the source after the resize of the model's evaluation transform and before its crop. That
transform leaves such an image as it is, so a file of that size reaches the network pixel for pixel. The crop z is the
point nearest to the target t with A z = A x and values in [0, 1], A the first layers: patch by patch where there are
patches, else as a whole. What they read, and with it the whole output, is as of the source. Pixels outside the crop,
which the network never reads, follow the target freely.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.orientation import Orientation
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.nullspace.first_layer import FirstLayer
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.transforms.eval_transform import EvalTransform, Geometry, from_8_bits, in_rgb, to_8_bits
from nullspace_cli.engine.watermark.design import Aim, drawn_on_grey, own_design
from nullspace_cli.engine.watermark.input_constraint import InputConstraint, Inputs, input_constraint
from nullspace_cli.engine.watermark.mark_style import GREY, MODEL_PERIOD
from nullspace_cli.engine.watermark.result import Rounding, Unrounded, Watermarked

CANVAS, CROPS = 1 << 22, 16
"""Pixels, and crops of the network's: of resized images that are larger than both, most is never read. In float64 the
many steps of a solution take 200 bytes for each pixel."""


@dataclass(frozen=True)
class ModelSize:
    """Makes watermarks at model size; all images of a call are solved together.

    Attributes:
        space: what the model's first layers read.
        design: of all pictures; None where each call brings its own.
        norm: the p of eq. 7.
        rounding: "aware" rounds in the metric of the first layer, "nearest" each value for itself.
        tolerance: largest ||A (z - x)||_2 of a patch, or of an image, by an orthonormal basis of A's row space, in
            [0, 1] pixel units.
    """

    transform: EvalTransform
    space: FirstLayer
    design: Aim | None
    norm: Literal[1, 2] = 2
    rounding: Rounding = "aware"
    tolerance: float = 1e-9
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @full_precision
    def __call__(self, pictures: Sequence[Picture], designs: Sequence[Aim] | None = None) -> list[Watermarked]:
        """Watermark each picture.

        Args:
            designs: one for each picture, in place of the maker's.

        Raises:
            ImageError: a picture is too elongated to be resized, or has no room for the mark.
            UsageError: p = 1, of a model that reads the image as a whole.
        """
        canvases = [
            self._canvas(picture, own_design(design, self.design))
            for picture, design in zip(pictures, designs or repeat(None, len(pictures)), strict=True)
        ]
        crops = zip(*(canvas.crops for canvas in canvases), strict=True)
        inputs = Inputs(*(torch.stack(parts).to(self.device) for parts in crops))
        kept = self._constraint.nearest(inputs, self.norm)
        rounded = self._constraint.round(kept.images, inputs)
        # From here on all is on the host.
        made = zip(canvases, kept.images.cpu(), rounded.cpu(), kept.certificates, strict=True)
        return [self._finish(*parts) for parts in made]

    @cached_property
    def _constraint(self) -> InputConstraint:
        return input_constraint(self.space, self.rounding, self.device, self.tolerance)

    def _canvas(self, picture: Picture, design: Aim) -> "_Canvas":
        geometry = self.transform.geometry(picture.width, picture.height)
        width, height = geometry.resized
        if width * height > max(CANVAS, CROPS * math.prod(geometry.crop)):
            raise ImageError(
                f"{picture.path} is too elongated to be marked at model size: its {picture.width} x {picture.height} "
                f"would be resized to {width} x {height}.",
                hint='Crop it first, or use `size="native"`.',
            )
        source = from_8_bits(self.transform.resize(picture.pixels))
        tint = GREY if self.space.in_chans == 1 else self._constraint.tint
        target = design.target(source, "outline", MODEL_PERIOD, tint, picture.turn)
        return _Canvas(geometry, source, target, design, picture.turn)

    def _finish(self, canvas: "_Canvas", z: Tensor, q: Tensor, certificate: dict[str, Any]) -> Watermarked:
        wanted = canvas.target.clamp(0, 1)
        image, rounded = canvas.with_crop(wanted, z), canvas.with_crop(wanted, q)
        height, width = canvas.source.shape[1:]
        return Watermarked(
            source=in_rgb(to_8_bits(canvas.source)),
            wanted=in_rgb(to_8_bits(wanted)),
            pixels=in_rgb(to_8_bits(rounded)),
            nullspace=self._constraint.nullspace,
            rounding=self._constraint.rounding,
            solver=certificate,
            unrounded=lambda: Unrounded(*(part.expand(3, -1, -1) for part in (image, canvas.source, canvas.target))),
            drawn=lambda: drawn_on_grey(canvas.design, height, width, "outline", MODEL_PERIOD, canvas.turn),
        )


@dataclass(frozen=True, eq=False)
class _Canvas:
    """One image at model size, [c, h, w] in [0, 1], the crop of it that the network reads, and what is drawn on it."""

    geometry: Geometry
    source: Float[Tensor, "c h w"]
    target: Float[Tensor, "c h w"]
    design: Aim
    turn: Orientation

    @property
    def crops(self) -> Inputs:
        """x, t and the bounds, each [c, ch, cw]; padding is not part of the file, so its bounds are its own value."""
        x, t = self._crop(self.source), self._crop(self.target)
        inside = torch.zeros(x.shape, dtype=torch.bool)
        (_, rows_seen), (_, cols_seen) = self.geometry.overlaps
        inside[:, rows_seen, cols_seen] = True
        return Inputs(x, t, torch.where(inside, 0.0, x), torch.where(inside, 1.0, x))

    def with_crop(self, image: Float[Tensor, "c h w"], crop: Float[Tensor, "c ch cw"]) -> Float[Tensor, "c h w"]:
        """A copy of the image with that crop."""
        whole = image.clone()
        (rows, rows_seen), (cols, cols_seen) = self.geometry.overlaps
        whole[:, rows, cols] = crop[:, rows_seen, cols_seen]
        return whole

    def _crop(self, image: Float[Tensor, "c h w"]) -> Float[Tensor, "c ch cw"]:
        fill = torch.tensor(self.geometry.fill, dtype=image.dtype)[:, None, None] / 255
        crop = fill.expand(-1, *self.geometry.crop).clone()
        (rows, rows_seen), (cols, cols_seen) = self.geometry.overlaps
        crop[:, rows_seen, cols_seen] = image[:, rows, cols]
        return crop
