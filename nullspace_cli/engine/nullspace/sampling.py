"""Noise in the exact nullspace (paper, section 3.2), and the controls that it is held against."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.nullspace.patch_embedding import sample_null


def equal_norm_noise(noise: Float[Tensor, "c h w"], generator: torch.Generator) -> Float[Tensor, "c h w"]:
    """Gaussian noise of the same norm and the same support: the control beside exact null noise."""
    control = torch.randn(noise.shape, generator=generator, dtype=noise.dtype) * (noise != 0)
    return control * (noise.norm() / control.norm())


def control_noises(
    read_part: Callable[[Float[Tensor, "c h w"]], Float[Tensor, "c h w"]],
    noise: Float[Tensor, "c h w"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"]]:
    """What null noise is held against: Gaussian noise, and the part of it in the row space, each of the noise's norm.

    Args:
        read_part: the part of noise that the first layers read, all of it in the row space.
        generator: not one of the seed that the noise itself was drawn from.
    """
    random = equal_norm_noise(noise, generator)
    within = read_part(random)
    return random, within * (noise.norm() / within.norm().clamp_min(torch.finfo(within.dtype).tiny))  # of no noise none


def null_noise(
    basis: Float[Tensor, "nullity c rh rw"], size: tuple[int, int], std: float, seed: int
) -> Float[Tensor, "c h w"]:
    """A sample of exact null noise over a model's whole input, in pixel units of root mean square `std`.

    Args:
        basis: null vectors in pixel space, as of `PatchBasis.pixel_basis` or `read_basis`.
    """
    noise = sample_null(basis, size, torch.Generator().manual_seed(seed))
    return noise * (std / noise.square().mean().sqrt())
