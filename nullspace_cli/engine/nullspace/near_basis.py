"""The near nullspace of first layers that read whole images: what they hardly read, where they may read everything.

There is no basis of it, nor a projection: what takes its place is a filter of the map itself (`solvers.near_null`), and
each image that comes of it carries the proof of how little is read of it.
"""

from dataclasses import dataclass, field
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
from nullspace_cli.engine.solvers.near_null import NearNull, near_null

LEAST = 1e-3
"""Of whole images, what a smaller `rtol` leaves is called zero; as a filter it would take thousands of steps."""
INSIDE = 1 - 1e-3
"""The filter cuts a little below `rtol`, so that with what leaks through it no more than `rtol` is read."""


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
    _drawn: dict[int, NearNull] = field(default_factory=dict, repr=False)

    @property
    def norm(self) -> float:
        return self.sigma_max

    @full_precision
    def draw(self, seed: int) -> Float[Tensor, "c h w"]:
        """Gaussian noise in `space`, filtered; once drawn for a seed, it is at hand.

        Raises:
            ArtifactError: so little of it is left that the bound does not hold.
        """
        if seed not in self._drawn:
            white = torch.randn(
                1, *self.image_map.input_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            self._drawn[seed] = near_null(self.image_map, white, INSIDE * self.rtol, self.sigma_max)
        found = self._drawn[seed]
        if not float(found.bound) <= self.rtol:
            raise ArtifactError(
                f"Hardly any noise is left that the first layers read by at most {self.rtol:g} of the largest: it is "
                f"proven of {float(found.bound):.2g} alone.",
                hint="Raise `rtol`.",
            )
        noise: Tensor = found.images[0]
        return noise

    def describe(self) -> dict[str, Any]:
        """The keys of the JSON document that describe the near nullspace; its dimensions are not counted."""
        return {
            **self.describe_reading(),
            "inputs": self.image_map.inputs,
            "outputs": self.image_map.outputs,
            "rank": None,
            "nullity": None,
            "rtol": self.rtol,
            "sigma_max": self.sigma_max,
            "sigma_min": None,
            "output_bound": self.rtol * self.sigma_max,
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
