"""Pictures that several readers are given alike: the first to the last bit, the others as well as whole levels allow.

Pillow's first pass is along the rows, and rounds. What it makes of a row decides all that follows, so that here each
row by itself is kept as every reader's first pass reads it (`solvers.row_projection`): then that rounding stays what it
was, too. Rows are also rounded by themselves, in the metric of all readers together (`solvers.metric_feedback`), and
the first reader's pass is led off the borders between two levels. What bounds foil, or the last roundings, gives way:
where the first reader has a wrong value, or another is off by more than a level, the target is blended to the source,
and those rows are solved again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d
from scipy.sparse import csr_array
from torch import Tensor

from nullspace_cli.engine.preimage.kept import Kept
from nullspace_cli.engine.preimage.pillow_passes import Levels
from nullspace_cli.engine.preimage.problem import PreimageProblem, Rounded, halved
from nullspace_cli.engine.preimage.repair import Repair
from nullspace_cli.engine.preimage.solver import PreimageSolver
from nullspace_cli.engine.runtime.stages import stage
from nullspace_cli.engine.solvers.metric_feedback import MetricFeedback
from nullspace_cli.engine.solvers.row_projection import RowProjection, RowsFound
from nullspace_cli.engine.solvers.solution import Certificate, Status
from nullspace_cli.engine.transforms.readers import Reader
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator

PENALTY = 500.0
"""Of what readers see of the change, against its distance from the wanted one: mu."""

FIRST, OTHERS = 30.0, 30.0
"""Weights of the first reader, whose pass must stay, and of all others together, of whom one counts for 1 at least."""

DAMPING = 0.005
"""As of `MetricFeedback`: small, because the finest detail, which takes up the errors, is seen by nobody."""

MARGIN = 2
"""Levels that the projection stays off black and white where the source does."""

PLACE = 0.35
"""Levels from the middle of its rounding cell within which the first reader's pass is kept: rounding needs the rest."""

ROUNDS = 8
"""Tries of a picture; from the fourth on, what is amiss is the source's own."""
HALVED = 3

STEPS = (-2, -1, 1, 2)
"""Levels by which a pixel is changed for a last wrong value: more of one alone is seen by the finest reader."""

ROWS = 256
"""Rows that are solved together."""

Seen = UInt8[NDArray[np.uint8], "h w c"]
Pixels = UInt8[NDArray[np.uint8], "H W 3"]


class Found(NamedTuple):
    """A picture found: pixels, the target in the end, the change before it was rounded, and the worst certificate."""

    pixels: Levels
    target: Levels
    change: Float[NDArray[np.float32], "H c W"]
    certificate: Certificate


