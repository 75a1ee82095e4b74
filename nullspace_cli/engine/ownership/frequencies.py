"""Patches by their spatial frequencies, in which natural images look alike to all models up to signs.

By the DCT-II, a patch mirrored left to right is the same patch with the sign of every odd horizontal frequency changed.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.fft import dctn, idctn
from torch import Tensor


def spectra(patches: Float[Tensor, "k c rh rw"]) -> Float[Tensor, "k c rh rw"]:
    """The orthonormal DCT-II of each channel: `scipy.fft.dctn(axes=(-2, -1), norm="ortho")`, in float64."""
    return torch.from_numpy(np.asarray(dctn(patches.double().numpy(), axes=(-2, -1), norm="ortho")))


def from_spectra(spectra: Float[Tensor, "k c rh rw"]) -> Float[Tensor, "k c rh rw"]:
    """The inverse of `spectra`."""
    return torch.from_numpy(np.asarray(idctn(spectra.numpy(), axes=(-2, -1), norm="ortho")))


def is_odd(size: tuple[int, int]) -> Bool[Tensor, "rh rw"]:
    """The frequencies whose sign changes where a patch is mirrored left to right."""
    return (torch.arange(size[1]) % 2 == 1).expand(size)


def mirror(size: tuple[int, int]) -> Float[Tensor, "rh rw"]:
    """The signs that mirror a patch left to right."""
    return 1.0 - 2.0 * is_odd(size).double()


def draw_signs(count: int, size: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "count rh rw"]:
    """Random signs, one for each frequency; all channels share them, so that colours stay as they are."""
    return 2.0 * torch.randint(2, (count, *size), generator=generator).double() - 1.0


def with_signs(
    patches: Float[Tensor, "k c rh rw"], signs: Float[Tensor, "*count rh rw"]
) -> Float[Tensor, "*count k c rh rw"]:
    """A surrogate of each patch: the same power at every frequency, the same colours, other signs."""
    flipped = spectra(patches) * signs[..., None, None, :, :]
    return from_spectra(flipped.reshape(-1, *patches.shape[1:])).reshape(flipped.shape)


def low_frequencies(patches: Float[Tensor, "k c rh rw"], size: tuple[int, int]) -> Float[Tensor, "k c sh sw"]:
    """Patches of at most `size`, with the same low frequencies: what is left of them where patches are smaller."""
    return from_spectra(spectra(patches)[:, :, : size[0], : size[1]].contiguous())
