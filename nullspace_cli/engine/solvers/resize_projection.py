"""Projection of a whole image onto the pictures that a resize maps to a given view: p = 2 at native size.

    minimise 1/2 ||z - t||^2   subject to   C (R_h z R_w^T) = C b,   lower <= z <= upper,   for every channel,

where R_h [h, H] and R_w [w, W] are the two passes of the resize, b is the view to keep, and C says what of it must be
kept: all of it (the resize's own nullspace) or its patch embeddings (the nullspaces composed).

As in `box_projection`, the dual in y has no constraints, z(y) = clip(t + R_h^T (C^T y) R_w), and a semismooth Newton
method with conjugate gradients finds it. Without the box, C = 1 has the closed form of a Kronecker product,
y = (R_h R_h^T)^-1 (b - R_h t R_w^T) (R_w R_w^T)^-1: two small matrices precondition everything else. Neither z nor any
other float array of the image's size is ever held: strips of rows are made and used up while in the cache.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.runtime.stages import stage
from nullspace_cli.engine.solvers.conjugate_gradients import conjugate_gradients
from nullspace_cli.engine.solvers.solution import Certificate, Status

STRIP_BYTES = 1_500_000
"""Size of a strip of rows in float32: what stays in a core's cache."""

NOTHING = 1e-10
"""Share of the largest entry of a preconditioner below which an entry is 0. Entries fall by a factor from one to the
next off the diagonal; far from it they would be denormal numbers, with which a product takes twenty times as long."""

FREE, BOUND = 100, 1
"""Weights of an entry off its bounds and of one on them in the Hessian: where all of a kernel's entries are on them,
there would be no curvature. Whole numbers, because a byte is multiplied much faster than a truth value."""


@runtime_checkable
class Constraint(Protocol):
    """What of a view must be kept: an orthogonal map C (C C^T = 1) from views to constraint values."""

    def reduce(self, view: Float[Tensor, "h c w"]) -> Tensor:
        """C v."""
        ...

    def spread(self, values: Tensor) -> Float[Tensor, "h c w"]:
        """C^T y."""
        ...


class WholeView:
    """C = 1: the view itself."""

    def reduce(self, view: Float[Tensor, "h c w"]) -> Tensor:
        return view

    def spread(self, values: Tensor) -> Float[Tensor, "h c w"]:
        return values


class Strip(NamedTuple):
    """Rows `start` to `stop` of the image, the view's rows `first` to `last` that they reach, and how."""

    start: int
    stop: int
    first: int
    last: int
    weights: Float[Tensor, "k s"]


