"""Projection onto the pictures with a given view: dense matrices and general solvers as the oracle."""

from typing import Any

import clarabel
import numpy as np
import osqp
import pytest
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nullspace_cli.engine.solvers.resize_projection import (
    Constraint,
    ResizeProblem,
    SeparableResize,
    WholeView,
    project_onto_view,
)

Array = NDArray[np.floating[Any]]
SIZE = (14, 11)
"""Height and width of the pictures that the oracle solves."""


def axis(outputs: int, entries: int) -> Array:
    """Pillow's bicubic resize of one axis: what it makes of the unit vectors."""
    unit = Image.fromarray(np.eye(entries, dtype=np.float32))
    return np.asarray(unit.resize((outputs, entries), Image.Resampling.BICUBIC), np.float64).T


def resizes(height: int, width: int, h: int, w: int, channels: int = 1) -> SeparableResize:
    return SeparableResize(axis(h, height), axis(w, width), channels)


def levels(height: int, width: int, channels: int = 1, *, saturated: float = 0.0, seed: int = 0) -> Tensor:
    """Random levels, a share of them 0 or 255."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, channels, width))
    at_bound = generator.random(pixels.shape) < saturated
    return torch.from_numpy(np.where(at_bound, np.where(pixels > 127, 255, 0), pixels).astype(np.uint8))


def view_of(resize: SeparableResize, pixels: Tensor) -> Tensor:
    """By plain dense products."""
    return torch.einsum("hH,HcW,wW->hcw", resize.rows, pixels.to(resize.rows), resize.cols)


def image_of(problem: ResizeProblem, y: Tensor) -> Tensor:
    return torch.cat([z for _, _, z in problem.images(y)]).view(problem.target.shape)


class Rotated:
    """C: a few orthonormal rows over the whole view."""

    def __init__(self, size: int, count: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.rows = torch.linalg.qr(torch.randn(size, count, generator=generator)).Q.T

    def reduce(self, view: Tensor) -> Tensor:
        self.shape = view.shape
        return self.rows @ view.flatten()

    def spread(self, values: Tensor) -> Tensor:
        return (values @ self.rows).view(self.shape)


def by_clarabel(A: Array, b: Array, t: Array, lower: Array, upper: Array) -> Array:
    n = len(t)
    constraints = sp.csc_matrix(np.vstack([A, np.eye(n), -np.eye(n)]))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    cones = [clarabel.ZeroConeT(len(A)), clarabel.NonnegativeConeT(2 * n)]
    bounds = np.concatenate([b, upper, -lower])
    solver = clarabel.DefaultSolver(sp.eye(n, format="csc"), -t, constraints, bounds, cones, settings)
    return np.array(solver.solve().x)


def by_osqp(A: Array, b: Array, t: Array, lower: Array, upper: Array) -> Array:
    solver = osqp.OSQP()
    constraints = sp.csc_matrix(np.vstack([A, np.eye(len(t))]))
    solver.setup(
        sp.eye(len(t), format="csc"), -t, constraints, np.concatenate([b, lower]), np.concatenate([b, upper]),
        verbose=False, eps_abs=1e-10, eps_rel=1e-10, max_iter=200_000, polishing=True,
    )  # fmt: skip
    return np.array(solver.solve(raise_error=True).x)


@pytest.mark.parametrize("oracle", [by_clarabel, by_osqp])
@pytest.mark.parametrize("constraint", [WholeView(), Rotated(20, 7)])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("saturated", [0.0, 0.2])
def test_same_optimum_as_the_oracle(oracle: Any, constraint: Constraint, fixed: bool, saturated: float) -> None:
    resize = resizes(*SIZE, 5, 4)
    x, t = levels(*SIZE, saturated=saturated), levels(*SIZE, saturated=0.5, seed=1)
    lower, upper = torch.zeros_like(x), torch.full_like(x, 255)
    if fixed:
        lower[3:6], upper[3:6] = x[3:6], x[3:6]
    problem = ResizeProblem(resize, constraint, t, lower, upper)
    view = view_of(resize, x)
    solution = project_onto_view(problem, view, tolerance=1e-3, max_iterations=50, max_inner=100)
    z = image_of(problem, solution.y).flatten().double().numpy()

    whole = np.kron(axis(5, SIZE[0]), axis(4, SIZE[1]))
    C = constraint.rows.double().numpy() if isinstance(constraint, Rotated) else np.eye(20)
    point, target, low, high = (part.flatten().double().numpy() for part in (x, t, lower, upper))
    A = C @ whole
    expected = 255 * oracle(A, A @ point / 255, target / 255, low / 255, high / 255)
    optimum = np.sum((expected - target) ** 2)
    assert optimum > 1e4
    assert float(np.sum((z - target) ** 2)) == pytest.approx(optimum, rel=1e-4)
    assert np.abs(z - expected).max() < 0.05
    assert np.abs(A @ (z - point)).max() < 2e-3
    assert (z >= low).all()
    assert (z <= high).all()


def test_closed_form_where_no_bound_is_active() -> None:
    """z = t + R_h^T (R_h R_h^T)^-1 (b - R_h t R_w^T) (R_w R_w^T)^-1 R_w, found in a step or two."""
    resize = resizes(60, 45, 16, 13, 3)
    x, t = (levels(60, 45, 3, seed=seed) // 8 + 112 for seed in (0, 1))
    solution = project_onto_view(ResizeProblem(resize, WholeView(), t), view_of(resize, x), tolerance=1e-3)
    rows, cols = resize.rows.double(), resize.cols.double()
    missing = torch.einsum("hH,HcW,wW->hcw", rows, x.double() - t.double(), cols)
    y = torch.einsum("ih,hcw,wj->icj", (rows @ rows.T).inverse(), missing, (cols @ cols.T).inverse())
    expected = t + torch.einsum("hH,hcw,wW->HcW", rows, y, cols)
    z = image_of(ResizeProblem(resize, WholeView(), t), solution.y)
    torch.testing.assert_close(z.double(), expected, rtol=0, atol=5e-3)
    assert solution.iterations <= 3


def test_a_picture_with_the_view_already_stays() -> None:
    resize, x = resizes(30, 40, 9, 12, 3), levels(30, 40, 3, saturated=0.3)
    problem = ResizeProblem(resize, WholeView(), x)
    solution = project_onto_view(problem, view_of(resize, x))
    assert solution.iterations == 0
    assert torch.equal(image_of(problem, solution.y), x.float())


def test_a_start_near_the_solution_saves_steps() -> None:
    resize = resizes(60, 45, 16, 13, 3)
    x, t = (levels(60, 45, 3, saturated=0.3, seed=seed) for seed in (0, 1))
    problem, view = ResizeProblem(resize, WholeView(), t), view_of(resize, x)
    cold = project_onto_view(problem, view, max_iterations=50)
    warm = project_onto_view(problem, view, cold.y, max_iterations=50)
    assert warm.iterations == 0 < cold.iterations
    assert torch.equal(warm.y, cold.y)


def test_the_residual_is_what_is_left_of_the_constraint() -> None:
    resize = resizes(60, 45, 16, 13, 3)
    x, t = (levels(60, 45, 3, saturated=0.3, seed=seed) for seed in (0, 1))
    problem, view = ResizeProblem(resize, WholeView(), t), view_of(resize, x)
    for most in (0, 1, 50):
        solution = project_onto_view(problem, view, max_iterations=most, max_inner=30)
        left = view_of(resize, image_of(problem, solution.y)) - view
        torch.testing.assert_close(solution.residual, left, rtol=0, atol=2e-3)
        assert (solution.residual.abs().max() <= 0.02) == (most == 50)


@pytest.mark.parametrize("channels", [1, 3])
def test_strips_are_the_dense_products(channels: int) -> None:
    resize = resizes(37, 29, 9, 31, channels)  # one axis shrinks, the other grows
    generator = torch.Generator().manual_seed(0)
    z, v = (
        torch.randn(37, channels, 29, generator=generator),
        torch.randn(9, channels, 31, generator=generator),
    )
    whole = torch.einsum("hH,hcw,wW->HcW", resize.rows, v, resize.cols)
    for size in (1, 8, 10, 37, 100):
        strips = list(resize.cut(size))
        assert [(s.start, s.stop) for s in strips] == [(i, min(i + size, 37)) for i in range(0, 37, size)]
        shifts = torch.cat([shift for _, shift in resize.shifts(v, strips)]).view_as(whole)
        torch.testing.assert_close(shifts, whole, rtol=0, atol=1e-5)
        seen = resize.gather((strip, z[strip.start : strip.stop].flatten(1)) for strip in strips)
        torch.testing.assert_close(seen, view_of(resize, z), rtol=0, atol=1e-5)
        assert float((seen * v).sum()) == pytest.approx(float((z * shifts).sum()), rel=1e-4)  # adjoint


def test_what_preconditions_is_the_inverse_without_numbers_that_slow_products_down() -> None:
    """Far off the diagonal its entries fall below what float32 holds in full: products took 20 times longer."""
    resize = resizes(800, 900, 224, 224)
    view = torch.eye(224)[:, None]
    grams = [part.double() @ part.double().T for part in (resize.rows, resize.cols)]
    found = torch.linalg.inv(grams[0]) @ torch.linalg.inv(grams[1])
    torch.testing.assert_close(resize.precondition(view)[:, 0].double(), found, rtol=1e-4, atol=1e-5)
    seen = [resize.precondition(view[:, :, [k]].expand(-1, -1, 224)) for k in (0, 111)]
    assert all(((part == 0) | (part.abs() >= torch.finfo(torch.float32).tiny)).all() for part in seen)


def test_size_of_the_strips_does_not_matter() -> None:
    resize = resizes(60, 45, 16, 13, 3)
    x, t = (levels(60, 45, 3, saturated=0.3, seed=seed) for seed in (0, 1))
    found = []
    for size in (7, 60):
        resize.strips = list(resize.cut(size))
        problem = ResizeProblem(resize, WholeView(), t)
        solution = project_onto_view(problem, view_of(resize, x), tolerance=1e-3, max_iterations=50, max_inner=50)
        found.append(image_of(problem, solution.y))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0.05)


@pytest.mark.parametrize("bounded", [False, True])
def test_some_rows_are_those_of_the_image(*, bounded: bool) -> None:
    resize = resizes(60, 40, 12, 9, 3)
    target = levels(60, 40, 3)
    bounds = (target // 2, 200 + target // 8) if bounded else (0, 255)
    problem = ResizeProblem(resize, WholeView(), target, *bounds)
    y = 300 * torch.randn(12, 3, 9, generator=torch.Generator().manual_seed(0))
    for places in ([3], [58, 7, 8, 30], range(60)):
        rows = problem.rows(y, np.array(places))
        torch.testing.assert_close(rows.view(-1, 3, 40), image_of(problem, y)[list(places)], rtol=0, atol=1e-3)


def test_rows_that_nothing_reads_take_the_target() -> None:
    """A crop: there is no constraint on what lies outside of it."""
    rows = np.zeros((6, 40))
    rows[:, 10:30] = axis(6, 20)
    resize = SeparableResize(rows, axis(8, 30), 3)
    x, t = levels(40, 30, 3), levels(40, 30, 3, seed=1)
    problem = ResizeProblem(resize, WholeView(), t)
    z = image_of(problem, project_onto_view(problem, view_of(resize, x), max_iterations=30).y)
    assert torch.equal(z[:10], t[:10].float())
    assert torch.equal(z[30:], t[30:].float())
    assert not torch.equal(z[10:30], t[10:30].float())


def test_bounds_that_leave_no_room() -> None:
    """Nothing but the target fits between the bounds; the residual says so, and nothing is infinite."""
    resize = resizes(30, 40, 9, 12, 3)
    x, t = levels(30, 40, 3), levels(30, 40, 3, seed=1)
    problem = ResizeProblem(resize, WholeView(), t, t, t)
    solution = project_onto_view(problem, view_of(resize, x))
    assert torch.equal(image_of(problem, solution.y), t.float())
    torch.testing.assert_close(solution.residual, view_of(resize, t) - view_of(resize, x), rtol=0, atol=1e-3)
    assert solution.y.isfinite().all()


@pytest.mark.gpu
def test_on_cuda() -> None:
    x, t = (levels(60, 45, 3, saturated=0.3, seed=seed) for seed in (0, 1))
    found = []
    for device in ("cpu", "cuda"):
        resize = SeparableResize(axis(16, 60), axis(13, 45), 3, device)
        problem = ResizeProblem(resize, WholeView(), t.to(device))
        view = view_of(resize, x.to(device))
        found.append(image_of(problem, project_onto_view(problem, view, tolerance=1e-3, max_iterations=50).y).cpu())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0.05)
