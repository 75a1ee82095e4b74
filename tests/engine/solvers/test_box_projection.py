"""Projection onto an affine set and a box, against independent quadratic programming solvers."""

from typing import Any

import clarabel
import numpy as np
import osqp
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nullspace_cli.engine.solvers.box_projection import NEWTON_STEPS, project_affine_box
from nullspace_cli.engine.solvers.solution import Status


def problem(r: int, n: int, p: int = 4, *, saturated: float = 0.0, strength: float = 2.0, seed: int = 0) -> Any:
    """Orthonormal rows, feasible points x (a share of them on the bounds), and targets far outside the box."""
    generator = torch.Generator().manual_seed(seed)
    A, _ = torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64))
    x = torch.rand(p, n, generator=generator, dtype=torch.float64)
    at_bound = torch.rand(p, n, generator=generator) < saturated
    x = torch.where(at_bound, x.round(), x)
    t = x + strength * torch.randn(p, n, generator=generator, dtype=torch.float64)
    return A.mT.contiguous(), x, t


def by_clarabel(A: Tensor, b: Tensor, t: Tensor) -> np.ndarray:
    r, n = A.shape
    constraints = sp.csc_matrix(np.vstack([A.numpy(), np.eye(n), -np.eye(n)]))
    bounds = np.concatenate([b.numpy(), np.ones(n), np.zeros(n)])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    cones = [clarabel.ZeroConeT(r), clarabel.NonnegativeConeT(2 * n)]
    solver = clarabel.DefaultSolver(sp.eye(n, format="csc"), -t.numpy(), constraints, bounds, cones, settings)
    return np.array(solver.solve().x)


def by_osqp(A: Tensor, b: Tensor, t: Tensor) -> np.ndarray:
    n = A.shape[1]
    solver = osqp.OSQP()
    constraints = sp.csc_matrix(np.vstack([A.numpy(), np.eye(n)]))
    lower, upper = np.concatenate([b.numpy(), np.zeros(n)]), np.concatenate([b.numpy(), np.ones(n)])
    solver.setup(
        sp.eye(n, format="csc"), -t.numpy(), constraints, lower, upper,
        verbose=False, eps_abs=1e-10, eps_rel=1e-10, max_iter=200_000, polishing=True,
    )  # fmt: skip
    return np.array(solver.solve(raise_error=True).x)


@pytest.mark.parametrize("oracle", [by_clarabel, by_osqp])
@pytest.mark.parametrize(("r", "n", "saturated"), [(5, 30, 0.0), (20, 60, 0.3), (40, 48, 0.0), (1, 10, 0.5)])
def test_same_optimum_as_the_oracle(oracle: Any, r: int, n: int, saturated: float) -> None:
    A, x, t = problem(r, n, saturated=saturated)
    b = x @ A.mT
    solution = project_affine_box(A, x, t)
    assert solution.status is Status.SOLVED
    for z, right, target in zip(solution.value, b, t, strict=True):
        expected = oracle(A, right, target)
        optimum = 0.5 * np.sum((expected - target.numpy()) ** 2)
        assert float((z - target).square().sum()) / 2 == pytest.approx(optimum, rel=1e-6)
        np.testing.assert_allclose(z, expected, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(13, 60), st.floats(0, 0.8), st.floats(0, 20), st.integers(1, 6), st.integers(0, 99)
)
def test_certificate_holds(r: int, n: int, saturated: float, strength: float, p: int, seed: int) -> None:
    A, x, t = problem(r, n, p, saturated=saturated, strength=strength, seed=seed)
    solution = project_affine_box(A, x, t)
    z = solution.value
    torch.testing.assert_close(solution.residual, ((z - x) @ A.mT).norm(dim=1), rtol=1e-3, atol=1e-12)
    assert solution.status is Status.SOLVED
    assert solution.residual.max() <= 1e-9
    assert solution.gap.max() <= 1e-6
    assert solution.bound_violation.max() == 0
    assert z.min() >= 0
    assert z.max() <= 1
    assert solution.iterations.shape == (p,)


def test_optimality_conditions() -> None:
    """z - t lies in the row space wherever z is free, and pushes outwards where it is not."""
    A, x, t = problem(6, 40, p=1)
    z = project_affine_box(A, x, t, tolerance=1e-12).value[0]
    free = (z > 1e-9) & (z < 1 - 1e-9)
    y = torch.linalg.lstsq(A.mT[free], (z - t[0])[free, None]).solution[:, 0]
    u = t[0] + y @ A
    torch.testing.assert_close(u[free], z[free], rtol=0, atol=1e-8)
    assert (u[~free & (z < 0.5)] <= 1e-8).all()
    assert (u[~free & (z > 0.5)] >= 1 - 1e-8).all()


def test_target_that_is_feasible_is_the_answer() -> None:
    A, x, _ = problem(5, 30)
    solution = project_affine_box(A, x, x)
    torch.testing.assert_close(solution.value, x)
    assert solution.iterations.max() == 0


def test_fixed_entries_stay() -> None:
    A, x, t = problem(5, 30)
    fixed = torch.zeros(30, dtype=torch.bool)
    fixed[::3] = True
    solution = project_affine_box(A, x, t, torch.where(fixed, x, 0.0), torch.where(fixed, x, 1.0))
    assert torch.equal(solution.value[:, fixed], x[:, fixed])
    assert solution.residual.max() <= 1e-9
    assert not torch.allclose(solution.value[:, ~fixed], x[:, ~fixed])


def test_problems_do_not_disturb_each_other() -> None:
    A, x, t = problem(10, 60, p=5, saturated=0.3)
    together = project_affine_box(A, x, t).value
    apart = torch.cat([project_affine_box(A, x[i : i + 1], t[i : i + 1]).value for i in range(5)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-8)


def test_a_limit_that_is_too_low_is_reported() -> None:
    A, x, t = problem(20, 60, saturated=0.3)
    solution = project_affine_box(A, x, t, max_iterations=1)
    assert solution.status is Status.ITERATION_LIMIT
    assert solution.residual.max() > 1e-9
    assert "iteration limit" in solution.status


def test_no_problems() -> None:
    A, _, _ = problem(3, 10)
    solution = project_affine_box(A, torch.zeros(0, 10, dtype=torch.float64), torch.zeros(0, 10, dtype=torch.float64))
    assert solution.value.shape == (0, 10)
    assert solution.status is Status.SOLVED


def test_hard_problems_go_to_the_interior_point_method() -> None:
    """Sums of saturated entries leave hardly a feasible point off the bounds, and Newton's method creeps."""
    A, x, t = problem(20, 40, p=2, saturated=0.9, strength=20.0, seed=1)
    solution = project_affine_box(A, x, t)
    assert NEWTON_STEPS < solution.iterations.max() <= NEWTON_STEPS + 30
    assert solution.status is Status.SOLVED
    assert solution.residual.max() <= 1e-9
    assert solution.bound_violation.max() == 0
    assert solution.gap.max() <= 1e-6
    for i in range(2):
        optimum = float((torch.from_numpy(by_clarabel(A, A @ x[i], t[i])) - t[i]).square().sum()) / 2
        assert float((solution.value[i] - t[i]).square().sum()) / 2 == pytest.approx(optimum, rel=1e-6)
