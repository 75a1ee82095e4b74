"""Least squares in a box, against scipy's solvers and an independent quadratic programming solver."""

from typing import Literal

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from torch import Tensor

from nullspace_cli.engine.solvers.bounded_least_squares import bounded_least_squares
from nullspace_cli.engine.solvers.solution import Status


def problem(d: int, n: int, p: int = 4, *, spread: float = 1.0, size: float = 1.0, seed: int = 0) -> tuple[Tensor, ...]:
    """A with singular values from 1 down to `spread`, and b = A x for x of that size beside a box of radius 1."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    k = min(d, n)
    A = left[:, :k] * torch.logspace(0, float(np.log10(spread)), k, dtype=torch.float64) @ right[:k]
    return A, size * torch.randn(p, n, generator=generator, dtype=torch.float64) @ A.mT


def least_residual(A: Tensor, b: Tensor, lower: float, upper: float, method: Literal["trf", "bvls"]) -> float:
    found = lsq_linear(A.numpy(), b.numpy(), (lower, upper), method=method, tol=1e-14, max_iter=10_000)
    return float(np.linalg.norm(A.numpy() @ found.x - b.numpy()))


def least_norm(A: Tensor, b: Tensor) -> float:
    """min ||v|| over A v = b, |v| <= 1, by Clarabel."""
    d, n = A.shape
    options = clarabel.DefaultSettings()
    options.verbose = False
    options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = 1e-11
    constraints = sp.csc_matrix(np.vstack([A.numpy(), np.eye(n), -np.eye(n)]))
    bounds = np.concatenate([b.numpy(), np.ones(2 * n)])
    cones = [clarabel.ZeroConeT(d), clarabel.NonnegativeConeT(2 * n)]
    solver = clarabel.DefaultSolver(sp.eye(n, format="csc"), np.zeros(n), constraints, bounds, cones, options)
    return float(np.linalg.norm(solver.solve().x))


OUT_OF_REACH = [(8, 30, 1.0, 5.0), (20, 30, 1e-3, 1.0), (12, 12, 1e-4, 1.0), (30, 12, 0.1, 3.0), (5, 40, 0.5, 50.0)]


@pytest.mark.parametrize("method", ["trf", "bvls"])
@pytest.mark.parametrize(("d", "n", "spread", "size"), OUT_OF_REACH)
def test_same_residual_as_scipy_out_of_reach(
    d: int, n: int, spread: float, size: float, method: Literal["trf", "bvls"]
) -> None:
    A, b = problem(d, n, spread=spread, size=size)
    fit = bounded_least_squares(A, b, -1.0, 1.0)
    assert fit.status is Status.SOLVED
    expected = torch.tensor([least_residual(A, row, -1, 1, method) for row in b], dtype=torch.float64)
    assert expected.min() > 1e-6
    assert ((fit.residual - expected).abs() <= 1e-9 * b.norm(dim=1)).all()


@pytest.mark.parametrize(("d", "n"), [(10, 20), (20, 60), (30, 40)])
def test_the_shortest_that_reaches(d: int, n: int) -> None:
    A, _ = problem(d, n, spread=0.1)
    generator = torch.Generator().manual_seed(1)
    b = 0.95 * torch.randn(4, n, generator=generator, dtype=torch.float64).sign() @ A.mT
    fit = bounded_least_squares(A, b, -1.0, 1.0)
    assert fit.status is Status.SOLVED
    assert fit.iterations.max() > 0  # bounds are active
    assert (fit.residual <= 1e-9 * b.norm(dim=1)).all()
    expected = torch.tensor([least_norm(A, row) for row in b], dtype=torch.float64)
    torch.testing.assert_close(fit.value.norm(dim=1), expected, rtol=1e-7, atol=0)


def test_without_active_bounds_it_is_the_pseudoinverse() -> None:
    A, b = problem(20, 60, spread=0.1, size=0.05)
    fit = bounded_least_squares(A, b, -1.0, 1.0)
    torch.testing.assert_close(fit.value, b @ torch.linalg.pinv(A).mT, rtol=0, atol=1e-12)
    assert fit.iterations.max() == 0
    assert fit.gap.max() < 1e-12


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.floats(-4, 0),
    st.floats(0.01, 20),
    st.floats(-1.5, 0),
    st.integers(0, 999),
)
def test_certificate_is_honest(d: int, n: int, spread: float, size: float, lower: float, seed: int) -> None:
    """The excess bounds the distance to scipy's optimum, and is as small as was asked for."""
    A, b = problem(d, n, p=2, spread=10**spread, size=size, seed=seed)
    fit = bounded_least_squares(A, b, lower, lower + 1.5)
    torch.testing.assert_close(fit.residual, (fit.value @ A.mT - b).norm(dim=1), rtol=1e-9, atol=1e-14)
    assert fit.status is Status.SOLVED
    assert (fit.gap <= 1e-9 * b.norm(dim=1)).all()
    assert fit.value.min() >= lower
    assert fit.value.max() <= lower + 1.5
    for row, residual, excess in zip(b, fit.residual, fit.gap, strict=True):
        assert float(residual - excess) <= least_residual(A, row, lower, lower + 1.5, "bvls") + 1e-12


