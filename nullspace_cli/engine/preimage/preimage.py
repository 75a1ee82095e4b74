"""Pictures whose resize, with all its rounding, is a given view: the model's 8-bit input, to the last bit.

PIL resizes in two passes, first the rows and then the columns (or, for tall images since Pillow 13, the reverse: they
are looked at transposed), and rounds and clips to 8 bits after each. So a picture q is looked for in two steps behind
the exact projection z of `solvers.resize_projection`. First whole numbers J are chosen near the rows' pass of z so that
the columns' pass of J lies in the middle of each rounding cell; then q so that its rows' pass lies in the middle of J's
cells. Both by `solvers.error_feedback`. What clipping foils is fed back: entries of J that q did not reach are fixed,
and the others make up for them; a last few wrong values are repaired by a local search; where that is not enough the
target is blended to the source, and at last the picture is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor

from nullspace_cli.engine.solvers.error_feedback import feedback_taps, round_along
from nullspace_cli.engine.solvers.resize_projection import (
    Constraint,
    ResizeProblem,
    ResizeSolution,
    SeparableResize,
    Strip,
    WholeView,
    project_onto_view,
)
from nullspace_cli.engine.transforms.evaluation import Geometry, overlap
from nullspace_cli.engine.transforms.resize_operator import LinearView

Levels = UInt8[NDArray[np.uint8], "H c W"]
View = UInt8[NDArray[np.uint8], "h c w"]
Plane = Float[NDArray[np.float32], "a c b"]

BLOCK_ROWS = 512
"""Rows that are rounded together: enough for long vectors, few enough to be held as floats."""


MARGIN = 2
"""Levels that the exact projection stays off black and white, so that rounding can go either way."""


FEW = 50
"""Wrong values that are repaired one by one; more are better left to another try as a whole."""

STEPS = (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16)
"""Levels by which the local search changes a pixel; the larger the resize's kernel, the less one pixel does."""


class Passes:
    """The resize and crop of one image size as PIL does it: two passes with rounding, and their exact coefficients.

    Only that part of the crop counts that lies on the image; padding is no concern of the image's pixels.

    Attributes:
        transposed: whether PIL resizes the columns first. Pictures and views are then given transposed: what is called
            rows here are the image's columns.
    """

    def __init__(self, view: LinearView) -> None:
        self.transform, geometry = view.transform, view.geometry
        matrices = (view.rows.to_dense().numpy(), view.cols.to_dense().numpy())
        resized = geometry.resized[::-1]
        spans = [
            overlap(start, crop, size)
            for start, crop, size in zip((geometry.top, geometry.left), geometry.crop, resized, strict=True)
        ]
        self.transposed = self._columns_first(geometry)
        order = (1, 0) if self.transposed else (0, 1)
        self._height, self._width = (resized[axis] for axis in order)
        (self._rows_kept, rows_seen), (self._cols_kept, cols_seen) = (spans[axis] for axis in order)
        self.rows: Float[NDArray[np.float64], "h H"] = matrices[order[0]][rows_seen]
        self.cols: Float[NDArray[np.float64], "w W"] = matrices[order[1]][cols_seen]
        self.row_windows, self.col_windows = _windows(self.rows), _windows(self.cols)

    def _columns_first(self, geometry: Geometry) -> bool:
        """Ask PIL itself: the order changes how values are rounded, and with it the result."""
        (width, height), (resized_width, resized_height) = geometry.source, geometry.resized
        if width == resized_width or height == resized_height:
            return False
        noise = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
        rows_first = self.transform.resample(
            self.transform.resample(noise, (resized_width, height)), (resized_width, resized_height)
        )
        return not np.array_equal(rows_first, self.transform.resample(noise, geometry.resized))

    def first(self, pixels: Levels) -> UInt8[NDArray[np.uint8], "H c w"]:
        """The rows' pass."""
        return self._resample(pixels, self._width, len(pixels))[..., self._cols_kept]

    def second(self, J: UInt8[NDArray[np.uint8], "H c w"]) -> View:
        """The columns' pass of what the rows' pass left."""
        return self._resample(J, J.shape[2], self._height)[self._rows_kept]

    def __call__(self, pixels: Levels) -> View:
        return self.second(self.first(pixels))

    def _resample(self, pixels: UInt8[NDArray[np.uint8], "a c b"], width: int, height: int) -> NDArray[np.uint8]:
        image = pixels[:, 0] if pixels.shape[1] == 1 else pixels.swapaxes(1, 2)
        resampled = self.transform.resample(np.ascontiguousarray(image), (width, height))
        return resampled[:, None] if resampled.ndim == 2 else np.ascontiguousarray(resampled.swapaxes(1, 2))


