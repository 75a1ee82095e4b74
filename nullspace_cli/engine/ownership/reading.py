"""How a network's first layer reads another's nullspace, and the mirror image of that nullspace.

A [d, n] is what a network reads of a difference of pixels, P the projector on another's nullspace, and both are taken
by frequencies, f, and channels, c. Null noise v ~ N(0, P) is read with the power

    E ||A v||^2 = tr(A P A^T) = sum over f, f' of Q[f, f'],
    Q[f, f'] = sum over c, c' of (A^T A)[cf, c'f'] P[cf, c'f'].

Models that have nothing to do with one another still share most of their nullspace: fine colour, corners of patches.
So null noise is held against its own mirror image, which has that in common with it. Mirrored left to right, Q changes
its sign where one of f and f' is odd and the other even:

    read of null noise = even + odd,    read of its mirror image = even - odd.

Images and their mirror images are alike to a network that was trained without the owner's, and so `odd` is 0 in the
mean over such networks. Of the owner's own network null noise is not read, and `odd` is -even.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.ownership.frequencies import draw_signs, is_odd, spectra

BATCH = 1024
"""Surrogates at once."""


@dataclass(frozen=True)
class Reading:
    """What a first layer reads of null noise and of its mirror image.

    Attributes:
        form: Q where one of f and f' is odd and the other even, else 0: odd = 1^T form 1; with the signs s of a
            surrogate, s^T form s.
        even, odd: sums of Q, as above.
        white: what it reads of white noise with as much power in the same frequencies.
    """

    form: Float[Tensor, "F F"]
    even: float
    odd: float
    white: float

    @property
    def null(self) -> float:
        """The power that it reads of null noise."""
        return max(0.0, self.even + self.odd)  # else rounding would make it negative

    @property
    def mirrored(self) -> float:
        """The power that it reads of the mirror image of null noise."""
        return max(0.0, self.even - self.odd)

    @property
    def ratio(self) -> float | None:
        """What it reads of null noise, by what it reads of its mirror image; None where that is 0."""
        return self.null / self.mirrored if self.mirrored > 0 else None

    @property
    def visibility(self) -> float:
        """What it reads of null noise and its mirror image in the mean, by what it reads of as powerful white noise."""
        return self.even / self.white if self.white > 0 else 0.0

    @property
    def spread(self) -> float:
        """The standard deviation of s^T form s over random signs s: its variance is 2 sum form^2."""
        return float((2 * self.form.square().sum()).sqrt())

    @property
    def score(self) -> float | None:
        """`odd` in units of `spread`; None where that is 0."""
        return self.odd / self.spread if self.spread > 0 else None

    def surrogates(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """s^T form s for random signs s: what `odd` would be of as many surrogates of the nullspace."""
        parts = []
        for start in range(0, count, BATCH):
            signs = draw_signs(min(BATCH, count - start), (1, len(self.form)), generator).flatten(1)
            parts.append(((signs @ self.form) * signs).sum(1))
        return torch.cat(parts)


def reading_of(kernel: Float[Tensor, "d c sh sw"], row_space: Float[Tensor, "rank c rh rw"]) -> Reading:
    """How a kernel, of whatever patch size, reads a nullspace.

    Of patches of two sizes those frequencies are compared that both have. The others are out of sight for whoever has
    the smaller patches, and noise in them would say nothing.

    Args:
        kernel: what a network reads, for differences of pixels.
        row_space: the orthonormal complement of the nullspace, of the same channels, in pixel space.
    """
    A, R = common_frequencies(spectra(kernel), spectra(row_space))
    size = (A.shape[2], A.shape[3])
    odd = is_odd(size).flatten()
    Q = torch.zeros(len(odd), len(odd), dtype=torch.float64)
    for c in range(A.shape[1]):
        for other in range(A.shape[1]):
            projector = -(R[:, c].flatten(1).mT @ R[:, other].flatten(1))
            if c == other:
                projector.diagonal().add_(1.0)
            Q += (A[:, c].flatten(1).mT @ A[:, other].flatten(1)) * projector
    differs = odd[:, None] != odd
    form = torch.where(differs, Q, 0.0)
    whole = R.shape[1] * len(odd)
    share = (whole - float(R.square().sum())) / whole
    return Reading(form, float(torch.where(differs, 0.0, Q).sum()), float(form.sum()), float(A.square().sum()) * share)


def common_frequencies(
    a: Float[Tensor, "k c h w"], b: Float[Tensor, "l c h2 w2"]
) -> tuple[Float[Tensor, "k c h3 w3"], Float[Tensor, "l c h3 w3"]]:
    """Of two spectra the frequencies that both have; a frequency is so many half waves over a patch."""
    h, w = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    return a[:, :, :h, :w], b[:, :, :h, :w]
