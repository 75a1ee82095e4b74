"""What every solver returns: a point, how the solver ended, and figures by which anybody can check it."""

from dataclasses import dataclass
from enum import StrEnum

from jaxtyping import Float, Int
from torch import Tensor


class Status(StrEnum):
    """How a solver ended; the text says what to try."""

    SOLVED = "solved"
    ITERATION_LIMIT = "iteration limit reached before the tolerance: raise the limit or loosen the tolerance"
    EASED = "solved, some problems in part: feasible, and at most `gap` from the optimum"


@dataclass(frozen=True)
class Solution:
    """Solutions z [p, n] of p independent problems under A z = A x and lower <= z <= upper, with a certificate each.

    Attributes:
        value: z, inside the bounds exactly as far as `bound_violation` says.
        residual: ||A (z - x)||_2 of each problem, in the units of x.
        bound_violation: largest excess over a bound, in the units of z.
        gap: (primal - dual) / (1 + primal): 0 is a proof of optimality.
        iterations: outer iterations spent.
        status: the worst status among the problems.
    """

    value: Float[Tensor, "p n"]
    residual: Float[Tensor, " p"]
    bound_violation: Float[Tensor, " p"]
    gap: Float[Tensor, " p"]
    iterations: Int[Tensor, " p"]
    status: Status
