"""The largest mark whose written file the model reads alike within a tolerance, where the resize has no inverse.

What counts is the error of the patch embeddings that the *rounded* picture leads to, by Pillow's two rounded passes.
The projection takes a small share of the tolerance, which leaves the rest to the roundings; where too little of the
mark is left by that, it takes more. The source itself has no error, so that there is always an answer.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.preimage.pillow_passes import Levels
from nullspace_cli.engine.preimage.problem import PreimageProblem
from nullspace_cli.engine.preimage.solver import PreimageSolver
from nullspace_cli.engine.solvers.penalised_projection import Penalty, project_near_view
from nullspace_cli.engine.solvers.resize_projection import DualPoint, ResizeProblem
from nullspace_cli.engine.solvers.solution import Certificate
from nullspace_cli.engine.watermark.level_descent import LevelDescent
from nullspace_cli.engine.watermark.patch_constraint import PatchConstraint
from nullspace_cli.engine.watermark.result import Rounding

AT_FIRST = 0.001
"""Error that the projection makes at first, or a fifth of the tolerance: less gains little beside the roundings."""

AT_MOST = 0.95
"""Share of the tolerance that it takes together with the roundings, as far as they can be foreseen."""

CONTENT = 0.13
"""Squared correlation with the wanted change that is good enough: the closer the embeddings, the better."""

SAFE = 0.7
"""Share of the tolerance that leaves room enough for the roundings, whatever they are."""

GROWTH = 1.5
"""Of the error, by the share of the wanted change: what is left of the mark is harder to reach than what is there."""

LEAST = 1e-4
"""The smallest error that is aimed at: the roundings alone make more."""

ATTEMPTS = 4
"""Pictures that are made and measured."""

STEPS = 8
"""Newton steps for one penalty: a picture is judged by what its file leads to, not by how exact the projection is."""

NEAR = (0.85, 1.05)
"""Errors, as multiples of the wanted one, that need no other penalty."""


@dataclass(frozen=True)
class Marked:
    """A picture that was made.

    Attributes:
        error: the embedding's, relative to `norm`, of the picture as Pillow resizes it.
        projected: the same before the roundings.
        reached: the squared correlation of the change with the wanted one; of an orthogonal projection it is the share
            of the wanted change that was made.
    """

    pixels: Levels
    error: float
    projected: float
    reached: float
    projection: ResizeProblem
    point: DualPoint
    certificate: Certificate


@dataclass(frozen=True)
class WithinTolerance:
    """Makes the picture for one problem.

    Attributes:
        constraint: by the right singular vectors of the patch embedding, `sigma` their singular values in pixel space.
        norm: of the source's patch embeddings without bias, in levels.
        tolerance: largest error of the embeddings, relative to `norm`.
        rounding: "aware" is by `LevelDescent`.
    """

    preimages: PreimageSolver
    problem: PreimageProblem
    constraint: PatchConstraint
    sigma: Float[Tensor, " rank"]
    norm: float
    tolerance: float
    rounding: Rounding = "aware"

    def __call__(self) -> Marked:
        """The picture with most of the mark among those within the tolerance; if there is none, the most exact."""
        projection, view = self._confined()
        gram = self.constraint.mean_gram(self.preimages.resize)
        penalty = Penalty(self.sigma, 100.0 / float(self.sigma.square().mean()), gram)
        descent = self._descent(projection)
        made: list[Marked] = []
        aim, y = max(LEAST, min(AT_FIRST, self.tolerance / 5)), None
        for _ in range(ATTEMPTS):
            point, certificate, penalty = self._reaching(aim, projection, view, penalty, y)
            y = point.y
            one = self._measured(projection, point, certificate, descent, penalty.mu)
            made.append(one)
            of_roundings = max(0.0, one.error**2 - one.projected**2)
            room = max(0.0, (AT_MOST * self.tolerance) ** 2 - of_roundings) ** 0.5
            if (one.error <= self.tolerance and one.reached >= CONTENT) or one.projected > 0.9 * room:
                break
            wanted = one.projected * (CONTENT / max(one.reached, CONTENT / 10)) ** GROWTH
            aim = min(room, wanted)
        within = [one for one in made if one.error <= self.tolerance]
        return max(within, key=lambda one: one.reached) if within else min(made, key=lambda one: one.error)

    def _confined(self) -> tuple[ResizeProblem, Float[Tensor, "h c w"]]:
        """The problem with all pixels fixed that no marked patch reads, and the view: where those lie, unrounded."""
        source, differs = self.problem.source, self.problem.target != self.problem.source
        assert source is not None
        seen = torch.from_numpy(self.preimages.readers_of(differs)).to(self.sigma.device)
        marked = self.constraint.within(self.constraint.patches(seen.float()).any(1))
        free = self.preimages.read_by(marked)
        bounds = self.problem.lower, self.problem.upper
        lower, upper = (np.where(free, bound, source).astype(np.uint8) for bound in bounds)
        target = np.where(free, self.problem.target, source)
        projection = self.preimages.projection(
            replace(self.problem, target=target, lower=lower, upper=upper), self.constraint
        )
        own = torch.from_numpy(self.problem.wanted).to(self.sigma)
        return projection, torch.where(marked, own, self._unrounded(source))

    def _unrounded(self, pixels: Levels) -> Float[Tensor, "h c w"]:
        """What Pillow makes of a picture, without its roundings."""
        resize = self.preimages.resize
        first = resize.narrow(torch.from_numpy(pixels).to(self.sigma).flatten(1)).clamp(0, 255)
        return (resize.rows @ first.flatten(1)).view(resize.h, *first.shape[1:]).clamp(0, 255)

    def _reaching(
        self, aim: float, projection: ResizeProblem, view: Tensor, penalty: Penalty, y: Tensor | None
    ) -> tuple[DualPoint, Certificate, Penalty]:
        """The projection whose error is about `aim`, as far as a heavier penalty lessens it.

        A view's roundings may be out of the resize's reach: then the multipliers of a heavy penalty grow without end.
        Nor is one of use that leaves less of the mark, where that is little already and the error is safe.
        """
        best: tuple[DualPoint, Certificate, Penalty] | None = None
        least = np.inf
        for _ in range(ATTEMPTS):
            point, certificate = project_near_view(
                projection, view, penalty, y, tolerance=0.1 * aim * self.norm, max_iterations=STEPS
            )
            error = self._error(point.residual)
            if best is not None and least > aim and error > 0.7 * least:
                return best if error > least else (point, certificate, penalty)
            best, least, y = (point, certificate, penalty), error, point.y
            safe = aim < error <= SAFE * self.tolerance
            if NEAR[0] <= error / aim <= NEAR[1] or (safe and self._is_little(projection, y)):
                break
            penalty = penalty._replace(mu=penalty.mu * float(np.clip(error / aim, 0.03, 10)))
        assert best is not None
        return best

    def _descent(self, projection: ResizeProblem) -> LevelDescent:
        bounds = [
            np.broadcast_to(bound if isinstance(bound, int) else bound.cpu().numpy(), self.problem.target.shape)
            for bound in (projection.lower, projection.upper)
        ]
        return LevelDescent(self.preimages, self.constraint.to("cpu"), self.sigma.cpu(), self.problem.wanted, *bounds)

    def _measured(
        self, projection: ResizeProblem, point: DualPoint, certificate: Certificate, descent: LevelDescent, mu: float
    ) -> Marked:
        pixels = self.preimages.nearest(projection, point.y)
        if self.rounding == "aware":
            pixels = descent(pixels, projection.target.cpu().numpy(), mu)
        change = self.preimages.passes(pixels).astype(np.float32) - self.problem.wanted
        error = self._error(self.constraint.reduce(torch.from_numpy(change).to(self.sigma)))
        return Marked(pixels, error, self._error(point.residual), self._reached(pixels), projection, point, certificate)

    def _reached(self, pixels: Levels) -> float:
        """As of `Marked`."""
        assert self.problem.source is not None
        made, wanted = (part.astype(np.float64) - self.problem.source for part in (pixels, self.problem.target))
        return float(np.corrcoef(made.ravel(), wanted.ravel())[0, 1]) ** 2 if made.any() else 0.0

    def _is_little(self, projection: ResizeProblem, y: Tensor) -> bool:
        return self._reached(self.preimages.nearest(projection, y)) <= CONTENT

    def _error(self, change: Float[Tensor, "m rank"]) -> float:
        """Of the embeddings, from the change of what the constraint reads, in levels."""
        return float((change * self.sigma).norm()) / self.norm


def by_singular_vectors(space: PatchSpace) -> tuple[PatchSpace, Float[Tensor, " rank"]]:
    """The same row space by the right singular vectors of A, and the singular values."""
    image = space.patch_map.matrix("pixel") @ space.row_space.mT
    _, sigma, vectors = torch.linalg.svd(image, full_matrices=False)
    return replace(space, row_space=vectors @ space.row_space), sigma
