"""What every solver takes and returns: a problem, a point, and figures by which anybody can check it."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Norm = Literal[1, 2]
"""Minimised is ||z - t||_1, or 1/2 ||z - t||_2^2."""


class Status(StrEnum):
    """How a solver ended; the text says what to try."""

    SOLVED = "solved"
    ITERATION_LIMIT = "iteration limit reached before the tolerance: raise the limit or loosen the tolerance"


@runtime_checkable
class Projection(Protocol):
    """p problems of one A, a matrix or not: the z nearest to t with A z = A x and lower <= z <= upper.

    Points, targets and bounds are [p, n], what A makes of them [p, r].
    """

    @property
    def x(self) -> Tensor: ...
    @property
    def t(self) -> Tensor: ...
    @property
    def lower(self) -> Tensor: ...
    @property
    def upper(self) -> Tensor: ...

    def forward(self, z: Float[Tensor, "p n"]) -> Float[Tensor, "p r"]:
        """A z."""
        ...

    def adjoint(self, y: Float[Tensor, "p r"]) -> Float[Tensor, "p n"]:
        """A^T y."""
        ...

    def size(self, residual: Float[Tensor, "p r"]) -> Float[Tensor, " p"]:
        """How far z is from A z = A x, of A (z - x): its norm by orthonormal rows."""
        ...

    def select(self, which: Tensor) -> "Projection":
        """Some of the problems."""
        ...


class AffineBox(NamedTuple):
    """p problems: the z nearest to t with A z = A x and lower <= z <= upper.

    Attributes:
        A: orthonormal rows, which the problems share.
        x: points in the box, which make the problems feasible.
        t: targets.
        lower, upper: bounds.
    """

    A: Float[Tensor, "r n"]
    x: Float[Tensor, "p n"]
    t: Float[Tensor, "p n"]
    lower: Float[Tensor, "p n"]
    upper: Float[Tensor, "p n"]

    @classmethod
    def broadcast(cls, A: Tensor, x: Tensor, t: Tensor, lower: Tensor | float, upper: Tensor | float) -> "AffineBox":
        """Bounds may be numbers, or tensors that broadcast to t."""
        low, high = (torch.as_tensor(bound, dtype=t.dtype, device=t.device).expand_as(t) for bound in (lower, upper))
        return cls(A, x, t, low, high)

    def select(self, which: Tensor) -> "AffineBox":
        return AffineBox(self.A, *(part[which] for part in self[1:]))

    def forward(self, z: Float[Tensor, "p n"]) -> Float[Tensor, "p r"]:
        """A z."""
        return z @ self.A.mT

    def adjoint(self, y: Float[Tensor, "p r"]) -> Float[Tensor, "p n"]:
        """A^T y."""
        return y @ self.A

    def size(self, residual: Float[Tensor, "p r"]) -> Float[Tensor, " p"]:
        """The norm of A (z - x), which is how far z is from the affine set."""
        return residual.norm(dim=1)

    def residual(self, z: Float[Tensor, "p n"]) -> Float[Tensor, "p r"]:
        """A (z - x)."""
        return self.forward(z - self.x)


def gap_of(problem: Projection, z: Float[Tensor, "p n"], y: Float[Tensor, "p r"], norm: Norm) -> Float[Tensor, " p"]:
    """(primal - dual) / (1 + primal): any y bounds the optimum from below, so this is honest for any feasible z.

    The bound is the minimum over the box, entry by entry, of the objective plus <A^T y, x - z>.
    """
    t, lower, upper = problem.t, problem.lower, problem.upper
    g = problem.adjoint(y)
    nearest = t.clamp(lower, upper)
    if norm == 1:
        lowest = torch.where(g > 1, upper, torch.where(g < -1, lower, nearest))
        primal, dual = (z - t).abs(), (lowest - t).abs()
    else:
        lowest = (t + g).clamp(lower, upper)
        primal, dual = (z - t) ** 2 / 2, (lowest - t) ** 2 / 2
    best = primal.sum(1)
    return (best - (dual + g * (problem.x - lowest)).sum(1)).abs() / (1 + best)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Figures of p independent problems, measured on their solutions z.

    Attributes:
        residual: what is left of the equality, ||A (z - x)||_2 of each problem, in the units of A x; of least squares
            ||A z - b||_2, of a resize's problem the largest entry.
        bound_violation: largest excess over a bound, in the units of z.
        gap: 0 is a proof of optimality. Of projections (primal - dual) / (1 + primal); of least squares a bound on how
            far `residual` exceeds the least possible.
        iterations: outer iterations spent.
        status: the worst status among the problems.
    """

    residual: Float[Tensor, " p"]
    bound_violation: Float[Tensor, " p"]
    gap: Float[Tensor, " p"]
    iterations: Int[Tensor, " p"]
    status: Status

    def figures(self, norm: Norm) -> dict[str, Any]:
        """What JSON documents carry: the worst among the problems."""
        return {
            "norm": norm,
            "status": self.status.name.lower(),
            "iterations": int(self.iterations.max()),
            "gap": float(self.gap.max()),
            "residual": float(self.residual.max()),
            "bound_violation": float(self.bound_violation.max()),
        }

    def select(self, which: Tensor) -> "Certificate":
        """That of some of the problems."""
        return Certificate(
            residual=self.residual[which],
            bound_violation=self.bound_violation[which],
            gap=self.gap[which],
            iterations=self.iterations[which],
            status=self.status,
        )

    def to(self, device: torch.device | str) -> "Certificate":
        """That alone on another device: to read it off the host, one figure after another."""
        return Certificate(
            residual=self.residual.to(device),
            bound_violation=self.bound_violation.to(device),
            gap=self.gap.to(device),
            iterations=self.iterations.to(device),
            status=self.status,
        )


@dataclass(frozen=True, kw_only=True)
class Solution(Certificate):
    """Solutions of p independent problems, with their certificate.

    Attributes:
        value: z [p, n], or [n] of a single problem, inside the bounds exactly as far as `bound_violation` says.
    """

    value: Float[Tensor, "... n"]

    @classmethod
    def certified(
        cls, problem: Projection, z: Tensor, y: Tensor, norm: Norm, iterations: Tensor, status: Status
    ) -> "Solution":
        """Measure z [p, n] afresh, with the dual point y [p, r] as the proof of its optimality."""
        violation = torch.maximum(problem.lower - z, z - problem.upper).clamp_min(0).amax(1)
        return cls(
            value=z,
            residual=problem.size(problem.forward(z - problem.x)),
            bound_violation=violation,
            gap=gap_of(problem, z, y, norm),
            iterations=iterations,
            status=status,
        )

    def keeping_source(self, problem: AffineBox, kept: Bool[Tensor, " p"], norm: Norm) -> "Solution":
        """The same with x itself for the problems that are `kept`, measured afresh: feasible, and far from optimal.

        Their gap is the one that the bounds alone prove (y = 0).
        """
        if not bool(kept.any()):
            return self
        given_up = problem.select(kept)
        y = torch.zeros_like(given_up.residual(given_up.x))
        instead = Solution.certified(given_up, given_up.x, y, norm, self.iterations[kept], self.status)

        def put(ours: Tensor, theirs: Tensor) -> Tensor:
            whole = ours.clone()
            whole[kept] = theirs
            return whole

        return replace(
            self,
            value=put(self.value, instead.value),
            residual=put(self.residual, instead.residual),
            bound_violation=put(self.bound_violation, instead.bound_violation),
            gap=put(self.gap, instead.gap),
        )
