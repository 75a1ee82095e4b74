"""Principal angles between what two networks read."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import subspace_angles
from torch import Tensor

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
    kernel: Float[Tensor, "d c sh sw"], rtol: float, row_space: Float[Tensor, "rank c rh rw"]
) -> Angles | None:
    """The angles between a kernel's row space and an owner's, in the frequencies that both have.

    None where either has no rows in them. By `scipy.linalg.subspace_angles`, exact for small angles, too.

    Args:
        rtol: the kernel's singular values up to this share of the largest count as zero.
    """
    A, R = common_frequencies(spectra(kernel), spectra(row_space))
    signs = mirror((R.shape[2], R.shape[3]))
    if not (bool(A.any()) and bool(R.any())):
        return None
    mine = split_space(A.flatten(1), rtol)[0].numpy()
    theirs, flipped = (split_space(rows.flatten(1), rtol)[0].numpy() for rows in (R, R * signs))
    angles = np.rad2deg(subspace_angles(mine.T, theirs.T))
    overlaps = [float(np.square(mine @ rows.T).sum()) / min(len(mine), len(rows)) for rows in (theirs, flipped)]
    return Angles(float(angles.min()), float(np.median(angles)), float(angles.max()), *(min(1.0, o) for o in overlaps))
