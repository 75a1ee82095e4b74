"""Noise that was learned on the tokens, realised in pixels: the image-independent noise that comes nearest to it.

A learned noise delta [m, d] is added to the m tokens that the patch embedding W gives. Whether an image can carry it
depends on what W reaches within the range of pixels. Patch by patch, in the model's normalised space,

    minimise ||W v - delta||_2   subject to   |v| <= bound.

The paper's authors do the same with scipy's `lsq_linear` for one patch after another (their script `nullcomponent`,
with a bound of 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ArtifactError, UsageError
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.bounded_least_squares import bounded_least_squares

AT_THE_BOUND = 1e-3
"""Entries within this share of the bound count as on it."""


@dataclass(frozen=True)
class Realised:
    """Noise in pixels and how near its tokens come to the noise that was asked for.

    Attributes:
        noise: v, float64, in normalised space; zero in the remainder beyond whole patches.
        relative_residual: ||W v - delta|| / ||delta|| of each patch; zero where delta is.
        total_relative_residual: the same of all patches together.
        share_at_bound: share of the patches' entries that lie on the bound, in [0, 1].
        solver: the certificate, for JSON: `status`, most `iterations` of a patch, and `excess`, a proven bound on how
            far any patch's relative residual exceeds the least possible.
    """

    noise: Float[Tensor, "1 c h w"]
    relative_residual: Float[Tensor, " m"]
    total_relative_residual: float
    share_at_bound: float
    solver: Mapping[str, Any]


@full_precision
def realise(patch_map: PatchMap, delta: Float[Tensor, "..."], size: tuple[int, int], bound: float = 1.0) -> Realised:
    """The noise v with |v| <= bound whose tokens W v come nearest to delta; the shortest where they reach it.

    Args:
        patch_map: the model's patch embedding; no norm may follow it, or tokens of noise would not add up.
        delta: noise on the tokens [1, m, d], before the class token and the position embedding.
        size: (height, width) of the model's input, in pixels.
        bound: largest |v|, in units of the normalised space.

    Raises:
        ArtifactError: delta belongs to another model or input size.
        UsageError: the bound is not a positive number.
    """
    if not (isfinite(bound) and bound > 0):
        raise UsageError(f"The bound on the noise is {bound}; expected a positive number, such as 1.")
    (height, width), (rh, rw) = size, patch_map.patch_size
    grid = (height // rh, width // rw)
    expected = (1, grid[0] * grid[1], patch_map.embed_dim)
    if delta.shape != expected:
        raise ArtifactError(
            f"The noise on the tokens has shape {tuple(delta.shape)}; expected {expected}: {grid[0]} x {grid[1]} "
            f"patches of an input of {height} x {width}, with {patch_map.embed_dim} numbers each. "
            "Use the model and the input size that the noise was learned with."
        )
    wanted = delta[0].detach().to(patch_map.weight)
    fit = bounded_least_squares(patch_map.matrix("normalized"), wanted, -bound, bound)
    scale = wanted.norm(dim=1)
    unit = torch.where(scale > 0, scale, 1.0)
    onto = wanted.new_zeros(1, patch_map.in_chans, height, width)
    return Realised(
        noise=patch_map.unpatchify(fit.value[None], onto),
        relative_residual=fit.residual / unit,
        total_relative_residual=float(fit.residual.norm() / scale.norm().clamp_min(1e-300)),
        share_at_bound=float((fit.value.abs() >= (1 - AT_THE_BOUND) * bound).double().mean()),
        solver={
            "status": fit.status.name.lower(),
            "iterations": int(fit.iterations.max()),
            "excess": float((fit.gap / unit).max()),
        },
    )
