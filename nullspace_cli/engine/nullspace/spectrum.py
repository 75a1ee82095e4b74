"""How much of each frequency a first layer reads: its singular values, where there is a nullspace and where none is.

A patch embedding reads every frequency of its patches' grid alike, by the singular values of one matrix.

The map of an infinite image has a block [d, c s^2] at each frequency of its outputs (`solvers.polyphase`). On a torus
of the size of the image they give the singular values of the circular twin, which differs from the map itself only in
the outputs at the edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.image_map import Branch
from nullspace_cli.engine.solvers.polyphase import polyphase

SHARES = (0.1, 0.03, 0.01, 0.001)
"""Of the largest singular value."""


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a branch's circular twin, c s^2 at each frequency; those that the outputs lack are 0.

    Of patches it is that of one, and there are no frequencies to tell apart.

    Attributes:
        by_frequency: [m, n, c s^2], in falling order; frequency 0 first along both axes, as of `torch.fft.fft2`.
    """

    by_frequency: Float[Tensor, "m n phases"]

    @property
    def sorted(self) -> Float[Tensor, " k"]:
        """All of them, the largest first: the curve."""
        return self.by_frequency.flatten().sort(descending=True).values

    @property
    def smallest(self) -> Float[Tensor, "m n"]:
        """The smallest at each frequency, frequency 0 in the middle: the map."""
        return torch.fft.fftshift(self.by_frequency[..., -1])

    def share_below(self, share: float) -> float:
        """Share of all singular values up to `share` of the largest."""
        return float((self.by_frequency <= share * self.by_frequency.max()).double().mean())

    def describe(self, shares: Sequence[float] = SHARES) -> dict[str, Any]:
        """The keys of JSON documents."""
        return {
            "sigma_max": float(self.by_frequency.max()),
            "sigma_min": float(self.by_frequency.min()),
            "share_below": {f"{share:g}": self.share_below(share) for share in shares},
        }


def spectrum_of_patches(singular_values: Float[Tensor, "*channels k"], patch_dim: int) -> Spectrum:
    """That of a matrix [d, patch_dim], by its singular values; or of one for each channel."""
    missing = patch_dim // singular_values[..., 0].numel() - singular_values.shape[-1]
    every = torch.nn.functional.pad(singular_values, (0, missing)).flatten()
    return Spectrum(every.sort(descending=True).values[None, None])


@full_precision
def find_spectrum(branch: Branch, size: tuple[int, int]) -> Spectrum:
    """The spectrum of a convolution that reads images of `size` (height, width); a resize before it is left out.

    The map of patches has one block for all frequencies, and this is exact there.
    """
    height, width = branch.read_size(size)
    grid = (max(1, height // branch.stride[0]), max(1, width // branch.stride[1]))
    found = torch.stack([torch.linalg.svdvals(row) for row in polyphase(branch, grid)])
    phases = branch.kernel.shape[1] * branch.stride[0] * branch.stride[1]
    return Spectrum(torch.nn.functional.pad(found, (0, phases - found.shape[2])))
