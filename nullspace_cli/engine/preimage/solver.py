"""Pictures whose resize, with all its rounding, is a given view: the model's 8-bit input, to the last bit.

Pillow rounds after each of its two passes (`pillow_passes`). So a picture q is looked for in two steps behind
the exact projection z of `solvers.resize_projection`. First whole numbers J are chosen near the rows' pass of z so that
the columns' pass of J lies in the middle of each rounding cell; then q so that its rows' pass lies in the middle of J's
cells. Both by `solvers.error_feedback`. What clipping foils is fed back: entries of J that q did not reach are fixed,
and the others make up for them; the last wrong values are repaired by a local search and by integer programs; where
that is not enough the target is blended to the source, and at last the picture is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor

from nullspace_cli.engine.preimage.kept import Kept
from nullspace_cli.engine.preimage.pillow_passes import Levels, Passes, Plane, Window, within_cell
from nullspace_cli.engine.preimage.problem import Preimage, PreimageProblem, Projected, Rounded, halved
from nullspace_cli.engine.preimage.repair import FEW, Repair
from nullspace_cli.engine.runtime.stages import stage
from nullspace_cli.engine.solvers.error_feedback import Tap, feedback_taps, round_along
from nullspace_cli.engine.solvers.resize_projection import (
    Constraint,
    ResizeProblem,
    SeparableResize,
    Strip,
    WholeView,
    project_onto_view,
)
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator

BLOCK_ROWS = 512
"""Rows that are rounded together: enough for long vectors, few enough to be held as floats."""

CHOICES, LEFT = 3, 0.8
"""Tries that are kept, of few wrong values; share of the change of one that must be left for others to be left out."""

STRAYED_ROUNDS = 4
"""Tries of a whole picture besides, where another reader is looked at, too."""

MARGIN = 2
"""Levels that the exact projection stays off black and white, so that rounding can go either way."""


class PreimageSolver:
    """Finds pictures of one size by their views. What depends on the size alone is prepared once.

    Args:
        channels: 3, or 1 for greyscale.
        damping: see `feedback_taps`.
    """

    def __init__(
        self,
        view: ResizeOperator | Passes,
        channels: int = 3,
        device: torch.device | str = "cpu",
        damping: float = 0.05,
    ) -> None:
        self.passes = passes = view if isinstance(view, Passes) else Passes(view)
        self.repair = Repair(passes)
        self.resize = SeparableResize(passes.rows, passes.cols, channels, device)
        self._touching = SeparableResize(passes.rows != 0, passes.cols != 0, channels, device)
        self._damping = damping
        self._parts: Kept[PreimageSolver] = Kept()

    @cached_property
    def _taps(self) -> tuple[list[Tap], list[Tap]]:
        """Of the rows and of the columns."""
        return feedback_taps(self.passes.rows, self._damping), feedback_taps(self.passes.cols, self._damping)

    @cached_property
    def _spread(self) -> tuple[Tensor, Float[NDArray[np.float32], "w w"]]:
        """R^+ [w, W], which moves a row as little as can be so that its pass moves as is wanted; and R^+ R^T."""
        spread = np.linalg.pinv(self.passes.cols @ self.passes.cols.T) @ self.passes.cols
        moved: NDArray[np.float32] = (spread @ self.passes.cols.T).astype(np.float32)
        return self._tensor(spread), moved

    def __call__(self, problem: PreimageProblem, *, rounds: int = 3) -> Preimage:
        """Look for the picture: project, round, compare with PIL's own resize, blend, and again.

        Only what can matter is looked at: the values of the view that read a pixel which may change, and their pixels.

        Args:
            rounds: how often the whole picture is tried, before what is left is given back to the source.
        """
        windows = (self.passes.row_windows, self.passes.col_windows)
        rows, cols = (_readers(axis, place) for axis, place in zip(windows, self._free(problem), strict=True))
        part = self._part(rows, cols)
        found = part._find(problem.part(part.passes.window, (rows, cols)), rounds)
        return found if part is self else found.within(problem, (rows, cols))

    def _part(self, rows: slice, cols: slice) -> "PreimageSolver":
        """The solver of some of the view's values and the pixels that they read; kept, as marks lie alike."""
        passes, all_values = self.passes.part(rows, cols), (len(self.passes.rows), len(self.passes.cols))
        if passes.window == self.passes.window and (len(passes.rows), len(passes.cols)) == all_values:
            return self
        key = (rows.start, rows.stop, cols.start, cols.stop)
        return self._parts(key, lambda: PreimageSolver(passes, self.resize.channels, self.resize.device, self._damping))

    def _find(self, problem: PreimageProblem, rounds: int) -> Preimage:
        """As of the call, looking at all of the picture."""
        problem = self.confined(problem)
        target, y = problem.target, None
        J_real = self._first_real(self._strips_of(target if problem.source is None else problem.source))
        aims = self._aims(problem, J_real)
        if problem.source is not None:
            target = self._masked(problem.source, target, J_real)
        tries: list[tuple[int, Preimage]] = []
        for k in range(rounds if problem.strayed is None else rounds + STRAYED_ROUNDS):
            projection = self._with_margin(replace(problem, target=target))
            beyond = self._second_real(J_real - J_real.clip(0, 255))  # what PIL cuts off between its passes
            solution = project_onto_view(
                projection, self._tensor(aims + beyond), y, max_iterations=8 if y is None else 4
            )
            J_real = self._first_real((strip, z) for strip, _, z in projection.images(solution.y))
            stage(f"rounding, attempt {k + 1}")
            pixels, wrong = self._round(projection, solution.y, J_real, problem)
            repaired = self.repair(Rounded(pixels, wrong), problem)
            found = Preimage(*repaired, Projected(target, projection, solution, self.passes.window))
            strayed = problem.astray(found.pixels)
            count = int((found.wrong | strayed).sum())
            tries = sorted([*tries, (count, found)], key=lambda tried: tried[0])
            del tries[CHOICES if 0 < tries[0][0] <= FEW else 1 :]
            if problem.source is None or not count:
                break
            amiss = found.wrong | strayed
            target = self.repair.blended(target, problem.source, amiss, wholly=k >= rounds)
            y = solution.y * self._tensor(~_near(amiss))
        if problem.source is None:
            return tries[0][1]
        return self._restored([found for _, found in tries], problem)

    def _restored(self, tries: Sequence[Preimage], problem: PreimageProblem) -> Preimage:
        """The first of the pictures of which most is left where it is right everywhere, or that of which most is.

        A single value that nothing puts right may cost all of one picture, and of another nothing.
        """
        best, most = tries[0], -1
        for found in tries:
            before = (found.pixels != problem.source).sum()
            restored = self.repair.restored(Rounded(found.pixels, found.wrong), problem)
            left = int((restored.pixels != problem.source).sum())
            if left > most:
                best, most = found._replace(pixels=restored.pixels, wrong=restored.wrong), left
            if left >= LEFT * before:
                break
        return best

    def _with_margin(self, problem: PreimageProblem) -> ResizeProblem:
        """The exact projection, MARGIN inside the bounds for whole numbers where anything reads a pixel."""
        shown = problem.target if problem.source is None else problem.source
        read = np.logical_and.outer(self.passes.rows.any(0), self.passes.cols.any(0))[:, None]
        own = shown if read.all() else np.where(read, shown, problem.target)
        return replace(self.projection(problem), shown=self._levels(own), margin=MARGIN)

    def projection(self, problem: PreimageProblem, constraint: Constraint | None = None) -> ResizeProblem:
        """The exact projection behind a problem, on the device."""
        lower, upper = (
            bound if isinstance(bound, int) else self._levels(bound) for bound in (problem.lower, problem.upper)
        )
        return ResizeProblem(self.resize, constraint or WholeView(), self._levels(problem.target), lower, upper)

    def nearest(self, projection: ResizeProblem, y: Tensor) -> Levels:
        """z(y), each value rounded for itself."""
        levels = torch.cat([z.round().to(torch.uint8) for _, _, z in projection.images(y)])
        return _array(levels).reshape(self.resize.height, self.resize.channels, self.resize.width)

    # Pictures and views are numpy's, on the host, where they are rounded; what multiplies them is on the device. These
    # two and `_array` are the only ways from one to the other.

    def _levels(self, array: NDArray[Any]) -> Tensor:
        """On the device, as it is."""
        return torch.as_tensor(np.require(array, requirements="W"), device=self.resize.device)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """On the device, float32. Whole numbers and truth values are widened there: they travel as bytes."""
        return self._levels(array).to(torch.float32)

    def _strips_of(self, pixels: Levels | Bool[NDArray[np.bool_], "H c W"]) -> Iterator[tuple[Strip, Tensor]]:
        whole = self._levels(pixels)
        for strip in self.resize.strips:
            yield strip, whole[strip.start : strip.stop].to(torch.float32).flatten(1)

    def _first_real(self, strips: Iterable[tuple[Strip, Tensor]]) -> Plane:
        """The rows' pass, before it is rounded: [H, c, w]."""
        return _array(torch.cat([self.resize.narrow(z) for _, z in strips]))

    def readers_of(self, marked: Bool[NDArray[np.bool_], "H c W"]) -> Bool[NDArray[np.bool_], "h c w"]:
        """Which values of the view read a marked pixel."""
        return _array(self._touching.gather(self._strips_of(marked)) > 0)

    def read_by(self, marked: Bool[Tensor, "h c w"]) -> Bool[NDArray[np.bool_], "H c W"]:
        """Which pixels a marked value of the view reads."""
        hits = [_array(hits > 0) for _, hits in self._touching.shifts(marked.float())]
        return np.concatenate(hits).reshape(self.resize.height, self.resize.channels, self.resize.width)

    def _second_real(self, J: Plane) -> Plane:
        """The columns' pass, before it is rounded: [H, c, w] to [h, c, w]."""
        return (self.passes.rows.astype(np.float32) @ J.reshape(len(J), -1)).reshape(-1, *J.shape[1:])

    def _aims(self, problem: PreimageProblem, J_source: Plane) -> Plane:
        """Where in its rounding cell each view value shall lie: in the middle, where there is a margin.

        Among pixels at 0 or 255 the source may be the only picture with its view; there the source's own place in the
        cell is as good, up to 0.3 levels off. What PIL clips at the end keeps its excess.
        """
        middle = problem.wanted.astype(np.float32)
        if problem.source is None:
            return middle
        own = self._second_real(J_source.clip(0, 255))
        edge = (problem.source < 2) | (problem.source > 253)
        near = np.where(self.readers_of(edge), own.clip(middle - 0.3, middle + 0.3), middle)
        return np.where((own > 255) | (own < 0) | self.readers_of(problem.fixed), own, near)

    def confined(self, problem: PreimageProblem) -> PreimageProblem:
        """The problem with pixels fixed at the source's further than a kernel from where the target differs."""
        if problem.source is None:
            return problem
        rows, columns = self._free(problem)
        if (rows, columns) == (slice(0, self.resize.height), slice(0, self.resize.width)):
            return problem
        lower, upper = problem.source.copy(), problem.source.copy()
        for fixed, bound in ((lower, problem.lower), (upper, problem.upper)):
            fixed[rows, :, columns] = bound if isinstance(bound, int) else bound[rows, :, columns]
        return replace(problem, lower=lower, upper=upper)

    def _free(self, problem: PreimageProblem) -> Window:
        """The pixels no further than a kernel from where the target differs."""
        if problem.source is None:
            return slice(0, self.resize.height), slice(0, self.resize.width)
        differs = (problem.target != problem.source).any(1)
        rows, columns = (
            _widened(np.nonzero(differs.any(1 - axis))[0], max(w.stop - w.start for w in windows), differs.shape[axis])
            for axis, windows in enumerate((self.passes.row_windows, self.passes.col_windows))
        )
        return rows, columns

    def _masked(self, source: Levels, target: Levels, J_source: Plane) -> Levels:
        """The target without what lies under values that PIL clips between its passes in the source already."""
        clipped = ((J_source < -0.4) | (J_source > 255.4)).any(1)
        columns = self.passes.col_windows
        masked = target.copy()
        for k, j in np.argwhere(clipped):
            masked[k, :, columns[j]] = source[k, :, columns[j]]
        return masked

    def blended(self, target: Levels, source: Levels, marked: Bool[Tensor, "h c w"]) -> Levels:
        """The target half as far from the source, wherever a marked value of the view reads it."""
        blended = target.copy()
        for strip, hits in self._touching.shifts(marked.float()):
            rows = slice(strip.start, strip.stop)
            under = _array(hits > 0).reshape(blended[rows].shape)
            blended[rows] = np.where(under, halved(source[rows], target[rows]), target[rows])
        return blended

    def _round(
        self, projection: ResizeProblem, y: Tensor, J_real: Plane, problem: PreimageProblem, tries: int = 3
    ) -> tuple[Levels, Bool[NDArray[np.bool_], "h c w"]]:
        """Round the projection: first the passes' middle, then the picture. What is not reached is fixed as it is."""
        J_aim, wanted = J_real.clip(0, 255), problem.wanted
        lower, upper = np.zeros_like(J_aim, np.uint8), np.full_like(J_aim, 255, np.uint8)
        pixels, J = np.empty(problem.target.shape, np.uint8), None
        if problem.source is not None:  # values under which nothing can change are what they are
            fixed = problem.fixed
            free = _array(torch.cat([self._touching.narrow(part) > 0 for _, part in self._strips_of(~fixed)]))
            own = self.passes.first(problem.source)
            J_aim, lower, upper = (np.where(free, part, own) for part in (J_aim, lower, upper))
            pixels[:] = problem.source
            rows_free = np.asarray((~fixed).any((1, 2)))
        else:
            rows_free = np.ones(len(pixels), bool)
        best: tuple[Levels, Bool[NDArray[np.bool_], "h c w"]] | None = None
        for _ in range(tries):
            error = within_cell(self._second_real(J_aim) - wanted, wanted)
            flat = (len(J_aim), -1)
            before, J = (
                J,
                round_along(
                    self._taps[0],
                    J_aim.reshape(flat),
                    error.reshape(len(error), -1),
                    lower.reshape(flat),
                    upper.reshape(flat),
                ).reshape(J_aim.shape),
            )
            changed = rows_free if before is None else rows_free & (before != J).any((1, 2))
            self._round_rows(projection, y, J, J_real, problem, changed, pixels)
            reached = self.passes.first(pixels)
            wrong = self.passes.second(reached) != wanted
            if best is None or wrong.sum() < best[1].sum():
                best = (pixels.copy(), wrong)
            missed = reached != J
            if not wrong.any() or not missed.any():
                break
            J_aim, lower, upper = (np.where(missed, reached, old) for old in (J_aim, lower, upper))
        assert best is not None
        return best

    def _round_rows(
        self,
        projection: ResizeProblem,
        y: Tensor,
        J: Plane,
        J_real: Plane,
        problem: PreimageProblem,
        changed: NDArray[np.bool_],
        pixels: Levels,
    ) -> None:
        """Fill the changed rows' blocks of `pixels` with whole numbers near z whose rows' pass is J."""
        spread, moved_by = self._spread
        places = np.flatnonzero(changed)
        size = max(1, BLOCK_ROWS * 3 // J.shape[1])
        for start in range(0, len(places), size):
            part = places[start : start + size]
            step = within_cell(J_real[part] - J[part], J[part])
            z = projection.rows(y, part).view(-1, self.resize.width)
            z.addmm_(self._tensor(step).flatten(0, 1), spread, alpha=-1)
            error = within_cell(J_real[part] - step @ moved_by - J[part], J[part])
            lower, upper = (
                bound if isinstance(bound, int) else _along_columns(bound[part])
                for bound in (problem.lower, problem.upper)
            )
            q = round_along(self._taps[1], _along_columns(_array(z)), _along_columns(error), lower, upper)
            pixels[part] = q.T.reshape(len(part), *pixels.shape[1:])


class PreimageSolvers:
    """The solvers of one transform, each made once for the last few sizes; threads may share it."""

    def __init__(self) -> None:
        self._kept: Kept[PreimageSolver] = Kept()

    def __call__(self, view: ResizeOperator, channels: int, device: torch.device) -> PreimageSolver:
        """Arguments as of `PreimageSolver`."""
        key = (*view.geometry.source, channels, device)
        return self._kept(key, lambda: PreimageSolver(view, channels, device))


def _array(tensor: Tensor) -> NDArray[Any]:
    """On the host."""
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


def _readers(windows: Sequence[slice], place: slice) -> slice:
    """The values that read any of a range of entries; all of them where none does."""
    reading = [k for k, window in enumerate(windows) if window.start < place.stop and window.stop > place.start]
    return slice(reading[0], reading[-1] + 1) if reading else slice(0, len(windows))


def _widened(places: NDArray[np.intp], reach: int, size: int) -> slice:
    """The range of places, `reach` more on both sides as far as there are so many."""
    if not len(places):
        return slice(0, 0)
    return slice(max(0, int(places[0]) - reach), min(size, int(places[-1]) + 1 + reach))


def _near(marked: Bool[NDArray[np.bool_], "h c w"], reach: int = 4) -> Bool[NDArray[np.bool_], "h c w"]:
    """What lies within `reach` of a marked value, in any channel."""
    size = 2 * reach + 1
    return np.broadcast_to(
        binary_dilation(np.asarray(marked.any(1)), np.ones((size, size), bool))[:, None], marked.shape
    )


def _along_columns(part: NDArray[Any]) -> NDArray[Any]:
    """[S, c, W] as W entries of S * c values each."""
    return np.ascontiguousarray(part.reshape(-1, part.shape[-1]).T)