class SeparableResize:
    """R_h z R_w^T on images [H, c, W], by strips of rows; float32 on one device.

    Channels lie between the axes: then a row holds its channels one after another, and both passes are plain matrix
    products of what lies in memory, whether the rows or the columns are multiplied.

    Args:
        rows: R_h [h, H], no row of it zero; or its pattern, as truth values.
        cols: R_w [w, W], likewise.
        channels: c.
    """

    def __init__(
        self,
        rows: NDArray[Any],
        cols: NDArray[Any],
        channels: int,
        device: torch.device | str = "cpu",
    ) -> None:
        (self.h, self.height), (self.w, self.width), self.channels = rows.shape, cols.shape, channels
        self.rows = torch.as_tensor(rows, dtype=torch.float32, device=device)
        self.cols = torch.as_tensor(cols, dtype=torch.float32, device=device)
        self.device = self.rows.device
        self.reads = np.asarray(rows, np.float32) != 0
        self.strips = list(self.cut(max(8, STRIP_BYTES // (4 * self.width * channels))))

    @cached_property
    def _inverse_grams(self) -> tuple[Float[Tensor, "h h"], Float[Tensor, "w w"]]:
        """(R R^T)^-1, shifted a little: of an enlarging R, which has no inverse there, by enough to precondition."""

        def inverse(axis: Float[Tensor, "k K"]) -> Float[Tensor, "k k"]:
            gram = axis.double() @ axis.double().mT
            shift = 0.1 if axis.shape[0] > axis.shape[1] else 1e-6
            inverted = torch.linalg.inv(gram + shift * gram.diagonal().mean() * torch.eye(len(gram)).to(gram))
            return torch.where(inverted.abs() < NOTHING * inverted.abs().max(), 0.0, inverted).float()

        return inverse(self.rows), inverse(self.cols)

    @cached_property
    def conditioning(self) -> float:
        """Smallest eigenvalue of R R^T over its largest: 0 where the resize enlarges."""
        product = 1.0
        for axis in (self.rows, self.cols):
            values = torch.linalg.eigvalsh((axis @ axis.mT).double())
            product *= max(0.0, float(values[0] / values[-1]))
        return product

    def cut(self, size: int) -> Iterator[Strip]:
        """The image's rows, `size` at a time."""
        for start in range(0, self.height, size):
            stop = min(self.height, start + size)
            used = np.flatnonzero(self.reads[:, start:stop].any(1))
            first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
            yield Strip(start, stop, first, last, self.rows[first:last, start:stop].contiguous())

    def widen(self, view: Float[Tensor, "k c w"]) -> Float[Tensor, "k cW"]:
        """v R_w: the adjoint of the horizontal pass, on any rows of a view."""
        return (view.flatten(0, 1) @ self.cols).view(len(view), -1)

    def narrow(self, wide: Float[Tensor, "k cW"]) -> Float[Tensor, "k c w"]:
        """u R_w^T: the horizontal pass, on any number of rows."""
        return (wide.view(-1, self.width) @ self.cols.T).view(len(wide), self.channels, -1)

    def precondition(self, view: Float[Tensor, "h c w"]) -> Float[Tensor, "h c w"]:
        """(R_h R_h^T)^-1 v (R_w R_w^T)^-1."""
        down, across = self._inverse_grams
        return ((down @ view.flatten(1)).view(-1, self.w) @ across).view(view.shape)

    def shifts(
        self, view: Float[Tensor, "h c w"], strips: Iterable[Strip] | None = None
    ) -> Iterator[tuple[Strip, Float[Tensor, "s cW"]]]:
        """R_h^T v R_w, strip by strip."""
        wide = self.widen(view)
        for strip in strips or self.strips:
            yield strip, strip.weights.T @ wide[strip.first : strip.last]

    def gather(self, parts: Iterator[tuple[Strip, Float[Tensor, "s cW"]]]) -> Float[Tensor, "h c w"]:
        """R_h z R_w^T of an image that comes in strips."""
        wide = torch.zeros(self.h, self.width * self.channels, device=self.device)
        for strip, part in parts:
            wide[strip.first : strip.last].addmm_(strip.weights, part)
        return self.narrow(wide)


class DualPoint(NamedTuple):
    """Where the method ended, and what is left of the constraint at z(y): C (R z R^T - b), in levels."""

    y: Tensor
    residual: Tensor
    iterations: int


@dataclass(frozen=True)
class ResizeProblem:
    """One projection. Images are uint8 levels [H, c, W], views float32 levels [h, c, w].

    Attributes:
        target: t.
        lower, upper: the bounds, of the image's shape or numbers.
        shown: z stays `margin` levels off black and white, but where this is nearer to them; None for no margin.
    """

    resize: SeparableResize
    constraint: Constraint
    target: UInt8[Tensor, "H c W"]
    lower: UInt8[Tensor, "H c W"] | int = 0
    upper: UInt8[Tensor, "H c W"] | int = 255
    shown: UInt8[Tensor, "H c W"] | None = None
    margin: int = 0

    def bounds(self, rows: slice | Tensor) -> tuple[UInt8[Tensor, "s cW"] | int, UInt8[Tensor, "s cW"] | int]:
        """Of some rows: made as they are needed, because two of an image's size are much of its memory."""
        low, high = (bound if isinstance(bound, int) else bound[rows].flatten(1) for bound in (self.lower, self.upper))
        if self.shown is None:
            return low, high
        shown = self.shown[rows].flatten(1)
        return shown.clamp(max=self.margin).clamp_(min=low), shown.clamp(min=255 - self.margin).clamp_(max=high)

    def images(
        self, y: Tensor, strips: Iterable[Strip] | None = None
    ) -> Iterator[tuple[Strip, Float[Tensor, "s cW"], Float[Tensor, "s cW"]]]:
        """u = t + R_h^T (C^T y) R_w and z = clip(u), strip by strip."""
        for strip, shift in self.resize.shifts(self.constraint.spread(y), strips):
            u = shift.add_(self.target[strip.start : strip.stop].reshape(shift.shape))
            low, high = self.bounds(slice(strip.start, strip.stop))
            yield strip, u, u.clamp(low, high)  # type: ignore[arg-type]

    def rows(self, y: Tensor, places: NDArray[np.intp]) -> Float[Tensor, "n cW"]:
        """Some rows of z(y)."""
        resize, at = self.resize, torch.from_numpy(places).to(y.device)
        used = np.flatnonzero(resize.reads[:, places].any(1))
        reading = slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)
        shift = resize.rows[reading, at].T @ resize.widen(self.constraint.spread(y)[reading])
        u = shift.add_(self.target[at].view(shift.shape))
        low, high = self.bounds(at)
        return u.clamp_(low, high)  # type: ignore[arg-type]

    def view(self, y: Tensor, weights: UInt8[Tensor, "H cW"]) -> Float[Tensor, "h c w"]:
        """R_h z(y) R_w^T; `weights` is filled with those of the entries in the Hessian."""

        def parts() -> Iterator[tuple[Strip, Tensor]]:
            for strip, u, z in self.images(y):
                weigh(u, z, weights[strip.start : strip.stop])
                yield strip, z

        return self.resize.gather(parts())

    def curvature(self, y: Tensor, weights: UInt8[Tensor, "H cW"]) -> Tensor:
        """C R M R^T C^T y, where M weighs the entries, a free one by 1: the generalised Hessian of the dual."""
        shifts = self.resize.shifts(self.constraint.spread(y / FREE))
        weighed = ((strip, shift.mul_(weights[strip.start : strip.stop])) for strip, shift in shifts)
        return self.constraint.reduce(self.resize.gather(weighed))

    def certificate(self, point: DualPoint, *, tolerance: float, unit: float = 255.0) -> Certificate:
        """The figures of z(y), measured afresh but for the residual.

        Args:
            tolerance: largest residual of one constraint, in levels, that counts as solved.
            unit: levels; the figures are in multiples of it, and so in [0, 1] pixel units by default.
        """
        distance = excess = 0.0
        for strip, _, z in self.images(point.y):
            rows = slice(strip.start, strip.stop)
            lower, upper = self.bounds(rows)
            distance += float((z - self.target[rows].reshape(z.shape)).square().sum(dtype=torch.float64))
            excess = max(excess, float((z - upper).max()), float((lower - z).max()))
        primal = distance / 2 / unit**2
        slack = float((point.y * point.residual).sum(dtype=torch.float64)) / unit**2
        residual = float(point.residual.abs().max())
        figures = torch.tensor([residual / unit, excess / unit, abs(slack) / (1 + primal)], dtype=torch.float64)
        return Certificate(
            residual=figures[0:1],
            bound_violation=figures[1:2],
            gap=figures[2:3],
            iterations=torch.tensor([point.iterations]),
            status=Status.SOLVED if residual <= tolerance else Status.ITERATION_LIMIT,
        )

    def precondition(self, values: Tensor) -> Tensor:
        return self.constraint.reduce(self.resize.precondition(self.constraint.spread(values)))


def project_onto_view(
    problem: ResizeProblem,
    view: Float[Tensor, "h c w"],
    start: Tensor | None = None,
    *,
    tolerance: float = 0.02,
    max_iterations: int = 8,
    max_inner: int = 6,
) -> DualPoint:
    """Minimise the dual by a semismooth Newton method, from `start` where there is one.

    Args:
        view: b.
        tolerance: largest residual of one constraint, in levels, that counts as solved. A view is rounded to whole
            levels anyway; where bounds leave no room the residual stays larger.
        max_iterations: Newton steps.
        max_inner: conjugate gradient steps within each.
    """
    resize, wanted = problem.resize, problem.constraint.reduce(view)
    weights = torch.empty(resize.height, resize.width * resize.channels, dtype=torch.uint8, device=resize.device)
    y = torch.zeros_like(wanted) if start is None else start.clone()
    g = problem.constraint.reduce(problem.view(y, weights)) - wanted
    if start is None:
        weights.fill_(FREE)  # the first step is the closed form's, bounds or not
    for iteration in range(max_iterations):
        stage(f"solving, step {iteration + 1} of at most {max_iterations}")
        largest, rms = _numbers(g.abs().max(), g.square().mean().sqrt())
        if largest <= tolerance:
            return DualPoint(y, g, iteration)
        (step,), _ = conjugate_gradients(
            lambda direction: problem.curvature(direction[0], weights)[None],
            -g[None],
            relative=min(0.1, rms**0.5),  # which tightens as the residual falls
            preconditioner=lambda residual: problem.precondition(residual[0])[None],
            max_iterations=max_inner,
            asked_every=3,
        )
        # The dual's slope along the step rises from negative; a secant finds where it is near 0.
        length = 1.0
        for _ in range(4):
            there = problem.constraint.reduce(problem.view(y + length * step, weights)) - wanted
            slope, rise = _numbers((g * step).sum(), (there * step).sum())
            if rise <= 0.5 * abs(slope):
                break
            length *= slope / (slope - rise)
        y, g = y + length * step, there
    return DualPoint(y, g, max_iterations)


def weigh(u: Tensor, z: Tensor, weights: UInt8[Tensor, "s cW"]) -> UInt8[Tensor, "s cW"]:
    """Fill in the weights of entries in the Hessian: `u` is z before it was clipped to its bounds."""
    torch.eq(u, z, out=weights.view(torch.bool))
    return weights.mul_(FREE - BOUND).add_(BOUND)


def _numbers(*figures: Tensor) -> list[float]:
    """Several at once: a card is waited for once."""
    numbers: list[float] = torch.stack(figures).tolist()
    return numbers
