"""Projection of a whole image onto the pictures that a network reads nearly alike: p = 2, where a resize enlarges.

    minimise 1/2 ||z - t||^2 + mu / 2 ||A (F(z) - b)||^2   subject to   lower <= z <= upper,

with A = diag(sigma) C the patch embedding by its singular values and its orthonormal right vectors, and F the resize
with Pillow's clipping to [0, 255] after each pass, which on the linear part R_h z R_w^T is small.

A resize that enlarges has no well-conditioned right inverse, and there may be more constraints than pixels, so that the
equality of `resize_projection` has a flat dual. Here the dual in y = -mu diag(sigma) A (F(z) - b) has the Hessian
C R M R^T C^T + diag(lambda), lambda = 1 / (mu sigma^2): strongly convex, hence with a solution whatever the bounds, and
the directions that the embedding hardly reads are hardly held. A semismooth Newton method finds it. Its systems are
preconditioned by one small matrix, C R R^T C^T + diag(lambda) of a single patch in the mean over all. The clipping,
F(z) - R z, is taken afresh before each step.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nullspace_cli.engine.runtime.stages import stage
from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.resize_projection import DualPoint, ResizeProblem, weigh
from nullspace_cli.engine.solvers.solution import Certificate, Status

WHITE = 255.0
"""Levels: what Pillow clips to after each pass."""


class Penalty(NamedTuple):
    """What the embedding's change costs.

    Attributes:
        sigma: singular values of A, those of the rows of the problem's constraint.
        mu: the weight of the squared change.
        gram: C R R^T C^T of one patch, in the mean over all; symmetric.
    """

    sigma: Float[Tensor, " rank"]
    mu: float
    gram: Float[Tensor, "rank rank"]

    @property
    def slack(self) -> Float[Tensor, " rank"]:
        """lambda: by how much a constraint gives way to a multiplier of 1."""
        return 1 / (self.mu * self.sigma.square())

    def inverse(self) -> Float[Tensor, "rank rank"]:
        """(gram + diag(lambda))^-1."""
        return torch.linalg.inv(self.gram.double() + torch.diag(self.slack.double())).to(self.gram)


class _State(NamedTuple):
    """What is known of z(y): C F(z), C R z, and which entries lie off their bounds."""

    seen: Float[Tensor, "m rank"]
    linear: Float[Tensor, "m rank"]
    weights: UInt8[Tensor, "H cW"]


def project_near_view(
    problem: ResizeProblem,
    view: Float[Tensor, "h c w"],
    penalty: Penalty,
    start: Float[Tensor, "m rank"] | None = None,
    *,
    tolerance: float,
    max_iterations: int = 25,
    max_inner: int = 40,
) -> tuple[DualPoint, Certificate]:
    """Minimise the dual, from `start` where there is one.

    Args:
        problem: its constraint is C, by patches.
        view: b, in levels.
        tolerance: largest norm of diag(sigma) times the dual's gradient, in levels: an error of the embedding.
        max_iterations: Newton steps.
        max_inner: conjugate gradient steps within each.

    Returns:
        The dual point with C (F(z) - b) as its residual, and the certificate in [0, 1] pixel units: `residual` is the
        largest entry of C (F(z) - b), `gap` that of the problem with the clipping as it is at z.
    """
    wanted, slack, inverse = problem.constraint.reduce(view), penalty.slack, penalty.inverse()
    y = torch.zeros_like(wanted) if start is None else start
    state = _state(problem, y)
    for iteration in range(max_iterations + 1):
        stage(f"solving, step {iteration + 1} of at most {max_iterations + 1}")
        gradient = state.seen - wanted + slack * y
        solved = float((gradient * penalty.sigma).norm()) <= tolerance
        if solved or iteration == max_iterations:
            break
        step = _newton_step(problem, state.weights, gradient, slack, inverse, max_inner)
        y, state = _along(problem, y, step, state, wanted, slack)
    residual = state.seen - wanted
    return (
        DualPoint(y, residual, iteration),
        _certificate(problem, y, residual, gradient, slack, iteration, solved=solved),
    )


def _state(problem: ResizeProblem, y: Tensor) -> _State:
    resize = problem.resize
    weights, first = [], []
    for _, u, z in problem.images(y):
        weights.append(weigh(u, z, torch.empty_like(u, dtype=torch.uint8)))
        first.append(resize.narrow(z))
    narrow = torch.cat(first).flatten(1)
    shape = (resize.h, resize.channels, resize.w)
    linear = (resize.rows @ narrow).view(shape)
    seen = (resize.rows @ narrow.clamp(0, WHITE)).view(shape).clamp(0, WHITE)
    return _State(problem.constraint.reduce(seen), problem.constraint.reduce(linear), torch.cat(weights))


def _newton_step(
    problem: ResizeProblem, weights: Tensor, gradient: Tensor, slack: Tensor, inverse: Tensor, max_inner: int
) -> Tensor:
    (step,), _ = conjugate_gradients(
        lambda direction: (problem.curvature(direction[0], weights) + slack * direction[0])[None],
        -gradient[None],
        relative=0.1,
        preconditioner=lambda residual: residual @ inverse,
        max_iterations=max_inner,
        asked_every=3,
    )
    return step


def _along(
    problem: ResizeProblem, y: Tensor, step: Tensor, state: _State, wanted: Tensor, slack: Tensor, tries: int = 12
) -> tuple[Tensor, _State]:
    """A point along the step where the dual's slope, which rises from negative, is no longer steep.

    The clipping stays what it was: with it the function is convex, and regula falsi towards the start cannot fail.
    """
    clipping = state.seen - state.linear - wanted

    def slope(at: _State, there: Tensor) -> float:
        return float(((at.linear + clipping + slack * there) * step).sum(dtype=torch.float64))

    length, before = 1.0, slope(state, y)
    for _ in range(tries):
        there = y + length * step
        reached = _state(problem, there)
        after = slope(reached, there)
        if after <= 0.3 * abs(before):
            break
        length *= min(0.9, max(0.1, before / (before - after)))
    return there, reached


def _certificate(
    problem: ResizeProblem,
    y: Tensor,
    residual: Tensor,
    gradient: Tensor,
    slack: Tensor,
    iterations: int,
    *,
    solved: bool,
) -> Certificate:
    """The distance and the bounds measured afresh; primal - dual = 1/2 sum gradient^2 / lambda."""
    exact = problem.certificate(DualPoint(y, residual, iterations), tolerance=torch.inf)
    distance = sum(
        float((z - problem.target[strip.start : strip.stop].flatten(1)).square().sum(dtype=torch.float64))
        for strip, _, z in problem.images(y)
    )
    penalty, missing = (float((part.square() / slack).sum(dtype=torch.float64)) for part in (residual, gradient))
    gap = missing / 2 / (WHITE**2 + (distance + penalty) / 2)
    return Certificate(
        residual=exact.residual,
        bound_violation=exact.bound_violation,
        gap=torch.tensor([gap], dtype=torch.float64),
        iterations=exact.iterations,
        status=Status.SOLVED if solved else Status.ITERATION_LIMIT,
    )
