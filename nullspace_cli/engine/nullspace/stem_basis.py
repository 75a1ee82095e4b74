"""The exact nullspace of first layers that read whole images: windows that overlap, branches, resizes, zeros around.

There is no basis to write down, of tens of thousands of vectors as long as an image. What takes its place is the map
itself: any image's part in the nullspace is one projection away.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ArtifactError, NoNullspaceError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.stem import Stem
from nullspace_cli.engine.nullspace.basis import EXAMPLES, PatchBasis, find_basis, not_affine
from nullspace_cli.engine.nullspace.image_noise import ImageNoise
from nullspace_cli.engine.nullspace.independent_kernels import independent_kernels
from nullspace_cli.engine.nullspace.nullity import Estimate, Nullity, estimate_nullity, nullity_of
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, Space
from nullspace_cli.engine.nullspace.spectrum import Spectrum, find_spectrum, spectrum_of_patches
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.image_map import ImageMap
from nullspace_cli.engine.solvers.null_projection import NullProjection, Projected
from nullspace_cli.engine.solvers.staircase import rank_bounds

PRECISE = 1e-12
"""Share of the largest singular value below which none is, of kernels that are independent."""
PROBES = 4
"""Images of random signs by which the nullity is estimated: with n numbers each, it is off by a few times sqrt(n)."""


@dataclass(frozen=True)
class StemBasis(ImageNoise):
    """The nullspace of a map of whole images.

    Attributes:
        image_map: a map with that nullspace, by kernels that are orthonormal, of differences of images in `space`.
        counted: the nullity, and what proves it.
        layers: who reads the image, for people.
        rtol: share of the largest singular value of the layers' kernels up to which one counts as zero.
        space: "pixel" for differences of images in [0, 1], "normalized" for those of normalised ones.
        std: the model's, by which the two differ.
        sigma_max: the largest singular value of the layers' own map.
    """

    image_map: ImageMap
    counted: Nullity
    layers: tuple[str, ...]
    rtol: float
    space: Space
    std: tuple[float, ...]
    sigma_max: float

    @cached_property
    def projection(self) -> NullProjection:
        return NullProjection(self.image_map)

    @property
    def norm(self) -> float:
        return self.projection.norm_bound

    def draw(self, seed: int) -> Float[Tensor, "c h w"]:
        """Exact null noise in `space`, of standard deviation 1 along every direction of the nullspace.

        Raises:
            ArtifactError: it cannot be had to within the projection's tolerance.
        """
        return self.sample(torch.Generator().manual_seed(seed))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "c h w"]:
        """Gaussian noise in `space`, of standard deviation 1 along every direction of the nullspace.

        Raises:
            ArtifactError: it cannot be had to within its tolerance.
        """
        return _found(self.projection.sample(1, generator))[0]

    def project(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The part of differences of images, in `space`, that is not read; float64.

        Raises:
            ArtifactError: it cannot be had to within its tolerance.
        """
        return _found(self.projection(images))

    def estimate(self, seed: int) -> Estimate:
        """Of the nullity, beside its proof."""
        return estimate_nullity(self.projection, PROBES, torch.Generator().manual_seed(seed))

    def read_part(self, images: Float[Tensor, "*b c h w"], tolerance: float = 1e-15) -> Float[Tensor, "*b c h w"]:
        """The part of differences of images, in `space`, that lies in the row space: all that is read of them.

        Args:
            tolerance: as of the projection.
        """
        flat = images.reshape(-1, *self.image_map.input_size)
        seen: Tensor = flat - self.projection(flat, tolerance=tolerance).images
        return seen.reshape(images.shape)

    def in_pixels(self) -> "StemBasis":
        """The same nullspace in pixel space."""
        if self.space == "pixel":
            return self
        in_pixels = independent_kernels(in_space(self.image_map, "pixel", self.std), PRECISE)
        return replace(self, image_map=in_pixels, space="pixel")

    def describe(self) -> dict[str, Any]:
        """The keys of the JSON document that describe the nullspace."""
        return {
            **self.describe_reading(),
            **self.counted.describe(),
            "rtol": self.rtol,
            "sigma_max": self.sigma_max,
            "sigma_min": None,
            "space": self.space,
        }


def _found(projected: Projected) -> Float[Tensor, "b c h w"]:
    if not bool(projected.converged.all()):
        raise ArtifactError(
            f"What is null was not found within {projected.iterations} iterations (residual "
            f"{float(projected.residual.max()):.2g}): the first layers hardly tell some directions from others."
        )
    return projected.images


