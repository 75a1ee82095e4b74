"""Watermarks at the image's own size, through the resize of the model's evaluation transform.

Two nullspaces add up there. The resize's own holds all fine detail that scaling down discards: it belongs to every
model with that transform, and a picture whose *rounded* view is the source's is one that no such model can tell from
it. The patch embedding's, composed with the resize, is needed where the image is hardly larger than the model's input.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor

from nullspace_cli.engine.errors import ImageError, ModelError, NoNullspaceError
from nullspace_cli.engine.files.pictures import Picture, with_levels
from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.preimage.pillow_passes import Levels, View
from nullspace_cli.engine.preimage.problem import PreimageProblem
from nullspace_cli.engine.preimage.several_readers import SeveralSolvers
from nullspace_cli.engine.preimage.solver import PreimageSolver, PreimageSolvers
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.metric_rounding import MetricRounding
from nullspace_cli.engine.solvers.resize_projection import DualPoint, ResizeProblem, project_onto_view
from nullspace_cli.engine.transforms.eval_transform import EvalTransform, in_grey
from nullspace_cli.engine.transforms.readers import Reader
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.watermark.design import Aim, drawn_on_grey, own_design
from nullspace_cli.engine.watermark.further_readers import FurtherReaders
from nullspace_cli.engine.watermark.mark_style import (
    GREY,
    MODEL_PERIOD,
    MarkStyle,
    Period,
    Tint,
    diagonal_period,
    line_period,
    visible_tint,
)
from nullspace_cli.engine.watermark.patch_constraint import PatchConstraint
from nullspace_cli.engine.watermark.result import Nullspace, Pixels, Rounding, Unrounded, Watermarked, attained
from nullspace_cli.engine.watermark.within_tolerance import WithinTolerance, by_singular_vectors

NullspaceChoice = Literal["auto", "resize", "patch"]

Drawing = tuple[MarkStyle, Period]
"""How a mark is drawn."""

ENOUGH = 0.3
"""Share of the wanted change that the resize's nullspace must allow for "auto" to be content with it."""

VISIBLE = 0.1
"""Share of the wanted change below which nothing would be seen."""

CELL = 0.5
"""Levels: a residual within it is lost when the model's input is rounded."""

WELL_CONDITIONED = 0.2
"""Smallest eigenvalue of R R^T over its largest, from which on its inverse is of use: as from a ratio of 1.2 on."""

BLENDS = 5
"""How often the target may be blended to the source in patches that hold no solution near it."""


@dataclass(eq=False)
class NativeSize:
    """Makes watermarks at native size.

    Attributes:
        design: of all pictures; None where each call brings its own.
        patches: the model's patch embedding; called only where it is needed. May raise NoNullspaceError.
        nullspace: "auto" takes the resize's where it allows ENOUGH of the mark, else the patch embedding's.
        least: share of the wanted change below which the result is refused.
        tolerance: largest relative error of the patch embeddings, where they do not stay exactly.
        solvers: to share with other makers of one transform.
        readers: whose input shall stay, too, as far as whole levels allow.
    """

    transform: EvalTransform
    design: Aim | None
    patches: Callable[[], PatchSpace]
    nullspace: NullspaceChoice = "auto"
    rounding: Rounding = "aware"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    least: float = VISIBLE
    tolerance: float = 0.01
    solvers: PreimageSolvers = field(default_factory=PreimageSolvers)
    readers: FurtherReaders = field(default_factory=FurtherReaders)
    _several: SeveralSolvers = field(default_factory=SeveralSolvers, repr=False)

    @full_precision
    def __call__(self, picture: Picture, design: Aim | None = None) -> Watermarked:
        """Watermark a picture.

        Args:
            design: in place of the maker's.

        Raises:
            ImageError: it is too small for the mark to be seen, or too elongated to be resized.
            NoNullspaceError: the patch embedding's nullspace was asked for and the model has none.
        """
        task = _Task.of(self, picture, own_design(design, self.design))
        if others := self.readers.of(picture.width, picture.height, self.transform).held:
            return task.by_several(others)
        if self.nullspace == "patch":
            return task.by_patches(self.patches())
        if self.nullspace == "auto" and not task.resize_has_room:
            try:
                return task.by_patches(self.patches())
            except (NoNullspaceError, ModelError):
                pass  # what is left through the resize is judged below
        result = task.by_resize()
        reached = attained(result)
        if self.nullspace == "auto" and reached < ENOUGH:
            try:
                return task.by_patches(self.patches())
            except (NoNullspaceError, ModelError) as error:
                if reached < self.least and not isinstance(error, NoNullspaceError):
                    raise
        if reached < self.least:
            width, height = task.view.geometry.resized
            raise ImageError(
                f"{picture.path} is too small for a watermark through the resize alone: {picture.width} x "
                f"{picture.height} becomes {width} x {height}, so that only {reached:.0%} of the mark would be left. "
                f"Use a larger image, or a model whose patch embedding has a nullspace."
            )
        return result


