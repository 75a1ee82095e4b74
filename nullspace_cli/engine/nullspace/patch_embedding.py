"""The exact nullspace of a patch embedding (paper, section 3): rank, bases, projections, samples.

A ViT's first layer cuts the image into patches and multiplies each, flattened to n = c * r_h * r_w numbers, by a matrix
W [d, n]. Adding any v with W v = 0 to a patch leaves every token, and so the network's whole output, as it was.

Spaces. W acts on *normalised* pixels (x - mean) / std. For a *difference* of pixels in [0, 1] the map is therefore
A = W diag(1 / std): the mean, the bias and whatever norm follows play no part.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.nullspace.decomposition import count_rank, split_space
from nullspace_cli.engine.nullspace.patches import patchify, unpatchify
from nullspace_cli.engine.runtime.precision import stored_eps

Space = Literal["pixel", "normalized"]


@dataclass(frozen=True)
class PatchMap:
    """The linear map of a patch embedding.

    Attributes:
        weight: W as a convolution kernel [d, c, r_h, r_w], float64, acting on normalised pixels.
        std: the model's per-channel standard deviation, c numbers in [0, 1] pixel units.
        stored_eps: machine epsilon of the precision that the weights are stored in.
    """

    weight: Float[Tensor, "d c rh rw"]
    std: tuple[float, ...]
    stored_eps: float

    @classmethod
    def from_weight(cls, weight: Float[Tensor, "d c rh rw"], std: tuple[float, ...]) -> "PatchMap":
        """Take a model's kernel as it is, noticing weights that were stored in half precision and widened since."""
        kernel = weight.detach().cpu()
        return cls(kernel.double(), std, stored_eps(kernel))

    @property
    def patch_size(self) -> tuple[int, int]:
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def embed_dim(self) -> int:
        return self.weight.shape[0]

    @property
    def in_chans(self) -> int:
        return self.weight.shape[1]

    @property
    def patch_dim(self) -> int:
        """n = c * r_h * r_w."""
        return self.weight[0].numel()

    @property
    def zero(self) -> float:
        """Share of the largest singular value up to which one is zero, by the precision that the weights are stored in.

        A matrix that truly lacks rank, rounded to that precision, shows singular values just below it: rounding adds a
        random matrix of spectral norm about 0.3 eps * rms(W) * (sqrt(n) + sqrt(d)), while the largest singular value is
        at least rms(W) * sqrt(n).
        """
        return max(self.stored_eps, max(self.embed_dim, self.patch_dim) * torch.finfo(torch.float64).eps)

    def kernel(self, space: Space) -> Float[Tensor, "d c rh rw"]:
        """The kernel that acts on differences in the given space: W, or W diag(1 / std)."""
        if space == "normalized":
            return self.weight
        std = torch.tensor(self.std, dtype=self.weight.dtype)
        return self.weight / std[:, None, None]

    def matrix(self, space: Space) -> Float[Tensor, "d n"]:
        return self.kernel(space).flatten(1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b outputs"]:
        """What the layer makes of normalised images, its bias left out."""
        return (self.patchify(images) @ self.matrix("normalized").to(images).mT).flatten(1)

    def patchify(self, image: Shaped[Tensor, "*batch c h w"]) -> Shaped[Tensor, "*batch m n"]:
        """`patchify` by this map's patch size."""
        return patchify(image, self.patch_size)

    def unpatchify(
        self, patches: Float[Tensor, "*batch m n"], onto: Float[Tensor, "*batch c h w"]
    ) -> Float[Tensor, "*batch c h w"]:
        """`unpatchify` by this map's patch size."""
        return unpatchify(patches, onto, self.patch_size)

    def nullspace(self, space: Space = "pixel", rtol: float | None = None, *, per_channel: bool = False) -> "Nullspace":
        """The nullspace {v : W v = 0}, jointly over the channels or channel by channel.

        Per channel is the paper's rule (section 3.1, "d < r^2"): noise that touches one channel at a time. The joint
        nullspace contains it and is larger.

        Args:
            space: the space that v lives in.
            rtol: singular values at or below ``rtol * max`` count as zero. Default: `zero`, the machine epsilon of the
                *stored* weights.
        """
        rtol = self.zero if rtol is None else rtol
        shape = (self.in_chans, *self.patch_size)
        if not per_channel:
            row_space, null, sigma = split_space(self.matrix(space), rtol)
            return Nullspace(row_space.unflatten(1, shape), null.unflatten(1, shape), sigma, rtol, space)
        parts = [split_space(channel.flatten(1), rtol) for channel in self.kernel(space).unbind(1)]
        rows, nulls, sigmas = zip(*parts, strict=True)

        def embedded(blocks: tuple[Tensor, ...]) -> Tensor:
            return torch.block_diag(*blocks).unflatten(1, shape)

        return Nullspace(embedded(rows), embedded(nulls), torch.stack(sigmas), rtol, space)

    def nullity_per_channel(self, rtol: float) -> list[int]:
        """The nullity of each channel's own matrix [d, r_h * r_w]; the std of one channel cannot change it."""
        sizes = [(channel.flatten(1), channel[0].numel()) for channel in self.weight.unbind(1)]
        return [size - int(count_rank(torch.linalg.svdvals(matrix), rtol)) for matrix, size in sizes]


@dataclass(frozen=True)
class Nullspace:
    """A nullspace and its complement, as orthonormal rows in patch shape.

    Attributes:
        row_space: [rank, c, r_h, r_w], orthonormal, ordered by falling singular value.
        basis: [nullity, c, r_h, r_w], orthonormal. Unique only up to a rotation: compare projectors, not vectors.
        singular_values: [min(d, n)] descending, or [c, min(d, r_h * r_w)] where each channel was taken alone.
        rtol: relative tolerance that divided the two.
        space: the space that the vectors live in.
    """

    row_space: Float[Tensor, "rank c rh rw"]
    basis: Float[Tensor, "nullity c rh rw"]
    singular_values: Float[Tensor, "..."]
    rtol: float
    space: Space

    @property
    def rank(self) -> int:
        return self.row_space.shape[0]

    @property
    def nullity(self) -> int:
        return self.basis.shape[0]

    def project(self, patches: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """The orthogonal projection onto the nullspace: v - R^T R v, by the row space R."""
        rows = self.row_space.flatten(1).to(patches)
        return patches - (patches @ rows.T) @ rows


@dataclass(frozen=True)
class PatchSpace:
    """What the solvers need of a model: how to cut an image, and the row space that must not move.

    Attributes:
        patch_map: the patch embedding's map.
        row_space: orthonormal rows [rank, n] spanning the rows of A in pixel space, float64.
    """

    patch_map: PatchMap
    row_space: Float[Tensor, "rank n"]

    def __post_init__(self) -> None:
        if self.row_space.shape[1] != self.patch_map.patch_dim:
            raise ArtifactError(
                f"The row space is of patches with {self.row_space.shape[1]} numbers, the model's patches have "
                f"{self.patch_map.patch_dim}. Make the basis again for this model."
            )

    @property
    def in_chans(self) -> int:
        return self.patch_map.in_chans

    def read_part(self, images: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """The part of differences of images that lies in the row space; 0 where no whole patch is."""
        rows = self.row_space.to(images)
        seen = self.patch_map.patchify(images) @ rows.mT @ rows
        return self.patch_map.unpatchify(seen, torch.zeros_like(images))

    def of_grey(self) -> "PatchSpace":
        """The same for images whose three channels are equal: one channel, and the sum of the three kernels."""
        kernel = self.patch_map.kernel("pixel").sum(1, keepdim=True)
        patch_map = PatchMap(kernel, (1.0,), self.patch_map.stored_eps)
        return PatchSpace(patch_map, patch_map.nullspace().row_space.flatten(1))


def sample_null(
    basis: Float[Tensor, "nullity c rh rw"], size: tuple[int, int], generator: torch.Generator
) -> Float[Tensor, "c h w"]:
    """Exact nullspace noise over an image (section 3.2): v = sum_i lambda_i b_i per patch, lambda_i standard normal.

    What the patches leave over at the right and at the bottom is 0.
    """
    nullity, c, rh, rw = basis.shape
    coefficients = torch.randn(size[0] // rh * (size[1] // rw), nullity, generator=generator, dtype=basis.dtype)
    return unpatchify(coefficients @ basis.flatten(1), torch.zeros(c, *size, dtype=basis.dtype), (rh, rw))
