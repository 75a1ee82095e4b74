"""A patch embedding that several tests of watermarks share."""

import torch

from nullspace_cli.engine.nullspace.decomposition import split_space
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, PatchSpace


def smooth_space(std: tuple[float, ...]) -> PatchSpace:
    """A patch embedding of 16 x 16 patches that reads low frequencies, as trained ones do, and a little of the rest."""
    i = torch.arange(16, dtype=torch.float64)
    waves = torch.stack([torch.cos(torch.pi * k * (i + 0.5) / 16) for k in range(5)])
    smooth = torch.einsum("ai,bj->abij", waves, waves).flatten(0, 1)
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 3, len(smooth), generator=generator, dtype=torch.float64)
    noise = 0.02 * torch.randn(64, 3, 16, 16, generator=generator, dtype=torch.float64)
    patch_map = PatchMap(torch.einsum("dcs,sij->dcij", mix, smooth) + noise, std, 1e-12)
    rows, _, _ = split_space(patch_map.matrix("pixel"), 1e-12)
    return PatchSpace(patch_map, rows)
