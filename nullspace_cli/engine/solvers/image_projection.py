"""Projection of whole images onto what a map of images reads alike and a box: p = 2, without a matrix.

    minimise 1/2 ||z - t||^2   subject to   A z = A x,  l <= z <= u,   for each image.

The dual is that of `dual_newton`. Its systems are solved by conjugate gradients, with what preconditions A A^T for the
projection without a box (`null_projection`): as long as most entries are free, A M A^T is much alike.
"""

from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.dual_newton import ASKED_EVERY, minimise_dual
from nullspace_cli.engine.solvers.null_projection import NullProjection
from nullspace_cli.engine.solvers.solution import Solution, Status

MEASURED = 0.01
"""Relative accuracy of the distances from the affine set by which the method ends, and of those of certificates."""

START = 1e-3
"""Relative accuracy of the start, which is the optimum where no bound is active."""


@dataclass(frozen=True, eq=False)
class ImageBox:
    """The problems of some images, flattened: a `Projection`."""

    projection: NullProjection
    x: Float[Tensor, "p n"]
    t: Float[Tensor, "p n"]
    lower: Float[Tensor, "p n"]
    upper: Float[Tensor, "p n"]

    def forward(self, z: Float[Tensor, "p n"]) -> Float[Tensor, "p r"]:
        return self.projection.image_map.forward(z.unflatten(1, self.projection.image_map.input_size))

    def adjoint(self, y: Float[Tensor, "p r"]) -> Float[Tensor, "p n"]:
        return self.projection.image_map.adjoint(y).flatten(1)

    def size(self, residual: Float[Tensor, "p r"]) -> Float[Tensor, " p"]:
        """<r, (A A^T)^-1 r>^(1/2)."""
        y, _ = self.projection.solve(residual, relative=MEASURED)
        return (residual * y).sum(1).clamp_min(0).sqrt()

    def select(self, which: Tensor) -> "ImageBox":
        return ImageBox(self.projection, *(part[which] for part in (self.x, self.t, self.lower, self.upper)))

    def newton_step(
        self,
        max_inner: int,
        free: Bool[Tensor, "p n"],
        gradient: Float[Tensor, "p r"],
        damping: Float[Tensor, " p"],
        forcing: Float[Tensor, " p"],
    ) -> Float[Tensor, "p r"]:
        """(A M A^T + damping) s = -gradient; where that takes too long, as far as it has come: downhill it is."""
        mask = free.to(gradient.dtype)
        s, _ = conjugate_gradients(
            lambda y: self.forward(self.adjoint(y) * mask) + damping[:, None] * y,
            -gradient,
            relative=forcing,
            preconditioner=self.projection.precondition,
            max_iterations=max_inner,
            asked_every=ASKED_EVERY,
        )
        return s


@full_precision
def project_image_box(
    projection: NullProjection,
    x: Float[Tensor, "b c h w"],
    t: Float[Tensor, "b c h w"],
    lower: Float[Tensor, "b c h w"],
    upper: Float[Tensor, "b c h w"],
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 60,
    max_inner: int = 100,
) -> Solution:
    """Project every image t onto {z : A z = A x, lower <= z <= upper}.

    Args:
        projection: of the map A; in float64 for a certificate.
        x: images in the box; each makes its problem feasible.
        t: targets; they may lie outside the box.
        tolerance: largest distance from {z : A z = A x} that counts as solved.
        max_iterations: Newton steps. Where much of x lies on its bounds it takes 15 to 50, else 7 to 20; just off them
            60 may not do: hardly a direction stays in the box, and the free entries are found by and by.
        max_inner: conjugate gradient steps within each.

    Returns:
        The projections, flattened: `residual` is that distance, ||A (z - x)|| by orthonormal rows. The bounds hold
        exactly.
    """
    problem = ImageBox(projection, *(part.flatten(1) for part in (x, t, lower, upper)))
    start, _ = projection.solve(problem.forward(problem.x - problem.t), relative=START)
    point, iterations = minimise_dual(
        problem,
        start,
        partial(problem.newton_step, max_inner),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    solution = Solution.certified(problem, point.z, point.y, 2, iterations, Status.SOLVED)
    solved = bool((solution.residual <= tolerance).all())
    return solution if solved else replace(solution, status=Status.ITERATION_LIMIT)