def find_first_layer_basis(
    model: Model,
    *,
    space: Space = "pixel",
    rtol: float | None = None,
    per_channel: bool = False,
    stem: Stem | None = None,
) -> PatchBasis | StemBasis:
    """The nullspace of what the model reads of an image: patch by patch where there are patches, else of whole images.

    Args:
        stem: the model's, if it is at hand.

    Raises:
        NoNullspaceError: the first layers read as many numbers as they are given, or are not affine.
        ModelError: they read nothing.
    """
    stem = stem or model.stem()
    if stem.weight is not None or per_channel:
        return find_basis(model, space=space, rtol=rtol, per_channel=per_channel, stem=stem)
    return find_stem_basis(model, stem, space=space, rtol=rtol)


@full_precision
def find_stem_basis(model: Model, stem: Stem, *, space: Space = "pixel", rtol: float | None = None) -> StemBasis:
    """The nullspace of a stem that is affine.

    Args:
        rtol: None for the machine epsilon of the precision that the weights are stored in.

    Raises:
        NoNullspaceError, ModelError: as `find_first_layer_basis`.
    """
    rtol = stem.stored_eps if rtol is None else rtol
    own = in_space(stem_map(model, stem), space, model.transform.std)
    reduced = independent_kernels(own, rtol)
    bounds = rank_bounds(reduced)
    if bounds.upper == own.inputs:
        raise _injective(model, stem, proven=bounds.lower == own.inputs)
    counted = nullity_of(own, reduced, bounds, rtol)
    return StemBasis(reduced, counted, stem.layers, rtol, space, model.transform.std, largest_singular_value(own))


def stem_map(model: Model, stem: Stem) -> ImageMap:
    """What a model's first layers, its `stem`, read of normalised images.

    Raises:
        NoNullspaceError: they are not affine.
    """
    if stem.image_map is None:
        raise not_affine(model, stem)
    return stem.image_map


def find_spectra(model: Model, stem: Stem, space: Space = "pixel") -> tuple[Spectrum, ...]:
    """How much the first layers read, each by itself: where there is a nullspace and where none is.

    Raises:
        NoNullspaceError: they are not affine.
    """
    if stem.weight is not None:
        patch_map = PatchMap(stem.weight, model.transform.std, stem.stored_eps)
        return (spectrum_of_patches(torch.linalg.svdvals(patch_map.matrix(space)), patch_map.patch_dim),)
    own = in_space(stem_map(model, stem), space, model.transform.std)
    return tuple(find_spectrum(branch, own.input_size[1:]) for branch in own.branches)


def largest_singular_value(image_map: ImageMap) -> float:
    """Of a map, by Lanczos' method on A^T A: from below, to about 1e-4; `norm_bound` is proven to be no less."""
    size, n = image_map.input_size, image_map.inputs

    def gram(x: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(x.reshape(1, *size))
        return image_map.adjoint(image_map.forward(image)).numpy().ravel()

    start = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    from scipy.sparse.linalg import LinearOperator, eigsh  # which commands that ask no layer need not wait for

    operator = LinearOperator((n, n), matvec=gram, dtype=np.float64)
    return float(eigsh(operator, k=1, v0=start, tol=1e-3, return_eigenvectors=False)[0] ** 0.5)


def in_space(image_map: ImageMap, space: Space, std: tuple[float, ...]) -> ImageMap:
    """The map of differences in a space, from that of normalised images."""
    if space == "normalized":
        return image_map
    scale = torch.tensor(std, dtype=torch.float64)[:, None, None]
    branches = (replace(branch, kernel=branch.kernel / scale) for branch in image_map.branches)
    return ImageMap(tuple(branches), image_map.input_size)


def _injective(model: Model, stem: Stem, *, proven: bool) -> NoNullspaceError:
    assert stem.image_map is not None
    inputs, outputs = stem.image_map.inputs, stem.image_map.outputs
    rank = "the rank is proven to be full" if proven else "counting leaves none"
    return NoNullspaceError(
        f"{model.name} has no exact nullspace: its first layers read {inputs} numbers by {outputs} outputs, and {rank} "
        f"({'; '.join(stem.layers)}).",
        {
            "kind": "affine",
            "layers": list(stem.layers),
            "in_chans": model.transform.input_size[0],
            "inputs": inputs,
            "outputs": outputs,
            "rank": inputs if proven else None,
            "nullity": 0 if proven else None,
        },
        hint=f"Models with room: {EXAMPLES}.",
    )
