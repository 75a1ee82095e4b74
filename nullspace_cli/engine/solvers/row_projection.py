"""Projection of an image's rows onto those that several resizes of one axis read alike: p = 2, with a penalty.

    minimise 1/2 ||z - t||^2 + mu / 2 (z - x) G (z - x)^T   subject to   lower <= z <= upper,   for every row z,

where x is the source's row and G = sum_i w_i R_i^T R_i for resizes R_i of the axis. There may be more of them than a
row has entries for, so that nothing but x itself meets them all: a penalty asks of each direction as much as it is
read.

Without bounds z - x = (t - x) (1 + mu G)^-1, whose entries fade away from the diagonal: a filter, the same for all
rows. With them the alternating direction method of multipliers (Boyd et al. 2011, section 3), over-relaxed, uses such
a filter again and again, on the rows alone that bounds hinder.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.solvers.solution import Certificate, Status

AT_ONCE = 10
"""Iterations after which the rows that are done are left out."""

BLOCK = 128
"""Entries of a row that are computed together, from those around that matter."""

FADED = 1e-6
"""Share of a filter's largest coefficient below which one counts for nothing."""

STIFFNESS = 30.0
"""The method's own penalty on the difference of its two copies of an entry."""

RELAXATION = 1.6
"""Between 1 and 2, as of the method's section 3.4.3."""


class RowsFound(NamedTuple):
    """Rows z - x within their bounds, and the proof; there is no equality, and hence no residual."""

    change: Float[Tensor, "n W"]
    certificate: Certificate


class RowProjection:
    """Projects rows of one length.

    Args:
        gram: G.
        mu: the penalty's weight.
    """

    def __init__(self, gram: Float[NDArray[np.float64], "W W"], mu: float, device: torch.device | str = "cpu") -> None:
        one = np.eye(len(gram))
        self._device = device
        self._penalty = self._filter(mu * gram)
        self._free = self._filter(np.linalg.inv(one + mu * gram))
        self._split = self._filter(np.linalg.inv((1 + STIFFNESS) * one + mu * gram))

    def __call__(
        self,
        wanted: Float[Tensor, "n W"],
        lower: Float[Tensor, "n W"],
        upper: Float[Tensor, "n W"],
        *,
        tolerance: float = 0.1,
        max_iterations: int = 120,
    ) -> RowsFound:
        """The rows' changes z - x.

        Args:
            wanted: t - x.
            lower, upper: the bounds less x: no entry of `lower` is above 0, none of `upper` below.
            tolerance: levels by which the method's two copies of an entry may differ in the end.
            max_iterations: of rows that bounds hinder.
        """
        change = self._free(wanted)
        left = ((change < lower) | (change > upper)).any(1).nonzero()[:, 0]
        v = change[left].clamp(lower[left], upper[left])
        u, iterations = torch.zeros_like(v), 0
        while len(left) and iterations < max_iterations:
            t, low, high = (part[left] for part in (wanted, lower, upper))
            for _ in range(AT_ONCE):
                d = self._split(t + STIFFNESS * (v - u))
                mixed = RELAXATION * d + (1 - RELAXATION) * v
                v = (mixed + u).clamp(low, high)
                u += mixed - v
            iterations += AT_ONCE
            change[left] = v
            open_ = ((d - v).abs() > tolerance).any(1)
            left, v, u = left[open_], v[open_], u[open_]
        return RowsFound(change, self._certificate(wanted, change, lower, upper, iterations, solved=not len(left)))

    def _certificate(
        self, wanted: Tensor, change: Tensor, lower: Tensor, upper: Tensor, iterations: int, *, solved: bool
    ) -> Certificate:
        """In [0, 1] pixel units; primal - least <= 1/2 g (1 + mu G)^-1 g^T, g the slope without what bounds hold."""
        distance, pull = change - wanted, self._penalty(change)
        slope = distance + pull
        slope = torch.where(((change <= lower) & (slope > 0)) | ((change >= upper) & (slope < 0)), 0.0, slope)
        primal = float(distance.square().sum(dtype=torch.float64) + (change * pull).sum(dtype=torch.float64)) / 2
        missing = float((slope * self._free(slope)).sum(dtype=torch.float64)) / 2
        excess = float(torch.maximum(change - upper, lower - change).clamp_min(0).max()) if change.numel() else 0.0
        return Certificate(
            residual=torch.zeros(1, dtype=torch.float64),
            bound_violation=torch.tensor([excess / 255], dtype=torch.float64),
            gap=torch.tensor([missing / (255**2 + primal)], dtype=torch.float64),
            iterations=torch.tensor([iterations]),
            status=Status.SOLVED if solved else Status.ITERATION_LIMIT,
        )

    def _filter(self, matrix: Float[NDArray[np.floating], "W W"]) -> "_Filter":
        return _Filter(matrix, self._device)


class _Filter:
    """Rows times a matrix whose entries fade away from the diagonal."""

    def __init__(self, matrix: Float[NDArray[np.floating], "W W"], device: torch.device | str) -> None:
        heard = np.abs(matrix) > FADED * np.abs(matrix).max()
        self._blocks = []
        for start in range(0, len(matrix), BLOCK):
            used = np.flatnonzero(heard[:, start : start + BLOCK].any(1))
            around = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
            block = np.ascontiguousarray(matrix[around, start : start + BLOCK], np.float32)
            self._blocks.append((around, torch.from_numpy(block).to(device)))

    def __call__(self, rows: Float[Tensor, "n W"]) -> Float[Tensor, "n W"]:
        return torch.cat([rows[:, around] @ block for around, block in self._blocks], 1)
