"""Whole levels near a projection, by what Pillow makes of them: rounding in the metric of A R, with the passes' own.

    minimise ||q - t||^2 + mu ||A (P(q) - b)||^2   over whole levels q within their bounds:

the problem of `solvers.penalised_projection` with Pillow's two rounded passes P in place of the resize R. It starts at
the solution rounded to the nearest, and moves single pixels by one level. R says which pixel of each patch promises
most; what comes of it is measured, because each move draws the passes' roundings anew: that there are many to choose
from is what brings the error below that of chance roundings.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor

from nullspace_cli.engine.preimage.pillow_passes import Levels, View
from nullspace_cli.engine.preimage.solver import PreimageSolver
from nullspace_cli.engine.watermark.patch_constraint import PatchConstraint

PROBES = 4
"""Random pictures by which the mean curvature is estimated."""

RESTED = 50
"""Rounds for which a pixel is left alone that was tried in vain."""

CROWDED = 0.5
"""Share of moves in vain from which on no patch moves together with its neighbours."""

LOOKED_BACK, WORTH = 16, 0.03
"""The descent ends when so many rounds have lowered what is left by less than this share."""

Image = Float[NDArray[np.float32], "H c W"]
Costs = Float[NDArray[np.float32], " m"]


class LevelDescent:
    """Rounds pictures of one size, on the host, where pictures are.

    Args:
        constraint: C, by orthonormal rows.
        sigma: A = diag(sigma) C.
        wanted: b.
        lower, upper: the bounds of the pixels.
    """

    def __init__(
        self,
        preimages: PreimageSolver,
        constraint: PatchConstraint,
        sigma: Float[Tensor, " rank"],
        wanted: View,
        lower: Levels,
        upper: Levels,
    ) -> None:
        self._passes, self._constraint = preimages.passes, constraint
        self._wanted, self._lower, self._upper = torch.from_numpy(wanted).float(), lower, upper
        self._A = sigma[:, None] * constraint.rows
        readers = constraint.patches(torch.from_numpy(preimages.readers_of(lower < upper)).float())
        self._readers = readers.any(1).nonzero()[:, 0]
        self._rows, self._cols = (torch.from_numpy(a).float() for a in (self._passes.rows, self._passes.cols))
        self._cells, self._movable = self._by_cells()
        columns = constraint.grid[1]
        self._colours = (self._cells // columns % 2) * 2 + self._cells % columns % 2

    def __call__(self, start: Levels, target: Levels, mu: float, *, max_rounds: int = 400) -> Levels:
        """Descend from `start`.

        Args:
            target: t.
            mu: the weight of ||A (P(q) - b)||^2.
        """
        q, t = start.astype(np.float32), target.astype(np.float32)
        residual = self._residual(q)
        costs = _squares(residual)
        curvature = mu * self._mean_curvature() + 1
        rests = np.zeros(q.size, np.int32)
        past, crowded = [float(costs.sum())], False
        for count in range(max_rounds):
            if count >= LOOKED_BACK and past[-1] > (1 - WORTH) * past[-LOOKED_BACK]:
                break
            slope = mu * self._slope(residual) + (q - t)
            step = -np.sign(slope)
            promise = np.abs(slope) / curvature
            promise[(q + step < self._lower) | (q + step > self._upper)] = 0
            promise.flat[rests > count] = 0
            cells, movers = self._best(promise, count % 4 if crowded else None)
            prices = 2 * (step * (q - t)).flat[movers] + 1
            after = self._measured(q, step, movers)
            gains = mu * self._around(after[2] - costs)[cells] + prices < 0
            if not gains.all():
                after = self._measured(q, step, movers[gains])
            if mu * (after[2].sum() - costs.sum()) + prices[gains].sum() < 0:
                q, residual, costs = after
                rests[movers[~gains]] = count + RESTED
            else:
                rests[movers] = count + RESTED
            crowded = crowded or gains.sum() < (1 - CROWDED) * len(gains)
            past.append(float(costs.sum()))
        return q.astype(np.uint8)

    def _measured(self, q: Image, step: Image, movers: NDArray[np.intp]) -> tuple[Image, Tensor, Costs]:
        """The picture after these moves, A (P(q) - b) of each patch, and its square."""
        moved = q.copy()
        moved.flat[movers] += step.flat[movers]
        residual = self._residual(moved)
        return moved, residual, _squares(residual)

    def _residual(self, q: Image) -> Float[Tensor, "m rank"]:
        change = torch.from_numpy(self._passes(q.astype(np.uint8))) - self._wanted
        return self._constraint.patches(change)[self._readers] @ self._A.mT

    def _slope(self, residual: Float[Tensor, "m rank"]) -> Image:
        """R^T A^T of a residual."""
        patches = residual.new_zeros(int(np.prod(self._constraint.grid)), self._A.shape[1])
        patches[self._readers] = residual @ self._A
        view = self._constraint.view(patches)
        wide = self._rows.T @ (view.flatten(0, 1) @ self._cols).view(len(view), -1)
        return wide.view(self._lower.shape).numpy()

    def _mean_curvature(self) -> Float[NDArray[np.float32], "c 1"]:
        """The mean of the diagonal of R^T A^T A R over the pixels of a channel (Hutchinson 1989)."""
        probes = np.random.default_rng(0)
        sums = np.zeros(self._lower.shape[1], np.float32)
        for _ in range(PROBES):
            z = probes.choice(np.array([-1, 1], np.float32), self._lower.shape)
            seen = (self._rows @ torch.from_numpy(z).flatten(1)).view(len(self._rows), *z.shape[1:]) @ self._cols.T
            image = self._slope(self._constraint.patches(seen)[self._readers] @ self._A.mT)
            sums += (z * image).sum((0, 2))
        free = (self._lower < self._upper).sum((0, 2)).clip(1).astype(np.float32)
        return (sums / free / np.float32(PROBES))[:, None]

    def _by_cells(self) -> tuple[Int[NDArray[np.intp], " p"], Int[NDArray[np.intp], "p k"]]:
        """The patches that have pixels of their own which may move, and these: that it is the first to read of all.

        Rows are filled up with the number of all pixels.
        """
        numbers = torch.arange(float(np.prod(self._constraint.grid)))[:, None]
        patch_of = self._constraint.view(numbers.expand(-1, self._A.shape[1]))[:, 0].numpy().astype(np.intp)
        central = patch_of[self._rows.abs().argmax(0).numpy()][:, self._cols.abs().argmax(0).numpy()]
        shape = self._lower.shape
        of_pixel = np.broadcast_to(central[:, None], shape)
        free = np.flatnonzero(self._lower < self._upper)
        order = free[of_pixel.flat[free].argsort(kind="stable")]
        cells, counts = np.unique(of_pixel.flat[order], return_counts=True)
        movable = np.full((len(cells), counts.max(initial=0)), self._lower.size, np.intp)
        movable[np.arange(movable.shape[1]) < counts[:, None]] = order
        return cells, movable

    def _best(self, promise: Image, colour: int | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The pixel of each patch that promises most, if any does; of the patches of one colour of four, or of all."""
        chosen = slice(None) if colour is None else self._colours == colour
        cells, movable = self._cells[chosen], self._movable[chosen]
        worth = np.append(promise, np.float32(0))[movable]
        best = worth.argmax(1)[:, None]
        found = np.take_along_axis(worth, best, 1)[:, 0] > 0
        return cells[found], np.take_along_axis(movable, best, 1)[found, 0]

    def _around(self, change: Costs) -> Costs:
        """The sum over each patch and its eight neighbours."""
        grid = np.zeros(self._constraint.grid, np.float32)
        grid.flat[self._readers.numpy()] = change
        return 9 * uniform_filter(grid, 3, mode="constant").ravel()


def _squares(residual: Float[Tensor, "m rank"]) -> Costs:
    costs: Costs = residual.square().sum(1).numpy()
    return costs
