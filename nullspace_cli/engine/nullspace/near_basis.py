"""The near nullspace of first layers that read whole images: what they hardly read, where they may read everything.

There is no basis of it, nor a projection: what takes its place is a filter of the map itself (`solvers.near_null`), and
each image that comes of it carries the proof of how little is read of it. Its dimensions are counted.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ArtifactError, NoNullspaceError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.stem import Stem
from nullspace_cli.engine.nullspace.basis import PatchBasis
from nullspace_cli.engine.nullspace.image_noise import ImageNoise
from nullspace_cli.engine.nullspace.independent_kernels import reads_nothing
from nullspace_cli.engine.nullspace.nullity import Nullity
from nullspace_cli.engine.nullspace.patch_embedding import Space
from nullspace_cli.engine.nullspace.stem_basis import (
    StemBasis,
    find_first_layer_basis,
    in_space,
    largest_singular_value,
    stem_map,
)
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.image_map import ImageMap
from nullspace_cli.engine.solvers.near_null import near_null
from nullspace_cli.engine.solvers.row_inertia import singular_values_above

LEAST = 1e-3
"""Of whole images, what a smaller `rtol` leaves is called zero; as a filter it would take thousands of steps."""
INSIDE = 1 - 1e-3
"""The filter cuts a little below `rtol`, so that with what leaks through it no more than `rtol` is read."""

WORK = 5e12
"""Multiplications, some minutes of one core, beyond which dimensions are not counted."""


@dataclass(frozen=True, eq=False)
class NearBasis(ImageNoise):
    """What a map of whole images reads by at most `rtol` times its largest singular value.

    Attributes:
        image_map: the layers' own, of differences of images in `space`.
        layers: who reads the image, for people.
        rtol: ||A v|| <= rtol sigma_max ||v|| of all noise v that is drawn.
        space: "pixel" for differences of images in [0, 1], "normalized" for those of normalised ones.
        std: the model's, by which the two differ.
        sigma_max: the largest singular value of A, from below.
    """

    image_map: ImageMap
    layers: tuple[str, ...]
    rtol: float
    space: Space
    std: tuple[float, ...]
    sigma_max: float
    _drawn: dict[int, Float[Tensor, "c h w"]] = field(default_factory=dict, repr=False)

    @property
    def norm(self) -> float:
        return self.sigma_max

    @property
    def output_bound(self) -> float:
        """||A v|| / ||v||, at most, of all noise v that is drawn."""
        return self.rtol * self.sigma_max

    def draw(self, seed: int) -> Float[Tensor, "c h w"]:
        """Gaussian noise in `space`, filtered; once drawn for a seed, it is at hand.

        Raises:
            ArtifactError: as `filter`.
        """
        if seed not in self._drawn:
            self._drawn[seed] = self.sample(torch.Generator().manual_seed(seed))
        return self._drawn[seed]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "c h w"]:
        """Gaussian noise in `space`, filtered.

        Raises:
            ArtifactError: as `filter`.
        """
        return self.filter(torch.randn(1, *self.image_map.input_size, generator=generator, dtype=torch.float64))[0]

    @full_precision
    def filter(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What is left of differences of images, in `space`, without all that is read by more; float64.

        Raises:
            ArtifactError: so little of one is left that the bound does not hold.
        """
        found = near_null(self.image_map, images, INSIDE * self.rtol, self.sigma_max)
        holds = (found.bound <= self.rtol) | ~images.flatten(1).any(1)
        if not bool(holds.all()):
            raise ArtifactError(
                f"Hardly anything is left that the first layers read by at most {self.rtol:g} of the largest: it is "
                f"proven of {float(found.bound[~holds].max()):.2g} alone.",
                hint="Raise `rtol`.",
            )
        return found.images

    @cached_property
    @full_precision
    def counted(self) -> Nullity | None:
        """How many dimensions it has: the singular values up to `rtol` times the largest; None beyond `WORK`."""
        values = singular_values_above(self.image_map)
        if values.work > WORK:
            return None
        rank = values.count((self.rtol * self.sigma_max) ** 2)
        return Nullity(self.image_map.inputs, self.image_map.outputs, rank, "inertia", self.rtol)

    def describe(self) -> dict[str, Any]:
        """The keys of the JSON document that describe the near nullspace; its dimensions are counted elsewhere."""
        return {
            **self.describe_reading(),
            "inputs": self.image_map.inputs,
            "outputs": self.image_map.outputs,
            "rank": None,
            "nullity": None,
            "rtol": self.rtol,
            "sigma_max": self.sigma_max,
            "sigma_min": None,
            "output_bound": self.output_bound,
            "space": self.space,
        }


def find_basis_within(
    model: Model,
    *,
    space: Space = "pixel",
    rtol: float | None = None,
    per_channel: bool = False,
    stem: Stem | None = None,
    seed: int = 0,
) -> PatchBasis | StemBasis | NearBasis:
    """What the model does not read of an image, or with an `rtol` hardly: by patches, or of whole images.

    Args:
        rtol: None for what counts as zero. Of whole images, `LEAST` or more means all that is read by at most that
            share of the largest singular value.
        seed: of the noise by which is seen that there is any.

    Raises:
        NoNullspaceError, ModelError: as `find_first_layer_basis`; or everything is read by more than that share.
    """
    stem = stem or model.stem()
    if rtol is None or rtol < LEAST or stem.weight is not None or per_channel:
        return find_first_layer_basis(model, space=space, rtol=rtol, per_channel=per_channel, stem=stem)
    own = in_space(stem_map(model, stem), space, model.transform.std)
    if not any(bool(branch.kernel.any()) for branch in own.branches):
        raise reads_nothing()
    found = NearBasis(own, stem.layers, rtol, space, model.transform.std, largest_singular_value(own))
    try:
        found.draw(seed)
    except ArtifactError as error:
        raise NoNullspaceError(
            f"{model.name} has no near nullspace at rtol {rtol:g}: next to nothing of random noise is left that its "
            f"first layers read by so little ({'; '.join(stem.layers)}).",
            found.describe(),
            hint=error.hint,
        ) from None
    return found
