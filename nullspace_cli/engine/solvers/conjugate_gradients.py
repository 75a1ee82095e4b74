"""Conjugate gradients (Hestenes and Stiefel 1952) for many symmetric positive definite systems side by side."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.solvers.device_waits import finished

LinearMap = Callable[[Float[Tensor, "p *n"]], Float[Tensor, "p *n"]]


def conjugate_gradients(
    operator: LinearMap,
    right: Float[Tensor, "p *n"],
    *,
    relative: float | Float[Tensor, " p"],
    absolute: float = torch.inf,
    preconditioner: LinearMap = lambda residual: residual,
    max_iterations: int,
    asked_every: int = 1,
) -> tuple[Float[Tensor, "p *n"], Bool[Tensor, " p"]]:
    """Solve K s = right for every problem along the first axis, from s = 0.

    Args:
        operator: s to K s, each problem for itself.
        relative: a problem is done when <r, M r>^(1/2), with r = right - K s, is at most this share of what it was,
        absolute: and ||r||_2 at most this.
        preconditioner: M, r to about K^-1 r.
        max_iterations: a problem that is not done after these is left where it is.
        asked_every: steps after which a card is asked whether all are done.

    Returns:
        s, and which problems are not done.
    """

    def dot(a: Tensor, b: Tensor) -> Float[Tensor, " p"]:
        return (a * b).flatten(1).sum(1)

    def wide(numbers: Float[Tensor, " p"]) -> Tensor:
        return numbers.reshape(-1, *[1] * (right.ndim - 1))

    least = torch.finfo(right.dtype).tiny
    s, residual = torch.zeros_like(right), right
    direction = preconditioned = preconditioner(residual)
    rho = dot(residual, preconditioned)
    enough = rho * relative**2
    for k in range(max_iterations + 1):
        open_ = (rho > enough) | (residual.flatten(1).norm(dim=1) > absolute)
        if k == max_iterations or finished(~open_, k, asked_every):
            break
        image = operator(direction)
        # Nothing changes of a problem that is done.
        alpha = wide(torch.where(open_, rho / dot(direction, image).clamp_min(least), 0.0))
        s = s + alpha * direction
        residual = residual - alpha * image
        preconditioned = preconditioner(residual)
        before, rho = rho, dot(residual, preconditioned)
        direction = preconditioned + wide(rho / before.clamp_min(least)) * direction
    return s, open_