class Preimage(NamedTuple):
    """A picture found.

    Attributes:
        pixels: uint8 [H, c, W].
        wrong: which values of its view are not the wanted ones.
        target: the target that was aimed at in the end, blended to the source in places.
        problem, solution: the exact projection that the picture was rounded from.
    """

    pixels: Levels
    wrong: Bool[NDArray[np.bool_], "h c w"]
    target: Levels
    projection: ResizeProblem
    solution: ResizeSolution


@dataclass(frozen=True)
class PreimageProblem:
    """What is looked for: a picture near `target` whose view is `wanted`, between the bounds.

    Attributes:
        source: a picture whose view is `wanted`, blended to where the target cannot be had; None if there is none.
        lower, upper: both numbers, or both of the picture's shape.
    """

    target: Levels
    wanted: View
    source: Levels | None
    lower: Levels | int = 0
    upper: Levels | int = 255


class PreimageSolver:
    """Finds pictures of one size by their views. What depends on the size alone is prepared once.

    Args:
        channels: 3, or 1 for greyscale.
        damping: see `feedback_taps`.
    """

    def __init__(
        self, view: LinearView, channels: int = 3, device: torch.device | str = "cpu", damping: float = 0.05
    ) -> None:
        self.passes = passes = Passes(view)
        self.resize = SeparableResize(passes.rows, passes.cols, channels, device)
        self._touching = SeparableResize(passes.rows != 0, passes.cols != 0, channels, device)
        self._row_taps, self._col_taps = feedback_taps(passes.rows, damping), feedback_taps(passes.cols, damping)
        gram = passes.cols @ passes.cols.T
        self._spread = torch.as_tensor(np.linalg.pinv(gram) @ passes.cols, dtype=torch.float32, device=device)
        self._blocks = list(self.resize.cut(BLOCK_ROWS * 3 // channels))

    def __call__(self, problem: PreimageProblem, *, rounds: int = 3) -> Preimage:
        """Look for the picture: project, round, compare with PIL's own resize, blend, and again.

        Args:
            rounds: how often the whole picture is tried, before what is left is given back to the source.
        """
        problem = self._confined(problem)
        target, y = problem.target, None
        J_real = self._first_real(self._strips_of(target if problem.source is None else problem.source))
        aims = self._aims(problem, J_real)
        if problem.source is not None:
            target = self._masked(problem.source, target, J_real)
        lower, upper = self._with_margin(problem)
        best: Preimage | None = None
        for _ in range(rounds):
            projection = self.projection(replace(problem, target=target, lower=lower, upper=upper))
            beyond = self._second_real(J_real - J_real.clip(0, 255))  # what PIL cuts off between its passes
            solution = project_onto_view(
                projection, self._tensor(aims + beyond), y, max_iterations=8 if y is None else 4
            )
            J_real = self._first_real((strip, z) for strip, _, z in projection.images(solution.y))
            pixels, wrong = self._round(projection, solution.y, J_real, problem)
            found = self._repaired(Preimage(pixels, wrong, target, projection, solution), problem)
            if best is None or found.wrong.sum() < best.wrong.sum():
                best = found
            if problem.source is None or not best.wrong.any():
                break
            target = self._blended(target, problem.source, found.wrong)
            y = solution.y * self._tensor(~_near(found.wrong))
        assert best is not None
        return best if problem.source is None else self._restored(best, problem)

    def _with_margin(self, problem: PreimageProblem) -> tuple[Levels, Levels]:
        """The bounds for the exact projection: ROOM inside those for whole numbers, where anything reads a pixel."""
        shown = problem.target if problem.source is None else problem.source
        read = np.logical_and.outer(self.passes.rows.any(0), self.passes.cols.any(0))[:, None]
        lower, upper = (
            np.broadcast_to(np.asarray(bound, np.uint8), shown.shape) for bound in (problem.lower, problem.upper)
        )
        lower = np.where(read, np.maximum(lower, np.minimum(shown, MARGIN)), lower)
        return lower, np.where(read, np.minimum(upper, np.maximum(shown, 255 - MARGIN)), upper)

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

    def _readers_of(self, marked: Bool[NDArray[np.bool_], "H c W"]) -> Bool[NDArray[np.bool_], "h c w"]:
        """Which values of the view read a marked pixel."""
        return _array(self._touching.gather(self._strips_of(marked)) > 0)

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
        near = np.where(self._readers_of(edge), own.clip(middle - 0.3, middle + 0.3), middle)
        return np.where((own > 255) | (own < 0) | self._readers_of(_fixed(problem)), own, near)

    def _confined(self, problem: PreimageProblem) -> PreimageProblem:
        """The problem with pixels fixed at the source's further than a kernel from where the target differs."""
        if problem.source is None:
            return problem
        differs = (problem.target != problem.source).any(1)
        box = tuple(
            _widened(np.nonzero(differs.any(1 - axis))[0], max(w.stop - w.start for w in windows))
            for axis, windows in enumerate((self.passes.row_windows, self.passes.col_windows))
        )
        free = np.zeros(problem.target.shape, bool)
        free[box[0], :, box[1]] = True
        lower, upper = (
            np.where(free, bound, problem.source).astype(np.uint8) for bound in (problem.lower, problem.upper)
        )
        return replace(problem, lower=lower, upper=upper)

    def _masked(self, source: Levels, target: Levels, J_source: Plane) -> Levels:
        """The target without what lies under values that PIL clips between its passes in the source already."""
        clipped = ((J_source < -0.4) | (J_source > 255.4)).any(1)
        columns = self.passes.col_windows
        masked = target.copy()
        for k, j in np.argwhere(clipped):
            masked[k, :, columns[j]] = source[k, :, columns[j]]
        return masked

    def _blended(self, target: Levels, source: Levels, wrong: Bool[NDArray[np.bool_], "h c w"]) -> Levels:
        """The target half as far from the source under the wrong values, in all channels."""
        rows, columns = self.passes.row_windows, self.passes.col_windows
        target = target.copy()
        for i, j in np.argwhere(wrong.any(1)):
            part = (rows[i], slice(None), columns[j])
            target[part] = _halved(source[part], target[part])
        return target

    def blended(self, target: Levels, source: Levels, marked: Bool[Tensor, "h c w"]) -> Levels:
        """The target half as far from the source, wherever a marked value of the view reads it."""
        blended = target.copy()
        for strip, hits in self._touching.shifts(marked.float()):
            rows = slice(strip.start, strip.stop)
            under = _array(hits > 0).reshape(blended[rows].shape)
            blended[rows] = np.where(under, _halved(source[rows], target[rows]), target[rows])
        return blended

    def _round(
        self, projection: ResizeProblem, y: Tensor, J_real: Plane, problem: PreimageProblem, tries: int = 3
    ) -> tuple[Levels, Bool[NDArray[np.bool_], "h c w"]]:
        """Round the projection: first the passes' middle, then the picture. What is not reached is fixed as it is."""
        J_aim, wanted = J_real.clip(0, 255), problem.wanted
        lower, upper = np.zeros_like(J_aim, np.uint8), np.full_like(J_aim, 255, np.uint8)
        pixels, J = np.empty(problem.target.shape, np.uint8), None
        if problem.source is not None:  # values under which nothing can change are what they are
            fixed = _fixed(problem)
            free = _array(self._touching.narrow(self._tensor(~fixed).flatten(1)) > 0)
            own = self.passes.first(problem.source)
            J_aim, lower, upper = (np.where(free, part, own) for part in (J_aim, lower, upper))
            pixels[:] = problem.source
            rows_free = np.asarray((~fixed).any((1, 2)))
        else:
            rows_free = np.ones(len(pixels), bool)
        best: tuple[Levels, Bool[NDArray[np.bool_], "h c w"]] | None = None
        for _ in range(tries):
            error = _within_cell(self._second_real(J_aim) - wanted, wanted)
            flat = (len(J_aim), -1)
            before, J = (
                J,
                round_along(
                    self._row_taps,
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
        blocks = [block for block in self._blocks if changed[block.start : block.stop].any()]
        for block, _, z in projection.images(y, blocks):
            part = slice(block.start, block.stop)
            step = _within_cell(J_real[part] - J[part], J[part])
            moved = z.view(len(z), J.shape[1], -1) - self._tensor(step) @ self._spread
            error = _within_cell(_array(self.resize.narrow(moved.flatten(1))) - J[part], J[part])
            lower, upper = (
                bound if isinstance(bound, int) else _along_columns(bound[part])
                for bound in (problem.lower, problem.upper)
            )
            q = round_along(self._col_taps, _along_columns(_array(moved)), _along_columns(error), lower, upper)
            pixels[part] = q.T.reshape(pixels[part].shape)

    def _repaired(self, found: Preimage, problem: PreimageProblem) -> Preimage:
        """Local search around each wrong value, while they are few; the second time nearer to the source there."""
        for blended in (False, True):
            if not 0 < found.wrong.sum() <= FEW:
                break
            pixels, wrong = found.pixels.copy(), found.wrong
            if blended:
                if problem.source is None:
                    break
                pixels = self._blended(pixels, problem.source, wrong)
                wrong = self.passes(pixels) != problem.wanted
            wrong = self._repair_each(pixels, wrong, problem)
            if wrong.sum() < found.wrong.sum():
                found = found._replace(pixels=pixels, wrong=wrong)
        return found

    def _restored(self, found: Preimage, problem: PreimageProblem, sweeps: int = 12) -> Preimage:
        """The source's own pixels under what is still wrong, and under what that makes wrong, as long as need be.

        A value all of whose pixels are the source's is right; what else it touches is repaired with the pixels around.
        """
        assert problem.source is not None
        pixels, wrong = found.pixels.copy(), found.wrong
        rows, columns = self.passes.row_windows, self.passes.col_windows
        lower, upper = (np.array(bound, np.uint8) for bound in (problem.lower, problem.upper))
        for _ in range(sweeps):
            if not wrong.any():
                break
            for i, j in np.argwhere(wrong.any(1)):
                part = (rows[i], slice(None), columns[j])
                pixels[part] = lower[part] = upper[part] = problem.source[part]
            wrong = self.passes(pixels) != problem.wanted
            if wrong.sum() <= FEW:
                wrong = self._repair_each(pixels, wrong, replace(problem, lower=lower, upper=upper))
            if wrong.sum() < found.wrong.sum():
                found = found._replace(pixels=pixels.copy(), wrong=wrong)
        return found

    def _repair_each(
        self, pixels: Levels, wrong: Bool[NDArray[np.bool_], "h c w"], problem: PreimageProblem
    ) -> Bool[NDArray[np.bool_], "h c w"]:
        """Repair wrong values one after another, in place; what is wrong then."""
        for i, channel, j in np.argwhere(wrong):
            self._repair(pixels[:, channel], int(i), int(j), problem.wanted[:, channel], _channel(problem, channel))
        return self.passes(pixels) != problem.wanted

    def _repair(
        self,
        plane: UInt8[NDArray[np.uint8], "H W"],
        i: int,
        j: int,
        wanted: UInt8[NDArray[np.uint8], "h w"],
        bounds: tuple[NDArray[np.uint8] | int, NDArray[np.uint8] | int],
        steps: int = 20,
    ) -> None:
        """Change single pixels under view value (i, j), by some levels, as long as its neighbourhood gains."""
        under = (self.passes.row_windows[i], self.passes.col_windows[j])
        (rows_hit, A), (cols_hit, B) = (
            _touched(matrix, window) for matrix, window in zip((self.passes.rows, self.passes.cols), under, strict=True)
        )
        lower, upper = (bound if isinstance(bound, int) else bound[under].astype(int) for bound in bounds)
        around = _reach(self.passes.rows[rows_hit])
        sums = plane[around] @ self.passes.cols[cols_hit].T
        V = self.passes.rows[rows_hit, around] @ _to_level(sums)
        S, levels = sums[under[0].start - around.start : under[0].stop - around.start], wanted[rows_hit, cols_hit]
        for _ in range(steps):
            cost, best = _excess(V, levels).sum(), None
            for change in STEPS:
                step = _to_level(S[:, None] + change * B.T) - _to_level(S)[:, None]  # [K, L, p]: of J, by each pixel
                there = plane[under].astype(int) + change
                k, col = np.nonzero(step.any(2) & (there >= lower) & (there <= upper))
                if not len(k):
                    continue
                after = _excess(V + np.einsum("mn,np->nmp", A[:, k], step[k, col]), levels).sum((1, 2))
                least = int(after.argmin())
                if after[least] < cost - 1e-9:
                    cost, best = after[least], (change, k[least], col[least])
            if best is None:
                return
            change, k, col = best
            V += np.outer(A[:, k], _to_level(S[k] + change * B[:, col]) - _to_level(S[k]))
            S[k] += change * B[:, col]
            plane[under[0].start + k, under[1].start + col] += np.array(change).astype(np.uint8)


def _array(tensor: Tensor) -> NDArray[Any]:
    """On the host."""
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


def _halved(source: Levels, target: Levels) -> Levels:
    """The target half as far from the source; a level away, it is the source."""
    change = target.astype(np.int16) - source
    return (source + np.sign(change) * (np.abs(change) // 2)).astype(np.uint8)


def _fixed(problem: PreimageProblem) -> Bool[NDArray[np.bool_], "H c W"]:
    """Which pixels cannot change."""
    return np.broadcast_to(np.equal(problem.lower, problem.upper), problem.target.shape)


def _widened(places: NDArray[np.intp], reach: int) -> slice:
    """The range of places, `reach` more on both sides."""
    return slice(max(0, int(places[0]) - reach), int(places[-1]) + 1 + reach) if len(places) else slice(0, 0)


def _near(marked: Bool[NDArray[np.bool_], "h c w"], reach: int = 4) -> Bool[NDArray[np.bool_], "h c w"]:
    """What lies within `reach` of a marked value, in any channel."""
    size = 2 * reach + 1
    return np.broadcast_to(
        binary_dilation(np.asarray(marked.any(1)), np.ones((size, size), bool))[:, None], marked.shape
    )


def _windows(matrix: Float[NDArray[np.float64], "k K"]) -> list[slice]:
    """For each output the range of the entries that it reads."""
    used = matrix != 0
    first, last = used.argmax(1), used.shape[1] - used[:, ::-1].argmax(1)
    return [slice(int(a), int(b)) for a, b in zip(first, last, strict=True)]


def _reach(matrix: Float[NDArray[np.float64], "k K"]) -> slice:
    """The range of the entries that any of the outputs reads."""
    used = np.nonzero((matrix != 0).any(0))[0]
    return slice(int(used[0]), int(used[-1]) + 1)


def _touched(
    matrix: Float[NDArray[np.float64], "k K"], window: slice
) -> tuple[slice, Float[NDArray[np.float64], "m n"]]:
    """The outputs that read any entry of a window, and their coefficients there."""
    outputs = _reach(matrix[:, window].T)
    return outputs, matrix[outputs, window]


def _channel(problem: PreimageProblem, channel: int) -> tuple[NDArray[np.uint8] | int, NDArray[np.uint8] | int]:
    lower, upper = (bound if isinstance(bound, int) else bound[:, channel] for bound in (problem.lower, problem.upper))
    return lower, upper


def _along_columns(part: NDArray[Any]) -> NDArray[Any]:
    """[S, c, W] as W entries of S * c values each."""
    return np.ascontiguousarray(part.reshape(-1, part.shape[2]).T)


def _within_cell(error: Plane, level: NDArray[np.generic]) -> Plane:
    """An error that clipping to [0, 255] forgives counts as none."""
    return np.where(((level == 255) & (error > 0)) | ((level == 0) & (error < 0)), np.float32(0), error)


def _to_level(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """As PIL rounds and clips between its passes."""
    return np.floor(value + 0.5).clip(0, 255)


def _excess(value: NDArray[np.float64], level: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far values lie outside their rounding cells, or nearly so."""
    return np.maximum(np.abs(value.clip(0, 255) - level) - 0.49, 0)
