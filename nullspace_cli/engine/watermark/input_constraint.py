"""What a model's first layers read, as a constraint on its input at the model's size: by patches, or as a whole.

Whoever makes images for a model gives sources and targets, and is given what keeps the sources' reading.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.errors import ImageError, UsageError
from nullspace_cli.engine.nullspace.first_layer import FirstLayer, ImageSpace
from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.solvers.affine import nearest_affine
from nullspace_cli.engine.solvers.box_projection import project_affine_box
from nullspace_cli.engine.solvers.image_projection import project_image_box
from nullspace_cli.engine.solvers.interior_point import solve_affine_box
from nullspace_cli.engine.solvers.metric_rounding import MetricRounding
from nullspace_cli.engine.solvers.null_projection import NullProjection
from nullspace_cli.engine.solvers.solution import AffineBox, Certificate, Norm, Solution, Status
from nullspace_cli.engine.solvers.tile_rounding import TileRounding
from nullspace_cli.engine.watermark.mark_style import MODEL_PERIOD, Tint, visible_tint
from nullspace_cli.engine.watermark.result import Nullspace, Rounding

Channels = Literal["red", "all"]

NEAR = 1e-4
"""Distance from what keeps the reading, in [0, 1] pixel units and over a whole image, up to which a solution that took
too long is taken all the same: rounding to 8 bits is about a thousand times that."""

TINTED = 1e-4
"""Accuracy of the projections by which a tint is chosen."""


class Inputs(NamedTuple):
    """Inputs of a model in [0, 1] pixel units: sources, targets, which may leave it, and bounds around the sources."""

    x: Float[Tensor, "b c h w"]
    t: Float[Tensor, "b c h w"]
    lower: Float[Tensor, "b c h w"]
    upper: Float[Tensor, "b c h w"]


class Kept(NamedTuple):
    """Inputs near the targets that are read as the sources are, and the certificate of each, for JSON documents."""

    images: Float[Tensor, "b c h w"]
    certificates: list[dict[str, Any]]


class InputConstraint(Protocol):
    """What of an input must stay."""

    @property
    def nullspace(self) -> Nullspace:
        """How records call it."""
        ...

    @property
    def rounding(self) -> Rounding:
        """How `round` rounds."""
        ...

    @property
    def tint(self) -> Tint:
        """As of `visible_tint`."""
        ...

    def nearest(self, inputs: Inputs, norm: Norm) -> Kept:
        """Minimise ||z - t||_p within the bounds; what is read by nothing follows the target."""
        ...

    def nearest_unbounded(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b c h w"], norm: Norm, channels: Channels
    ) -> Kept:
        """The same without bounds, with z = t in channels that are not named."""
        ...

    def round(self, z: Float[Tensor, "b c h w"], inputs: Inputs) -> Float[Tensor, "b c h w"]:
        """Whole levels within the bounds, in [0, 1], that are read as z is, as nearly as can be."""
        ...


def input_constraint(
    space: FirstLayer, rounding: Rounding, device: torch.device, tolerance: float = 1e-9
) -> InputConstraint:
    """What of an input must stay for a network that reads it so.

    Args:
        tolerance: largest ||A (z - x)||_2, by orthonormal rows, that counts as solved.
    """
    if isinstance(space, PatchSpace):
        return PatchwiseConstraint(space, rounding, device, tolerance)
    return WholeConstraint(space, rounding, device, tolerance)


@dataclass(frozen=True)
class PatchwiseConstraint:
    """Each patch for itself; one that misses the tolerance keeps its source."""

    space: PatchSpace
    rounding: Rounding
    device: torch.device
    tolerance: float
    nullspace: Nullspace = "patch"

    @cached_property
    def tint(self) -> Tint:
        return visible_tint(self.space.read_part, self.space.patch_map.patch_size, MODEL_PERIOD)

    def nearest(self, inputs: Inputs, norm: Norm) -> Kept:
        problem = AffineBox(self._rows, *(self._cut(part) for part in inputs))
        solve = project_affine_box if norm == 2 else partial(solve_affine_box, norm=1)
        solution = solve(*problem, tolerance=self.tolerance)
        solved = solution.residual <= self.tolerance
        solution = solution.keeping_source(problem, ~solved, norm)
        return self._kept(solution, inputs.t.clamp(inputs.lower, inputs.upper), norm, solved)

    def nearest_unbounded(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b c h w"], norm: Norm, channels: Channels
    ) -> Kept:
        free = free_entries(self.space, channels)
        return self._kept(nearest_affine(self._rows, self._cut(x), self._cut(t), free, norm=norm), t, norm)

    def round(self, z: Float[Tensor, "b c h w"], inputs: Inputs) -> Float[Tensor, "b c h w"]:
        if self.rounding == "nearest":
            return (z * 255).round() / 255
        q = self._metric.round(self._cut(z), lower=self._cut(inputs.lower), upper=self._cut(inputs.upper))
        return self._glue(q, z)

    def _kept(
        self, solution: Solution, onto: Float[Tensor, "b c h w"], norm: Norm, solved: Bool[Tensor, " p"] | None = None
    ) -> Kept:
        images, on_host = self._glue(solution.value, onto), solution.to("cpu")
        certificates = []
        for part in torch.arange(len(solution.value)).chunk(len(images)):
            certificates.append({**on_host.select(part).figures(norm), "patches": len(part)})
        if solved is not None:
            counts = (~solved).cpu().view(len(images), -1).sum(1).tolist()
            for certificate, count in zip(certificates, counts, strict=True):
                certificate["unmarked_patches"] = count
        return Kept(images, certificates)

    def _cut(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "p n"]:
        return self.space.patch_map.patchify(images).flatten(0, 1)

    def _glue(self, patches: Float[Tensor, "p n"], onto: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.space.patch_map.unpatchify(patches.unflatten(0, (len(onto), -1)), onto)

    @cached_property
    def _rows(self) -> Float[Tensor, "rank n"]:
        return self.space.row_space.to(self.device)

    @cached_property
    def _metric(self) -> MetricRounding:
        return MetricRounding.of(self.space.patch_map.matrix("pixel").to(self.device))


@dataclass(frozen=True)
class WholeConstraint:
    """Each image for itself, of first layers whose windows overlap or whose branches differ; p = 2 alone.

    Attributes:
        asked: the rounding, as far as it can be had: "aware" needs tiles that are read alike.
    """

    space: ImageSpace
    asked: Rounding
    device: torch.device
    tolerance: float
    nullspace: Nullspace = "affine"

    @property
    def rounding(self) -> Rounding:
        return "aware" if self._tiles else "nearest"

    @cached_property
    def tint(self) -> Tint:
        read_part = partial(self.space.read_part, tolerance=TINTED)
        return visible_tint(read_part, self.space.image_map.input_size[1:], MODEL_PERIOD)

    def nearest(self, inputs: Inputs, norm: Norm) -> Kept:
        """As of the protocol.

        Raises:
            UsageError: p = 1.
            ImageError: an image holds no solution that could be found.
        """
        require_distance(self.space, norm)
        solution = project_image_box(self._projection, *inputs, tolerance=self.tolerance)
        certificate = solution.to("cpu")
        far = float(certificate.residual.max())
        if not far <= NEAR:
            raise ImageError(
                "No image near the target was found that the first layers read as the source: after "
                f"{int(certificate.iterations.max())} steps it is {far:.2g} off, in [0, 1] pixel units. Where much of "
                "the source is black or white there is little room.",
                hint='Use `size="native"`, a smaller `strength`, or another image.',
            )
        return Kept(solution.value.view(inputs.t.shape), list(self._each(certificate)))

    def nearest_unbounded(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b c h w"], norm: Norm, channels: Channels
    ) -> Kept:
        """As of the protocol.

        Raises:
            UsageError: p = 1, or red alone.
            ImageError: as `nearest`.
        """
        require_distance(self.space, norm, channels)
        infinity = torch.full_like(t, torch.inf)
        return self.nearest(Inputs(x, t, -infinity, infinity), norm)

    def round(self, z: Float[Tensor, "b c h w"], inputs: Inputs) -> Float[Tensor, "b c h w"]:
        return self._tiles.round(z, inputs.lower, inputs.upper) if self._tiles else (z * 255).round() / 255

    def _each(self, certificate: Certificate) -> Iterator[dict[str, Any]]:
        for part in torch.arange(len(certificate.residual)).split(1):
            own = certificate.select(part)
            solved = bool(own.residual <= self.tolerance)
            yield replace(own, status=Status.SOLVED if solved else Status.ITERATION_LIMIT).figures(2)

    @cached_property
    def _tiles(self) -> TileRounding | None:
        if self.asked == "nearest":
            return None
        tiles = TileRounding(self.space.image_map.to(self.device))
        return tiles if tiles.suits else None

    @cached_property
    def _projection(self) -> NullProjection:
        own = self.space.basis.projection
        if own.image_map.branches[0].kernel.device == self.device:
            return own
        return NullProjection(own.image_map.to(self.device))


def require_distance(space: FirstLayer, norm: Norm, channels: Channels = "all") -> None:
    """See that what is nearest can be had by that distance, and from these channels.

    Raises:
        UsageError: the first layers read images as a whole, which are projected by p = 2 with all channels alone.
    """
    if isinstance(space, PatchSpace):
        return
    if norm == 1:
        raise UsageError(
            "The model's first layers read the image as a whole, and p = 1 is solved patch by patch.", hint="Use `p=2`."
        )
    if channels == "red":
        raise UsageError(
            "The model's first layers read the image as a whole, and red alone is solved for patch by patch.",
            hint='Use `channels="all"`.',
        )


def free_entries(space: PatchSpace, channels: Channels) -> Bool[Tensor, " n"]:
    """Which of a patch's n numbers may differ from the target's."""
    free = torch.ones(space.in_chans, space.patch_map.patch_dim // space.in_chans, dtype=torch.bool)
    if channels == "red":
        free[1:] = False
    return free.flatten()
