"""What predictor-corrector methods on a box have in common (Mehrotra 1992).

Of each entry there are two slacks, the distances to its bounds, and two dual variables; at the optimum all products of
a slack and its dual variable are 0. Arrays hold them as [p, 2, ...], the lower bound's first.
"""

from jaxtyping import Float
from torch import Tensor

SHORT_OF_THE_BOUND = 0.995
"""Share of the way to the nearest bound that a step may go."""


def step_length(values: Float[Tensor, "p *n"], step: Float[Tensor, "p *n"]) -> Float[Tensor, " p"]:
    """How much of the step, at most all, keeps every value from falling below zero."""
    return 1 / (step / values).flatten(1).amin(1).neg().clamp_min(1)


def newton_rhs(
    aim: Float[Tensor, "p 2 *n"], slack: Float[Tensor, "p 2 *n"], dual_residual: Float[Tensor, "p *n"]
) -> Float[Tensor, "p *n"]:
    """The right-hand side of Newton's equation whose step changes the products by `aim`, to first order."""
    return aim[:, 0] / slack[:, 0] - aim[:, 1] / slack[:, 1] - dual_residual
