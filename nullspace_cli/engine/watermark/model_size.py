"""Watermarks at the model's own size (paper, section 6, eq. 7 and A.2).

The image at *model size* is the source after the resize of the model's evaluation transform and before its crop. That
transform leaves such an image as it is, so a file of that size reaches the network pixel for pixel. Inside the crop,
each patch z is the point nearest to the target t with A z = A x and values in [0, 1]: its tokens, and with them the
whole output, are those of the source. Pixels outside the crop, which the network never reads, follow the target freely.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.orientation import Orientation
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.box_projection import project_affine_box
from nullspace_cli.engine.solvers.interior_point import solve_affine_box
from nullspace_cli.engine.solvers.metric_rounding import MetricRounding
from nullspace_cli.engine.solvers.solution import AffineBox, Solution
from nullspace_cli.engine.transforms.eval_transform import EvalTransform, Geometry, from_8_bits, in_rgb, to_8_bits
from nullspace_cli.engine.watermark.design import Aim, drawn_on_grey, own_design
from nullspace_cli.engine.watermark.mark_style import GREY, MODEL_PERIOD, visible_tint
from nullspace_cli.engine.watermark.result import Rounding, Unrounded, Watermarked

CANVAS, CROPS = 1 << 22, 16
"""Pixels, and crops of the network's: of resized images that are larger than both, most is never read. In float64 the
many steps of a solution take 200 bytes for each pixel."""


@dataclass(frozen=True)
class ModelSize:
    """Makes watermarks at model size; the patches of all images of a call are solved together.

    Attributes:
        design: of all pictures; None where each call brings its own.
        norm: the p of eq. 7.
        rounding: "aware" rounds in the metric of the patch embedding, "nearest" each value for itself.
        tolerance: largest ||A (z - x)||_2 of a patch, by an orthonormal basis of A's row space, in [0, 1] pixel units.
    """

    transform: EvalTransform
    space: PatchSpace
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
            ImageError: a picture is too elongated to be resized.
        """
        canvases = [
            self._canvas(picture, own_design(design, self.design))
            for picture, design in zip(pictures, designs or repeat(None, len(pictures)), strict=True)
        ]
        x, t, lower, upper = (
            torch.cat(parts).to(self.device) for parts in zip(*(c.patches for c in canvases), strict=True)
        )
        problem = AffineBox(self._rows, x, t, lower, upper)
        solution = self._solve(problem)
        solved = solution.residual <= self.tolerance
        solution = solution.keeping_source(problem, ~solved, self.norm)
        q = self._round(solution.value, lower, upper)
        solution, solved, q = solution.to("cpu"), solved.cpu(), q.cpu()  # from here on all is on the host
        z = solution.value
        results, start = [], 0
        for canvas in canvases:
            part = slice(start, start := start + len(canvas.patches[0]))
            results.append(self._finish(canvas, z[part], q[part], _of(solution, part), solved[part]))
        return results

    def _solve(self, problem: AffineBox) -> Solution:
        if self.norm == 2:
            return project_affine_box(*problem, tolerance=self.tolerance)
        return solve_affine_box(*problem, norm=1, tolerance=self.tolerance)

    def _round(self, z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        if self.rounding == "aware":
            return self._metric.round(z, lower=lower, upper=upper)
        return (z * 255).round() / 255

    @cached_property
    def _rows(self) -> Float[Tensor, "rank n"]:
        return self.space.row_space.to(self.device)

    @cached_property
    def _metric(self) -> MetricRounding:
        return MetricRounding.of(self.space.patch_map.matrix("pixel").to(self.device))

    @cached_property
    def _tint(self) -> tuple[float, float, float]:
        if self.space.patch_map.in_chans == 1:
            return GREY
        return visible_tint(self.space.row_space, self.space.patch_map.patch_size, MODEL_PERIOD)

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
        target = design.target(source, "outline", MODEL_PERIOD, self._tint, picture.turn)
        return _Canvas(self.space, geometry, source, target, design, picture.turn)

    def _finish(self, canvas: "_Canvas", z: Tensor, q: Tensor, solution: Solution, solved: Tensor) -> Watermarked:
        wanted = canvas.target.clamp(0, 1)
        image, rounded = canvas.with_patches(wanted, z), canvas.with_patches(wanted, q)
        certificate = {
            **solution.figures(self.norm),
            "patches": len(solution.value),
            "unmarked_patches": int((~solved).sum()),
        }
        height, width = canvas.source.shape[1:]
        return Watermarked(
            source=in_rgb(to_8_bits(canvas.source)),
            wanted=in_rgb(to_8_bits(wanted)),
            pixels=in_rgb(to_8_bits(rounded)),
            nullspace="patch",
            rounding=self.rounding,
            solver=certificate,
            unrounded=lambda: Unrounded(*(part.expand(3, -1, -1) for part in (image, canvas.source, canvas.target))),
            drawn=lambda: drawn_on_grey(canvas.design, height, width, "outline", MODEL_PERIOD, canvas.turn),
        )


@dataclass(frozen=True, eq=False)
class _Canvas:
    """One image at model size, [c, h, w] in [0, 1], the crop of it that the network reads, and what is drawn on it."""

    space: PatchSpace
    geometry: Geometry
    source: Float[Tensor, "c h w"]
    target: Float[Tensor, "c h w"]
    design: Aim
    turn: Orientation

    @property
    def patches(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, t and the bounds, patch by patch; padding is not part of the file, so its bounds are its own value."""
        cut = self.space.patch_map.patchify
        x, t = cut(self._crop(self.source)), cut(self._crop(self.target))
        inside = torch.zeros(len(self.source), *self.geometry.crop, dtype=torch.bool)
        (_, rows_seen), (_, cols_seen) = self.geometry.overlaps
        inside[:, rows_seen, cols_seen] = True
        free = cut(inside)
        return x, t, torch.where(free, 0.0, x), torch.where(free, 1.0, x)

    def with_patches(self, image: Float[Tensor, "c h w"], patches: Float[Tensor, "m n"]) -> Float[Tensor, "c h w"]:
        """A copy of the image whose crop is made of these patches."""
        crop = self.space.patch_map.unpatchify(patches, self._crop(image))
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


def _of(solution: Solution, part: slice) -> Solution:
    """The certificate of some of the problems."""
    return Solution(
        value=solution.value[part],
        residual=solution.residual[part],
        bound_violation=solution.bound_violation[part],
        gap=solution.gap[part],
        iterations=solution.iterations[part],
        status=solution.status,
    )