class SeveralReaders:
    """Finds pictures of one size, in which more than one reader sees no mark.

    Args:
        preimages: the first reader's solver.
        others: the further readers.
        size: (width, height) of the picture.
    """

    def __init__(
        self, preimages: PreimageSolver, others: Sequence[Reader], size: tuple[int, int], device: torch.device | str
    ) -> None:
        self._preimages, self._passes = preimages, preimages.passes
        self._repair = Repair(self._passes, STEPS)
        self._others = [_OtherReader.of(reader, reader.operator(*size), self._passes.transposed) for reader in others]
        own = csr_array(self._passes.cols)
        seen_by_others = sum((axes.across.T @ axes.across for axes in self._others), csr_array((own.shape[1],) * 2))
        weight = max(1.0, OTHERS / max(1, len(others)))
        gram = (weight * seen_by_others + FIRST * (own.T @ own)).toarray()
        self._reach = max(int(np.abs(np.subtract(*gram.nonzero())).max(initial=0)), 1)
        self._project = RowProjection(gram, PENALTY, device)
        self._round = MetricFeedback(gram, DAMPING)
        self._spread = _hidden_inverse(self._passes.cols, seen_by_others.toarray())
        self._device = device

    def __call__(self, problem: PreimageProblem, shown: Callable[[Levels], Pixels]) -> Found:
        """Look for the picture.

        Args:
            problem: it has a source.
            shown: what readers are given of a picture that is found.
        """
        problem = self._preimages.confined(problem)
        assert problem.source is not None
        before = [axes.reader.input_pixels(shown(problem.source)) for axes in self._others]
        source, target = problem.source, problem.target
        pixels, change = source.copy(), np.zeros(source.shape, np.float32)
        certificates: list[Certificate] = []
        stale = (target != source).any((1, 2))
        for k in range(ROUNDS):
            stage(f"solving for {len(self._others) + 1} readers, round {k + 1} of at most {ROUNDS}")
            for rows in _chunks(np.flatnonzero(stale), ROWS):
                certificates += self._solve(replace(problem, target=target), rows, pixels, change)
            wrong = self._passes(pixels) != problem.wanted
            found = self._repair.touched_up(Rounded(pixels, wrong), problem)
            pixels = found.pixels
            amiss = self._under(found.wrong | problem.astray(pixels))
            given = shown(pixels)
            for axes, seen in zip(self._others, before, strict=True):
                amiss |= axes.under_strayed(seen, given)
            if not amiss.any() or k == ROUNDS - 1:
                break
            if k >= HALVED:  # what is amiss beside a place that cannot give more
                amiss = maximum_filter1d(amiss, 2 * (k - HALVED + 1) * self._reach + 1, axis=1)
            blended = source if k >= HALVED else halved(source, target)
            after = np.where(amiss[:, None], blended, target)
            stale, target = (after != target).any((1, 2)), after
            pixels[stale], change[stale] = source[stale], 0
        right = self._repair.restored(Rounded(pixels, self._passes(pixels) != problem.wanted), problem)
        return Found(right.pixels, target, change, _worst(certificates))

    def _solve(
        self, problem: PreimageProblem, rows: NDArray[np.intp], pixels: Levels, change: NDArray[np.float32]
    ) -> list[Certificate]:
        """Fill some rows of a picture, and of the change before it was rounded."""
        assert problem.source is not None
        x = problem.source[rows].astype(np.float32)
        wanted = problem.target[rows] - x
        near = maximum_filter1d((wanted != 0).any(1), 2 * self._reach + 1, axis=1)[:, None]
        lower, upper = (
            np.where(near, bound if isinstance(bound, int) else bound[rows], x).reshape(-1, x.shape[2])
            for bound in (problem.lower, problem.upper)
        )
        flat = x.reshape(lower.shape)
        low = np.maximum(lower, np.minimum(flat, MARGIN))  # so that rounding can go either way
        high = np.minimum(upper, np.maximum(flat, 255 - MARGIN))
        found = self._projected(wanted.reshape(flat.shape), low - flat, high - flat)
        made = found.change.cpu().numpy()
        z = flat + made
        z += self._led(problem.source[rows], z) @ self._spread
        q = self._round(*(np.ascontiguousarray(part.T) for part in (z, lower, upper)))
        pixels[rows], change[rows] = q.T.reshape(x.shape), made.reshape(x.shape)
        residual = np.abs(made @ self._passes.cols.T.astype(np.float32)).max() / 255
        return [replace(found.certificate, residual=torch.tensor([residual], dtype=torch.float64))]

    def _projected(self, wanted: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> RowsFound:
        return self._project(*(torch.from_numpy(part).to(self._device) for part in (wanted, low, high)))

    def _led(self, source: Levels, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """By how much the first reader's pass of z is to move: to where the source's is, not too near to a border."""
        cols = self._passes.cols.T.astype(np.float32)
        own = source.reshape(z.shape).astype(np.float32) @ cols
        rounded = self._passes.first(source).reshape(own.shape).astype(np.float32)
        clipped = (own < 0) | (own > 255)
        return np.where(clipped, own, own.clip(rounded - PLACE, rounded + PLACE)) - z @ cols

    def _under(self, amiss: Bool[NDArray[np.bool_], "h c w"]) -> Bool[NDArray[np.bool_], "H W"]:
        """Which pixels are read by some of the first reader's values."""
        return _read_by(np.asarray(amiss.any(1)), csr_array(self._passes.rows), csr_array(self._passes.cols))


class SeveralSolvers:
    """The solvers of one first reader, as `PreimageSolvers` keeps them."""

    def __init__(self) -> None:
        self._kept: Kept[SeveralReaders] = Kept()

    def __call__(
        self, preimages: PreimageSolver, others: Sequence[Reader], size: tuple[int, int], device: torch.device
    ) -> SeveralReaders:
        """Arguments as of `SeveralReaders`."""
        channels = preimages.resize.channels
        key = (size, channels, device, tuple(reader.name for reader in others))
        return self._kept(key, lambda: SeveralReaders(preimages, others, size, device))


class _OtherReader(NamedTuple):
    """A further reader, and its resize of pictures as the first reader's passes have them."""

    reader: Reader
    down: csr_array
    across: csr_array
    transposed: bool

    @classmethod
    def of(cls, reader: Reader, operator: ResizeOperator, transposed: bool) -> "_OtherReader":
        rows, cols = (_sparse(matrix) for matrix in (operator.rows, operator.cols))
        return cls(reader, cols, rows, True) if transposed else cls(reader, rows, cols, False)

    def under_strayed(self, before: Seen, pixels: Pixels) -> Bool[NDArray[np.bool_], "rows columns"]:
        """Which pixels are read by values that differ by more than a level."""
        off = (np.abs(self.reader.input_pixels(pixels).astype(np.int16) - before) > 1).any(2)
        return _read_by(off.T if self.transposed else off, self.down, self.across)


def _sparse(matrix: Float[Tensor, "k K"]) -> csr_array:
    rows, columns = matrix.coalesce().indices().numpy()
    return csr_array((matrix.coalesce().values().numpy(), (rows, columns)), shape=(matrix.shape[0], matrix.shape[1]))


def _read_by(values: Bool[NDArray[np.bool_], "h w"], down: csr_array, across: csr_array) -> NDArray[np.bool_]:
    """Which pixels [H, W] some of these values of a view read."""
    if not values.any():
        return np.zeros((down.shape[1], across.shape[1]), bool)
    hits = abs(down).T @ values.astype(np.float64)
    read: NDArray[np.bool_] = (abs(across).T @ hits.T).T > 0
    return read


def _hidden_inverse(
    cols: Float[NDArray[np.float64], "w W"], gram: Float[NDArray[np.float64], "W W"]
) -> NDArray[np.float32]:
    """R^+ [w, W] with R^+ R^T = 1 whose rows the others see as little of as can be: (R M^-1 R^T)^-1 R M^-1."""
    hidden = np.linalg.solve(gram + 0.1 * np.eye(len(gram)), cols.T).T
    product: NDArray[np.float32] = (np.linalg.pinv(hidden @ cols.T) @ hidden).astype(np.float32)
    return product


def _chunks(rows: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _worst(certificates: Sequence[Certificate]) -> Certificate:
    """Of many problems in one."""
    return Certificate(
        residual=torch.cat([one.residual for one in certificates]),
        bound_violation=torch.cat([one.bound_violation for one in certificates]),
        gap=torch.cat([one.gap for one in certificates]),
        iterations=torch.cat([one.iterations for one in certificates]),
        status=next((one.status for one in certificates if one.status != Status.SOLVED), Status.SOLVED),
    )