def test_an_early_end_is_reported_and_its_certificate_holds() -> None:
    A, b = problem(20, 30, spread=0.1, size=5.0)
    fit, optimum = (bounded_least_squares(A, b, -1.0, 1.0, max_iterations=limit) for limit in (3, 60))
    assert fit.status is Status.ITERATION_LIMIT
    assert (fit.residual > optimum.residual + 1e-6).all()
    assert (fit.residual - fit.gap <= optimum.residual).all()
    assert (fit.gap < fit.residual).all()


def test_problems_do_not_disturb_each_other() -> None:
    """Trivial, reached and unreachable ones beside each other, more than are solved at the same time."""
    A, unit = problem(20, 60, p=90, spread=0.1)
    b = unit * torch.linspace(0, 3, 90, dtype=torch.float64)[:, None]
    together = bounded_least_squares(A, b, -1.0, 1.0)
    apart = torch.cat([bounded_least_squares(A, row[None], -1.0, 1.0).value for row in b[::8]])
    assert together.residual[0] == 0
    assert (together.residual > 1e-3).any()
    torch.testing.assert_close(together.value[::8], apart, rtol=0, atol=1e-6)


def test_bounds_may_differ_from_entry_to_entry() -> None:
    A, b = problem(8, 30, size=3.0)
    generator = torch.Generator().manual_seed(1)
    lower = -torch.rand(4, 30, generator=generator, dtype=torch.float64)
    fit = bounded_least_squares(A, b, lower, lower + 1.0)
    for i, row in enumerate(b):
        found = lsq_linear(A.numpy(), row.numpy(), (lower[i].numpy(), lower[i].numpy() + 1), "bvls", tol=1e-14)
        assert float(fit.residual[i]) == pytest.approx((2 * found.cost) ** 0.5, rel=1e-7)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_do_not_matter(scale: float) -> None:
    A, b = problem(20, 30, spread=1e-3)
    fit, other = bounded_least_squares(A, b, -1.0, 1.0), bounded_least_squares(scale * A, scale * b, -1.0, 1.0)
    assert other.status is Status.SOLVED
    torch.testing.assert_close(other.residual, scale * fit.residual, rtol=1e-7, atol=0)


def test_a_matrix_that_lacks_rank() -> None:
    A, b = problem(10, 40, spread=0.1, size=0.8)
    A, b = torch.cat([A, A[:3]]), torch.cat([b, b[:, :3]], 1)
    fit = bounded_least_squares(A, b, -1.0, 1.0)
    assert fit.status is Status.SOLVED
    assert (fit.residual <= 1e-9 * b.norm(dim=1)).all()
    beside = b + torch.eye(13, dtype=torch.float64)[10]  # of no image under A
    fit = bounded_least_squares(A, beside, -1.0, 1.0)
    np.testing.assert_allclose(fit.residual, [least_residual(A, row, -1, 1, "trf") for row in beside], rtol=1e-7)
    fit = bounded_least_squares(A, 0.01 * beside, -1.0, 1.0)
    shortest = 0.01 * beside @ torch.linalg.pinv(A, rtol=1e-10).mT
    torch.testing.assert_close(fit.value, shortest, rtol=0, atol=1e-12)


def test_no_problems() -> None:
    A, _ = problem(3, 10)
    fit = bounded_least_squares(A, torch.zeros(0, 3, dtype=torch.float64), -1.0, 1.0)
    assert fit.value.shape == (0, 10)
    assert fit.status is Status.SOLVED


@pytest.mark.slow
@pytest.mark.parametrize(("size", "reached"), [(3.0, True), (6.0, False)])
def test_a_whole_image_of_the_paper(size: float, reached: bool) -> None:
    """49 patches, 3072 pixels to 384 numbers each; scipy checks the first."""
    generator = torch.Generator().manual_seed(0)
    A = 0.02 * torch.randn(384, 3072, generator=generator, dtype=torch.float64)
    b = size * (2 * torch.rand(49, 384, generator=generator, dtype=torch.float64) - 1)
    fit = bounded_least_squares(A, b, -1.0, 1.0)
    assert fit.status is Status.SOLVED
    assert (fit.residual <= 1e-9 * b.norm(dim=1)).all() == reached
    assert float(fit.residual[0]) == pytest.approx(least_residual(A, b[0], -1, 1, "trf"), rel=1e-6, abs=1e-8)
