"""Principal angles between what two networks read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import subspace_angles
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.nullspace.decomposition import split_space
from nullspace_cli.engine.ownership.frequencies import mirror, spectra
from nullspace_cli.engine.ownership.reading import common_frequencies


@dataclass(frozen=True)
class Angles:
    """Principal angles in degrees, and what a mirrored owner has of them.

    Attributes:
        smallest, median, largest: of the angles between both row spaces.
        overlap: the mean of their squared cosines: 1 for the same space.
        overlap_mirrored: the same with the owner's row space mirrored left to right: what is in common anyway.
    """

    smallest: float
    median: float
    largest: float
    overlap: float
    overlap_mirrored: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def angles_between(
    kernel: Float[Tensor, "d c sh sw"],
    rtol: float,
    row_space: Float[Tensor, "rank c rh rw"],
    references: Sequence[Float[Tensor, "_ c _ _"]] = (),
) -> Angles | None:
    """The angles between a kernel's row space and an owner's, in the frequencies that both have.

    None where either has no rows in them. By `scipy.linalg.subspace_angles`, exact for small angles, too.

    Args:
        rtol: the kernel's singular values up to this share of the largest count as zero.
        references: kernels of networks without kinship. What they read in common is taken out of both row spaces.
    """
    A, R = common_frequencies(spectra(kernel), spectra(row_space))
    signs = mirror((R.shape[2], R.shape[3]))
    if not (bool(A.any()) and bool(R.any())):
        return None
    spaces = [split_space(rows.flatten(1), rtol)[0] for rows in (A, R, R * signs)]
    if references:
        common = _common_space([_fitted(spectra(one), A) for one in references], rtol)
        spaces = [_outside(rows, common) for rows in spaces]
    mine, theirs, flipped = (rows.numpy() for rows in spaces)
    if not (len(mine) and len(theirs) and len(flipped)):
        return None
    angles = np.rad2deg(subspace_angles(mine.T, theirs.T))
    overlaps = [float(np.square(mine @ rows.T).sum()) / min(len(mine), len(rows)) for rows in (theirs, flipped)]
    return Angles(float(angles.min()), float(np.median(angles)), float(angles.max()), *(min(1.0, o) for o in overlaps))


def _fitted(A: Float[Tensor, "k c h w"], to: Float[Tensor, "d c h2 w2"]) -> Float[Tensor, "k c h2 w2"]:
    """A spectrum in the frequencies of another; smaller patches read nothing of those that they lack."""
    h, w = to.shape[2:]
    cut = A[:, :, :h, :w]
    return F.pad(cut, (0, w - cut.shape[3], 0, h - cut.shape[2]))


def _common_space(spectra: Sequence[Float[Tensor, "_ c h w"]], rtol: float) -> Float[Tensor, "m n"]:
    """What networks have in common: of the mean projector on their row spaces, the eigenvalues above a half."""
    rows = torch.cat([split_space(A.flatten(1), rtol)[0] for A in spectra if bool(A.any())])
    values, vectors = torch.linalg.eigh(rows.mT @ rows / len(spectra))
    return vectors[:, values > 0.5].mT


def _outside(rows: Float[Tensor, "k n"], common: Float[Tensor, "m n"]) -> Float[Tensor, "l n"]:
    """Of a subspace the directions that lie outside of another rather than in it, without their part in it."""
    _, sines, directions = torch.linalg.svd(rows - (rows @ common.mT) @ common, full_matrices=False)
    return directions[sines.square() > 0.5]