@dataclass(frozen=True, eq=False)
class _Task:
    """One picture: `source` and the bounds as the solver has them, by rows of channels, transposed if need be."""

    maker: NativeSize
    picture: Picture
    design: Aim
    view: ResizeOperator
    preimages: PreimageSolver
    source: Levels
    lower: Levels | int
    upper: Levels | int

    @classmethod
    def of(cls, maker: NativeSize, picture: Picture, design: Aim) -> "_Task":
        grey = maker.transform.input_size[0] == 1
        channels = 1 if picture.grey or grey else 3
        view = ResizeOperator(maker.transform, picture.width, picture.height)
        preimages = maker.solvers(view, channels, maker.device)
        transposed = preimages.passes.transposed
        bounds: tuple[Levels, Levels] | tuple[int, int] = (0, 255)
        levels = in_grey(picture.levels) if grey else picture.levels[..., :channels]
        if (writable := picture.range()) is not None and np.array_equal(*writable):
            if picture.reading == "shown":
                raise ImageError(f"{picture.path} is transparent everywhere: nothing on it would be seen.")
            raise ImageError(
                f"{picture.path} has no opaque pixel: as loaders read it, nothing of it may change.",
                hint='Use `reading="shown"`.',
            )
        if grey and not picture.grey:
            writable = _range_of_grey(picture, levels)
        if writable is not None:
            low, high = (_by_rows(bound[..., :channels], transposed) for bound in writable)
            bounds = (low, high)
        return cls(maker, picture, design, view, preimages, _by_rows(levels, transposed), *bounds)

    def _in_colour(self, levels: Levels) -> Pixels:
        """The picture with other levels, as the solver has them: where it has one channel, all three move alike.

        Pillow's grey then moves by just as much, and a picture in colour stays one.
        """
        transposed = self.preimages.passes.transposed
        if levels.shape[1] == 3:
            return _colours(levels, transposed)
        change = _colours(levels, transposed).astype(np.int16) - _colours(self.source, transposed)
        return (self.picture.levels + change).astype(np.uint8)

    @property
    def ratios(self) -> tuple[float, float]:
        """Source pixels per resized pixel, down and across the picture turned upright, as the mark is drawn."""
        geometry = self.view.geometry
        ratios = self.picture.height / geometry.resized[1], self.picture.width / geometry.resized[0]
        return ratios[::-1] if self.picture.turn.transposed else ratios

    @property
    def resize_has_room(self) -> bool:
        """Whether ENOUGH of a mark could lie in the resize's nullspace: one that enlarges drops unread pixels alone."""
        rows, columns = self.preimages.passes.rows, self.preimages.passes.cols
        down, across = rows.any(0), columns.any(0)
        if len(rows) < down.sum() or len(columns) < across.sum():
            return True
        change = (self._target(self._drawing("resize")).astype(np.float64) - self.source) ** 2
        read = np.logical_and.outer(down, across)[:, None]
        return bool((change * ~read).sum() >= ENOUGH * change.sum())

    def by_resize(self) -> Watermarked:
        """Keep the model's whole input, to the last bit where it can be had."""
        target = self._target(self._drawing("resize"))
        problem = self._problem(target, self.preimages.passes(self.source))
        if np.array_equal(target, self.source):
            return self._unchanged("resize", problem)
        pixels, _, projected = self.preimages(self._with_other_reading(problem))
        if self.maker.rounding == "nearest":
            pixels = projected.nearest()
        solver = {
            **_figures(projected.projection, projected.solution),
            "gave_way": float((projected.target != target).any(1).mean()),
        }
        return self._watermarked(
            "resize", target, pixels, solver, lambda: torch.from_numpy(projected.unrounded()), self._drawing("resize")
        )

    def _with_other_reading(self, problem: PreimageProblem) -> PreimageProblem:
        """The problem with an eye on the reading that the picture does not have, where that differs."""
        differs = self.picture.reading == "timm" and self.picture.difference is not None
        return replace(problem, strayed=self._strayed) if differs and self._view_of_other is not None else problem

    def by_several(self, others: Sequence[Reader]) -> Watermarked:
        """Keep the model's input to the last bit, and other readers' as well as can be.

        Raises:
            ImageError: that would leave too little of the mark.
        """
        drawing: Drawing = "hatch", self._period_for(others)
        target = self._target(drawing)
        problem = self._with_other_reading(self._problem(target, self.preimages.passes(self.source)))
        if np.array_equal(target, self.source):
            return self._unchanged("resize", problem)
        solver = self.maker._several(self.preimages, others, self.view.geometry.source, self.maker.device)
        found = solver(problem, self._as_given)
        pixels = found.pixels
        if self.maker.rounding == "nearest":
            pixels = (self.source + found.change).round().clip(0, 255).astype(np.uint8)
        gave_way = float((found.target != target).any(1).mean())
        result = self._watermarked(
            "resize", target, pixels, {**found.certificate.figures(2), "gave_way": gave_way},
            lambda: torch.from_numpy(self.source + found.change), drawing,
        )  # fmt: skip
        if (reached := attained(result)) < self.maker.least:
            resized = {"the model": self.view.geometry.resized}
            resized |= {reader.name: self._resized_by(reader) for reader in others}
            finest, (width, height) = max(resized.items(), key=lambda item: item[1][self._along_rows])
            raise ImageError(
                f"{self.picture.path} is too small for a watermark that stays hidden from all {len(resized)} readers: "
                f"{finest} resizes {self.picture.width} x {self.picture.height} to {width} x {height}, and only "
                f"{reached:.0%} of the mark would be left. Use a larger image, or fewer readers."
            )
        return result

    @property
    def _along_rows(self) -> int:
        """The axis of (width, height) along which the solver's rows lie."""
        return 1 if self.preimages.passes.transposed else 0

    def _resized_by(self, reader: Reader) -> tuple[int, int]:
        return reader.geometry(self.picture.width, self.picture.height).resized

    def _period_for(self, others: Sequence[Reader]) -> Period:
        """Diagonal lines that the finest reader discards along the rows of the solver's pictures, and across them."""
        size = (self.picture.width, self.picture.height)[self._along_rows]
        resized = (self.view.geometry.resized, *map(self._resized_by, others))
        return diagonal_period(size / max(sides[self._along_rows] for sides in resized))

    def _as_given(self, levels: Levels) -> Pixels:
        """What readers are given of the picture with other levels, by its own reading."""
        return with_levels(self.picture, self._in_colour(levels)).pixels

    @cached_property
    def _view_of_other(self) -> UInt8[NDArray[np.uint8], "ch cw c"] | None:
        """What the model is given of the source by the other reading, the crop turned as it is by this one.

        None where that cannot be: how the source is to be shown is unknown, or the crop is no square and lies across.
        """
        picture = self.picture
        turned = picture.orientation.transposed and len(set(self.view.geometry.crop)) > 1
        try:
            return None if turned else _by_other_reading(self.maker.transform, picture)
        except ImageError:
            return None

    def _strayed(self, pixels: Levels) -> Bool[NDArray[np.bool_], "h c w"]:
        """Where the other reading's input moves by more than a level: with it, the rounding of each pass is another."""
        made = with_levels(self.picture, self._in_colour(pixels))
        before, after = self._view_of_other, _by_other_reading(self.maker.transform, made)
        assert before is not None
        off = (np.abs(after.astype(np.int16) - before) > 1).any(2)
        near = binary_dilation(off, np.ones((3, 3), bool))  # an odd margin is cut at another end
        (_, rows), (_, columns) = self.view.geometry.overlaps
        kept = near[rows, columns]
        view = kept.T if self.preimages.passes.transposed else kept
        return np.repeat(view[:, None], self.source.shape[1], axis=1)

    def by_patches(self, space: PatchSpace) -> Watermarked:
        """Keep the patch embeddings of the model's input, which itself may change within their nullspace."""
        one_channel = self.source.shape[1] == 1
        space = space.of_grey() if one_channel and space.patch_map.in_chans == 3 else space
        if len(space.row_space) == space.patch_map.patch_dim:
            raise NoNullspaceError(
                f"{self.picture.path} is greyscale, and of grey patches the model reads everything. Use a colour image."
            )
        tint = GREY if one_channel else visible_tint(space.read_part, space.patch_map.patch_size, MODEL_PERIOD)
        target = self._target(self._drawing("patch"), tint)
        problem = self._problem(target, self.preimages.passes(self.source))
        if np.array_equal(target, self.source):
            return self._unchanged("patch", problem)
        if self.preimages.resize.conditioning >= WELL_CONDITIONED:
            result, error = self._exactly(space, problem)
            if error <= self.maker.tolerance:
                return result
        return self._nearly(space, problem)

    def _exactly(self, space: PatchSpace, problem: PreimageProblem) -> tuple[Watermarked, float]:
        """Keep the embeddings, where the resize has an inverse; and by how much the result's are off."""
        target, wanted = problem.target, problem.wanted
        constraint = self._constraint(space)
        projection = self.preimages.projection(problem, constraint)
        solution = project_onto_view(projection, self._view(wanted), max_iterations=20, max_inner=15)
        for _ in range(BLENDS):
            tight = (solution.residual.abs() > CELL).any(1)
            if not bool(tight.any()):
                break
            problem = replace(
                problem, target=self.preimages.blended(problem.target, self.source, constraint.within(tight))
            )
            projection, start = self.preimages.projection(problem, constraint), solution.y * ~tight[:, None]
            solution = project_onto_view(projection, self._view(wanted), start, max_iterations=10, max_inner=15)
        certificate = {
            **_figures(projection, solution),
            "gave_way": float((problem.target != target).any(1).mean()),
        }
        roundings = [self.preimages.nearest(projection, solution.y)]
        if self.maker.rounding == "aware" and min(self.ratios) >= 1:
            # The model's input that is wanted now is the watermarked one, rounded where it counts: in the patches.
            aware = self._rounded(space, constraint, projection, solution)
            roundings += [self.preimages(PreimageProblem(roundings[0], aware, None, self.lower, self.upper)).pixels]
        A = space.patch_map.matrix("pixel").to(self.maker.device)

        def error(pixels: Levels) -> float:
            change = self._view(self.preimages.passes(pixels)) - self._view(wanted)
            return float((constraint.patches(change.double()) @ A.mT).norm()) / self._norm

        errors = [error(pixels) for pixels in roundings]
        best = errors.index(min(errors))
        result = self._result("patch", target, roundings[best], projection, solution, certificate)
        return result, errors[best] if certificate["status"] == "solved" else math.inf

    def _nearly(self, space: PatchSpace, problem: PreimageProblem) -> Watermarked:
        """Keep the embeddings within the tolerance, where the resize has no inverse worth the name."""
        space, sigma = by_singular_vectors(space)
        found = WithinTolerance(
            self.preimages,
            problem,
            self._constraint(space),
            sigma.to(self.maker.device, torch.float32),
            self._norm,
            self.maker.tolerance,
            self.maker.rounding,
        )()
        if found.error > self.maker.tolerance or found.reached < self.maker.least:
            why = (
                f"the embeddings would be off by {100 * found.error:.3g}%, more than {100 * self.maker.tolerance:.3g}%"
                if found.error > self.maker.tolerance
                else f"only {found.reached:.0%} of the mark would be left"
            )
            raise ImageError(
                f"{self.picture.path} is too small for a watermark at its own size, {self.picture.width} x "
                f"{self.picture.height}: {why}.",
                hint='Use `size="model"`, or a larger image.',
            )
        return self._result(
            "patch", problem.target, found.pixels, found.projection, found.point, found.certificate.figures(2)
        )

    def _constraint(self, space: PatchSpace) -> PatchConstraint:
        return PatchConstraint(space, self.view.geometry, self.preimages.passes.transposed, self.maker.device)

    @cached_property
    def _norm(self) -> float:
        """Of the source's patch embeddings without bias, in levels."""
        patch_map, transform = self.maker.patches().patch_map, self.maker.transform
        patches = patch_map.patchify(transform(self.picture.pixels).double())
        return 255 * float((patches @ patch_map.matrix("normalized").mT).norm())

    def _unchanged(self, nullspace: Nullspace, problem: PreimageProblem) -> Watermarked:
        """No mark is wanted: the source solves the problem whose view is its own, before rounding."""
        projection, resize = self.preimages.projection(problem), self.preimages.resize
        own = resize.gather(
            (strip, projection.target[strip.start : strip.stop].float().flatten(1)) for strip in resize.strips
        )
        solution = project_onto_view(projection, own)
        return self._result(
            nullspace, problem.target, self.source, projection, solution, _figures(projection, solution)
        )

    def _rounded(
        self, space: PatchSpace, constraint: PatchConstraint, projection: ResizeProblem, solution: DualPoint
    ) -> View:
        """The solution's view, rounded in the metric of the patch embedding."""
        seen = projection.resize.gather((strip, z) for strip, _, z in projection.images(solution.y))
        z, upper = (
            constraint.patches(seen.double() / 255),
            constraint.patches(torch.ones_like(seen).double()),
        )
        rounding = MetricRounding.of(space.patch_map.matrix("pixel").to(self.maker.device))
        return constraint.view(rounding.round(z, upper=upper) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()

    def _view(self, view: View) -> Float[Tensor, "h c w"]:
        return torch.from_numpy(view).to(self.maker.device, torch.float32)

    def _drawing(self, nullspace: Nullspace) -> Drawing:
        """How a mark is drawn that is to lie in one of the nullspaces, where nothing else was asked for."""
        down, across = self.ratios
        if nullspace == "resize":
            return "hatch", line_period((down, across))
        return "outline", (MODEL_PERIOD[0] * down, MODEL_PERIOD[1] * across)

    def _target(self, drawing: Drawing, tint: Tint = GREY) -> Levels:
        """The target image within the bounds, in levels."""
        transposed = self.preimages.passes.transposed
        axes = (1, 2, 0) if transposed else (1, 0, 2)
        target = self.design.target(torch.from_numpy(self.source.transpose(axes)), *drawing, tint, self.picture.turn)
        levels = _by_rows(target.permute(1, 2, 0).numpy(), transposed)
        return levels if isinstance(self.lower, int) else np.clip(levels, self.lower, self.upper)

    def _problem(self, target: Levels, wanted: View) -> PreimageProblem:
        return PreimageProblem(target, wanted, self.source, self.lower, self.upper)

    def _result(
        self,
        nullspace: Nullspace,
        target: Levels,
        pixels: Levels,
        projection: ResizeProblem,
        solution: DualPoint,
        solver: Mapping[str, Any],
    ) -> Watermarked:
        def exact() -> Tensor:
            image = torch.empty(target.shape, dtype=torch.float32)
            for strip, _, z in projection.images(solution.y):
                image[strip.start : strip.stop] = z.view(len(z), *target.shape[1:])
            return image

        return self._watermarked(nullspace, target, pixels, solver, exact, self._drawing(nullspace))

    def _watermarked(
        self,
        nullspace: Nullspace,
        target: Levels,
        pixels: Levels,
        solver: Mapping[str, Any],
        exact: Callable[[], Float[Tensor, "H c W"]],
        drawing: Drawing,
    ) -> Watermarked:
        """The result; `exact` makes the levels before they were rounded."""
        transposed = self.preimages.passes.transposed

        @full_precision
        def unrounded() -> Unrounded:
            image = exact()
            axes = (1, 2, 0) if transposed else (1, 0, 2)
            levels = (image, torch.from_numpy(self.source), torch.from_numpy(target))
            parts = [part.permute(axes).float().expand(3, -1, -1) for part in levels]
            if len(self.source[0]) == 1 and not self.picture.grey:  # all three channels move alike
                colours = torch.from_numpy(np.moveaxis(self.picture.levels, 2, 0).astype(np.float32))
                parts = [colours + (part - parts[1]) for part in parts]
            return Unrounded(*(part / 255 for part in parts))

        picture = self.picture
        return Watermarked(
            picture.levels,
            self._in_colour(target),
            self._in_colour(pixels),
            nullspace,
            self.maker.rounding,
            solver,
            unrounded,
            lambda: drawn_on_grey(self.design, picture.height, picture.width, *drawing, picture.turn),
        )


def _figures(projection: ResizeProblem, point: DualPoint) -> dict[str, Any]:
    """The certificate of the exact projection, in [0, 1] pixel units."""
    return projection.certificate(point, tolerance=CELL).figures(2)


def _range_of_grey(
    picture: Picture, grey: UInt8[NDArray[np.uint8], "H W 1"]
) -> tuple[UInt8[NDArray[np.uint8], "H W 1"], UInt8[NDArray[np.uint8], "H W 1"]]:
    """The darkest and the lightest grey that a picture in colour can have when its three channels move alike.

    Raises:
        ImageError: no pixel can move.
    """
    levels = picture.levels
    low, high = picture.range() or (np.uint8(0), np.uint8(255))
    down, up = (room.min(2, keepdims=True) for room in (levels - low, high - levels))
    if not (down.any() or up.any()):
        raise ImageError(
            f"{picture.path} is saturated everywhere: its grey, which the model reads, cannot change as long as its "
            f"colours stay. Convert it to greyscale first."
        )
    return grey - down, grey + up


def _by_other_reading(transform: EvalTransform, picture: Picture) -> UInt8[NDArray[np.uint8], "h w c"]:
    """The model's input by the reading that the picture does not have, the crop turned as the picture's own lies."""
    timm = picture.reading == "timm"
    seen = transform.input_pixels(picture.read_as("shown" if timm else "timm").pixels)
    return picture.orientation.stored(seen) if timm else picture.orientation.upright(seen)


def _by_rows(colours: UInt8[NDArray[np.uint8], "H W c"], transposed: bool) -> Levels:
    """[H, W, c] to [H, c, W], or transposed to [W, c, H]."""
    return np.ascontiguousarray(colours.transpose(1, 2, 0) if transposed else colours.swapaxes(1, 2))


def _colours(levels: Levels, transposed: bool) -> Pixels:
    """The inverse of `_by_rows`, with three channels."""
    colours = levels.transpose(2, 0, 1) if transposed else levels.swapaxes(1, 2)
    return np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)))
