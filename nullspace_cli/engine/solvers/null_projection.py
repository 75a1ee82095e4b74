"""Projection of images onto the nullspace of a map of whole images, without a matrix.

    minimise ||z - x||   subject to   A z = 0:   z = x - A^T y   with   A A^T y = A x,

by conjugate gradients on A A^T. The preconditioner M is the inverse of the circular twin (`polyphase`) and, where zeros
around the image cut kernels, before and after it blocks along these edges (`edge_blocks`), each with what those before
have left over (a symmetric multiplicative Schwarz method). In the norm of A A^T the error of y is how far z is from
the projection: <r, M r> measures that, and not the residual r itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.edge_blocks import EdgeBlocks
from nullspace_cli.engine.solvers.image_map import ImageMap
from nullspace_cli.engine.solvers.polyphase import CirculantInverse, norm_bound

ROUNDS = 2
"""The second starts from what is left of A z, computed afresh: rounding in the first is not in the answer."""

OfOutputs = Callable[[Float[Tensor, "b outputs"]], Float[Tensor, "b outputs"]]
OfABranch = Callable[[Float[Tensor, "b d oh ow"]], Float[Tensor, "b d oh ow"]]


class Projected(NamedTuple):
    """Images in the nullspace, and figures by which anybody can check it.

    Attributes:
        images: z.
        residual: ||A z|| / (||A|| ||x||) of each image, with a bound in the place of ||A||; 0 where x is.
        converged: whether the method met its tolerance.
        iterations: of all rounds.
        products: how often A A^T was applied in all, by the preconditioner too.
    """

    images: Float[Tensor, "b c h w"]
    residual: Float[Tensor, " b"]
    converged: Bool[Tensor, " b"]
    iterations: int
    products: int


class NullProjection:
    """Projects images of one size, any number at once, on the device of the map's tensors, in its precision.

    Args:
        image_map: A, best with kernels that are orthonormal (`independent_kernels`): its nullspace is what counts.
        preconditioned: without, plain conjugate gradients, to compare with.
    """

    @full_precision
    def __init__(self, image_map: ImageMap, *, preconditioned: bool = True) -> None:
        self.image_map = image_map
        self.norm_bound = norm_bound(image_map)
        """No less than the largest singular value of A."""
        self._steps = self._preconditioner() if preconditioned else []

    @full_precision
    def __call__(
        self,
        images: Float[Tensor, "b c h w"],
        *,
        tolerance: float = 1e-15,
        max_iterations: int = 5000,
        asked_every: int = 8,
    ) -> Projected:
        """The images' nearest in the nullspace.

        Args:
            tolerance: how far an answer may be from the projection, as a share of what is taken away from its image, by
                the preconditioner's measure: where outputs nearly depend on each other it may be a hundred times more.
            max_iterations: of each round; an image that needs more is left where it is.
            asked_every: steps after which a card is asked whether all are done.
        """
        z, converged = images, torch.ones(len(images), dtype=torch.bool, device=images.device)
        gram, iterations = _Counted(self.gram), 0

        def precondition(residual: Tensor) -> Tensor:
            nonlocal iterations
            iterations += 1
            return self._precondition(residual, gram)

        for _ in range(ROUNDS):
            y, open_ = conjugate_gradients(
                gram,
                self.image_map.forward(z),
                relative=tolerance ** (1 / ROUNDS),
                preconditioner=precondition,
                max_iterations=max_iterations,
                asked_every=asked_every,
            )
            z, converged = z - self.image_map.adjoint(y), converged & ~open_
            iterations -= 1  # the one before the first step
        before = images.flatten(1).norm(dim=1)
        left = self.image_map.forward(z).norm(dim=1) / (self.norm_bound * before)
        return Projected(z, torch.where(before > 0, left, 0.0), converged, iterations, gram.times)

    def sample(self, count: int, generator: torch.Generator) -> Projected:
        """Gaussian noise of standard deviation 1 along every direction of the nullspace, and 0 across.

        Args:
            generator: on the CPU, so that a seed means the same noise on every device.
        """
        kernel = self.image_map.branches[0].kernel
        noise = torch.randn(count, *self.image_map.input_size, generator=generator, dtype=torch.float64)
        projected: Projected = self(noise.to(kernel))
        return projected

    def solve(
        self, right: Float[Tensor, "b outputs"], *, relative: float, max_iterations: int = 200
    ) -> tuple[Float[Tensor, "b outputs"], Bool[Tensor, " b"]]:
        """y with A A^T y = right, to a relative accuracy by the preconditioner's measure; and who is not done."""
        return conjugate_gradients(
            self.gram,
            right,
            relative=relative,
            preconditioner=self.precondition,
            max_iterations=max_iterations,
            asked_every=8,
        )

    def gram(self, y: Float[Tensor, "b outputs"]) -> Float[Tensor, "b outputs"]:
        """A A^T y."""
        return self.image_map.forward(self.image_map.adjoint(y))

    def precondition(self, residual: Float[Tensor, "b outputs"]) -> Float[Tensor, "b outputs"]:
        """About (A A^T)^-1 times it."""
        return self._precondition(residual, self.gram)

    def _preconditioner(self) -> list[Callable[[Tensor], Tensor]]:
        """Approximate inverses of A A^T, to be used one after another; the order is the same from behind."""
        size, branches, grids = self.image_map.input_size[1:], self.image_map.branches, self.image_map.output_sizes
        twin = self._side_by_side(
            [CirculantInverse(branch, grid[1:]) for branch, grid in zip(branches, grids, strict=True)]
        )
        blocks = [EdgeBlocks(branch, size) for branch in branches]
        cut = sum(own.any for own in blocks)
        if not cut:
            return [twin]
        # Blocks of several branches lie over each other: each has its share, or together they would go too far.
        edges = self._side_by_side(blocks, 1 / cut)
        return [edges, twin, edges]

    def _side_by_side(self, parts: Sequence[OfABranch], share: float = 1.0) -> Callable[[Tensor], Tensor]:
        sizes = self.image_map.output_sizes

        def apply(outputs: Float[Tensor, "b outputs"]) -> Float[Tensor, "b outputs"]:
            cut = outputs.split([d * h * w for d, h, w in sizes], 1)
            found = [part(own.unflatten(1, size)) for part, own, size in zip(parts, cut, sizes, strict=True)]
            return share * torch.cat([own.flatten(1) for own in found], 1)

        return apply

    def _precondition(self, residual: Float[Tensor, "b outputs"], gram: OfOutputs) -> Float[Tensor, "b outputs"]:
        if not self._steps:
            return residual
        y = self._steps[0](residual)
        for step in self._steps[1:]:
            y = y + step(residual - gram(y))
        return y


class _Counted:
    def __init__(self, product: OfOutputs) -> None:
        self._product, self.times = product, 0

    def __call__(self, y: Tensor) -> Tensor:
        self.times += 1
        return self._product(y)
