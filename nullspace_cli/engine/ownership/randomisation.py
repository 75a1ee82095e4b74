"""Exact p-values by randomisation, and what a seed is drawn from."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

EQUAL = 1e-9
"""Statistics that differ by this share, or by less, differ by rounding alone."""


def p_value(statistic: float, surrogates: Float[Tensor, " m"]) -> float:
    """p = (1 + #{T* <= T}) / (1 + M): small where the statistic lies below those of nearly all surrogates.

    Exact for any M where all M + 1 are exchangeable: P(p <= a) <= a, with equality at multiples of 1 / (1 + M) where no
    two are equal; what differs by rounding alone is. Other than by `scipy.stats.permutation_test`, the surrogates are
    given.
    """
    most = statistic + EQUAL * abs(statistic)
    return (1 + int((surrogates <= most).sum())) / (1 + len(surrogates))


def smallest_p(surrogates: int) -> float:
    """The least that `p_value` can give."""
    return 1 / (1 + surrogates)


def generator_of(*parts: object) -> torch.Generator:
    """A generator of the CPU that is seeded by all parts: those of another claim, or for another purpose, differ."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
    return torch.Generator().manual_seed(int(digest[:15], 16))
