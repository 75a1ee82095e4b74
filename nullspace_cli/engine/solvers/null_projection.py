"""Projection of images onto the nullspace of a map of whole images, without a matrix.

    minimise ||z - x||   subject to   A z = 0:   z = x - A^T y   with   A A^T y = A x,

by conjugate gradients on A A^T, with the inverse of the circular twin (`polyphase`) as preconditioner. In the norm of
A A^T the error of y is how far z is from the projection; <r, M r> measures that, and not the residual r itself.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.image_map import ImageMap, Resize
from nullspace_cli.engine.solvers.polyphase import CirculantInverse

ROUNDS = 2
"""The second starts from what is left of A z, computed afresh: rounding in the first is not in the answer."""


class Projected(NamedTuple):
    """Images in the nullspace, and figures by which anybody can check it.

    Attributes:
        images: z.
        residual: ||A z|| / (||A|| ||x||) of each image, with no less than ||A||'s bound for ||A||; 0 where x is.
        converged: whether the method met its tolerance.
        iterations: of all rounds, with A and A^T applied once in each.
    """

    images: Float[Tensor, "b c h w"]
    residual: Float[Tensor, " b"]
    converged: Bool[Tensor, " b"]
    iterations: int


class NullProjection:
    """Projects images of one size, any number at once, on the device of the map's tensors, in its precision.

    Args:
        image_map: A, best with kernels that are orthonormal (`independent_kernels`): its nullspace is what counts.
        preconditioned: without, plain conjugate gradients, to compare with.
    """

    @full_precision
    def __init__(self, image_map: ImageMap, *, preconditioned: bool = True) -> None:
        self.image_map = image_map
        self._preconditioned = preconditioned
        sizes = image_map.output_sizes
        self._inverses = [
            CirculantInverse(branch, size[1:]) for branch, size in zip(image_map.branches, sizes, strict=True)
        ]
        squares = [
            inverse.largest * _norm(branch.resize) ** 2
            for inverse, branch in zip(self._inverses, image_map.branches, strict=True)
        ]
        self.norm_bound = float(torch.stack(squares).sum() ** 0.5)
        """No less than the largest singular value of A."""

    @full_precision
    def __call__(
        self,
        images: Float[Tensor, "b c h w"],
        *,
        tolerance: float = 1e-13,
        max_iterations: int = 5000,
        asked_every: int = 8,
    ) -> Projected:
        """The images' nearest in the nullspace.

        Args:
            tolerance: how far an answer may be from the projection, as a share of what is taken away from its image.
            max_iterations: of each round; an image that needs more is left where it is.
            asked_every: steps after which a card is asked whether all are done.
        """
        z, converged, steps = images, torch.ones(len(images), dtype=torch.bool, device=images.device), 0

        def gram(y: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            return self.image_map.forward(self.image_map.adjoint(y))

        for _ in range(ROUNDS):
            y, open_ = conjugate_gradients(
                gram,
                self.image_map.forward(z),
                relative=tolerance ** (1 / ROUNDS),
                preconditioner=self._precondition if self._preconditioned else lambda residual: residual,
                max_iterations=max_iterations,
                asked_every=asked_every,
            )
            z, converged = z - self.image_map.adjoint(y), converged & ~open_
        before = images.flatten(1).norm(dim=1)
        left = self.image_map.forward(z).norm(dim=1) / (self.norm_bound * before)
        return Projected(z, torch.where(before > 0, left, 0.0), converged, steps)

    def sample(self, count: int, generator: torch.Generator) -> Projected:
        """Gaussian noise of standard deviation 1 along every direction of the nullspace, and 0 across.

        Args:
            generator: on the CPU, so that a seed means the same noise on every device.
        """
        kernel = self.image_map.branches[0].kernel
        noise = torch.randn(count, *self.image_map.input_size, generator=generator, dtype=torch.float64)
        projected: Projected = self(noise.to(kernel))
        return projected

    def _precondition(self, residual: Float[Tensor, "b outputs"]) -> Float[Tensor, "b outputs"]:
        sizes = self.image_map.output_sizes
        parts = residual.split([d * h * w for d, h, w in sizes], 1)
        return torch.cat(
            [
                inverse(part.unflatten(1, size)).flatten(1)
                for inverse, part, size in zip(self._inverses, parts, sizes, strict=True)
            ],
            1,
        )


def _norm(resize: Resize | None) -> float:
    """The largest singular value."""
    return float(torch.linalg.matrix_norm(resize.rows, 2) * torch.linalg.matrix_norm(resize.cols, 2)) if resize else 1.0
