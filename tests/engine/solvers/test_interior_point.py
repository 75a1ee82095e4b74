"""The nearest point of an affine set and a box by the interior point method, against independent solvers."""

from typing import Any

import clarabel
import numpy as np
import osqp
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from nullspace_cli.engine.solvers.interior_point import FIRST_TRY, solve_affine_box
from nullspace_cli.engine.solvers.solution import Norm, Solution, Status

NORMS: tuple[Norm, Norm] = (1, 2)


def row_space(r: int, n: int, seed: int = 0) -> Tensor:
    """Orthonormal rows [r, n] at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64))[0].mT.contiguous()


def points(
    n: int, p: int = 4, *, saturated: float = 0.0, strength: float = 2.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Points x in the box (a share of their entries on a bound), and targets, most of them outside the box."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(p, n, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(p, n, generator=generator) < saturated, x.round(), x)
    return x, x + strength * torch.randn(p, n, generator=generator, dtype=torch.float64)


def distances(z: Tensor, t: Tensor, norm: int) -> Tensor:
    return (z - t).abs().sum(-1) if norm == 1 else (z - t).square().sum(-1) / 2


def check(solution: Solution, A: Tensor, x: Tensor, gap: float = 1e-7) -> None:
    """The certificate is good, and it is the truth."""
    z = solution.value
    assert solution.status is Status.SOLVED
    assert ((z >= 0) & (z <= 1)).all()
    assert solution.bound_violation.max() == 0
    assert ((z - x) @ A.mT).norm(dim=1).max() <= 1e-9
    torch.testing.assert_close(solution.residual, ((z - x) @ A.mT).norm(dim=1))
    assert solution.gap.max() <= gap


def by_highs(A: Tensor, x: Tensor, t: Tensor) -> float:
    """The optimum of the linear program: minimise sum(e) subject to -e <= z - t <= e and the constraints on z."""
    r, n = A.shape
    eye = np.eye(n)
    answer = linprog(
        np.concatenate([np.zeros(n), np.ones(n)]),
        A_ub=np.block([[eye, -eye], [-eye, -eye]]),
        b_ub=np.concatenate([t.numpy(), -t.numpy()]),
        A_eq=np.hstack([A.numpy(), np.zeros((r, n))]),
        b_eq=(A @ x).numpy(),
        bounds=[(0, 1)] * n + [(0, None)] * n,
        method="highs",
    )
    assert answer.fun is not None
    return float(answer.fun)


def by_clarabel(A: Tensor, x: Tensor, t: Tensor) -> float:
    r, n = A.shape
    constraints = sp.csc_matrix(np.vstack([A.numpy(), np.eye(n), -np.eye(n)]))
    right = np.concatenate([(A @ x).numpy(), np.ones(n), np.zeros(n)])
    options = clarabel.DefaultSettings()
    options.verbose = False
    options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = 1e-10
    cones = [clarabel.ZeroConeT(r), clarabel.NonnegativeConeT(2 * n)]
    solver = clarabel.DefaultSolver(sp.eye(n, format="csc"), -t.numpy(), constraints, right, cones, options)
    return float(np.sum((np.array(solver.solve().x) - t.numpy()) ** 2) / 2)


def by_osqp(A: Tensor, x: Tensor, t: Tensor) -> float:
    n = A.shape[1]
    right = (A @ x).numpy()
    solver = osqp.OSQP()
    solver.setup(
        sp.eye(n, format="csc"),
        -t.numpy(),
        sp.csc_matrix(np.vstack([A.numpy(), np.eye(n)])),
        np.concatenate([right, np.zeros(n)]),
        np.concatenate([right, np.ones(n)]),
        verbose=False,
        eps_abs=1e-9,
        eps_rel=1e-9,
        max_iter=100_000,
    )
    return float(np.sum((np.array(solver.solve(raise_error=True).x) - t.numpy()) ** 2) / 2)


SHAPES = [(8, 48, 0.0), (8, 48, 0.6), (24, 96, 0.3), (48, 192, 0.0), (1, 10, 0.5)]


@pytest.mark.parametrize(("r", "n", "saturated"), SHAPES)
def test_same_optimum_as_a_linear_programming_solver(r: int, n: int, saturated: float) -> None:
    A, (x, t) = row_space(r, n), points(n, saturated=saturated)
    solution = solve_affine_box(A, x, t, norm=1)
    check(solution, A, x)
    expected = [by_highs(A, x[i], t[i]) for i in range(len(x))]
    np.testing.assert_allclose(distances(solution.value, t, 1), expected, rtol=1e-6)


@pytest.mark.slow
def test_same_optimum_as_a_linear_programming_solver_at_medium_size() -> None:
    A, (x, t) = row_space(96, 588), points(588, 1, saturated=0.2, strength=0.5)
    solution = solve_affine_box(A, x, t, norm=1)
    check(solution, A, x)
    assert float(distances(solution.value, t, 1)) == pytest.approx(by_highs(A, x[0], t[0]), rel=1e-6)


@pytest.mark.parametrize("oracle", [by_clarabel, by_osqp])
@pytest.mark.parametrize(("r", "n", "saturated"), SHAPES)
def test_same_optimum_as_a_quadratic_programming_solver(oracle: Any, r: int, n: int, saturated: float) -> None:
    A, (x, t) = row_space(r, n), points(n, saturated=saturated)
    solution = solve_affine_box(A, x, t, norm=2)
    check(solution, A, x)
    expected = [oracle(A, x[i], t[i]) for i in range(len(x))]
    np.testing.assert_allclose(distances(solution.value, t, 2), expected, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(NORMS),
    st.integers(1, 12),
    st.integers(13, 60),
    st.floats(0, 1),
    st.floats(0, 20),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_certificate_holds(norm: Norm, r: int, n: int, saturated: float, strength: float, p: int, seed: int) -> None:
    A, (x, t) = row_space(r, n, seed), points(n, p, saturated=saturated, strength=strength, seed=seed)
    check(solve_affine_box(A, x, t, norm=norm), A, x)


def smooth_rows(r: int, n: int) -> Tensor:
    """The r lowest cosines: among them the constant, so that an entry at 1 everywhere can only stay there."""
    place, frequency = torch.arange(n, dtype=torch.float64) + 0.5, torch.arange(r, dtype=torch.float64)[:, None]
    return torch.nn.functional.normalize(torch.cos(torch.pi * frequency * place / n))


def saturated_patches(n: int) -> Tensor:
    """White, black, a third white, 90 % at a bound, all at a bound, a white block beside grey."""
    x = torch.rand(6, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[0], x[1] = 1.0, 0.0
    x[2, : n // 3] = 1.0
    x[3, : 9 * n // 10] = x[3, : 9 * n // 10].round()
    x[4] = x[4].round()
    x[5] = torch.where(torch.arange(n) % 40 < 25, 1.0, 0.5)
    return x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rows", [row_space, smooth_rows])
def test_saturated_patches(rows: Any, norm: Norm) -> None:
    n = 120
    A, x = rows(12, n), saturated_patches(n)
    t = 1.5 * (torch.arange(n, dtype=torch.float64) % 11 < 4) + 0.2 * x
    solution = solve_affine_box(A, x, t, norm=norm)
    check(solution, A, x)
    oracle = by_highs if norm == 1 else by_clarabel
    for i, reached in enumerate(distances(solution.value, t, norm).tolist()):
        assert reached == pytest.approx(oracle(A, x[i], t[i]), rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_hardly_an_interior(norm: Norm) -> None:
    """Smooth rows over a white stretch: multipliers of some 1e6, which only graded rows carry; the gap is the proof.

    How small it can become depends on the processor's last digits: 7e-7 on some.
    """
    A, x = smooth_rows(20, 60), saturated_patches(60)
    t = 1.5 * (torch.arange(60, dtype=torch.float64) % 11 < 4) + 0.2 * x
    solution = solve_affine_box(A, x, t, norm=norm, gap=2e-6)
    check(solution, A, x, gap=2e-6)
    assert solution.iterations.max() > FIRST_TRY


WAYS = {
    "graded rows": ("FIRST_TRY", 0),
    "double precision throughout": ("ROUGH", torch.inf),
    "single precision to its end": ("ROUGH", 0.0),
    "all weights multiplied out": ("SETTLED", 0.0),
    "no weight multiplied out": ("SETTLED", 1e9),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("way", WAYS)
def test_all_ways_lead_to_the_same_answer(way: str, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    A, (x, t) = row_space(10, 60), points(60, saturated=0.3)
    expected = solve_affine_box(A, x, t, norm=norm)
    name, value = WAYS[way]
    monkeypatch.setattr(f"nullspace_cli.engine.solvers.interior_point.{name}", value)
    solution = solve_affine_box(A, x, t, norm=norm)
    check(solution, A, x)
    torch.testing.assert_close(
        distances(solution.value, t, norm), distances(expected.value, t, norm), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("norm", NORMS)
def test_where_nothing_else_is_feasible_the_answer_is_the_source(norm: Norm) -> None:
    A, x = smooth_rows(10, 60), torch.ones(1, 60, dtype=torch.float64)
    solution = solve_affine_box(A, x, torch.rand(1, 60, dtype=torch.float64), norm=norm)
    check(solution, A, x)
    torch.testing.assert_close(solution.value, x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_target_that_is_feasible_in_the_box_is_the_answer(norm: Norm) -> None:
    A, (x, _) = row_space(5, 30), points(30, saturated=0.4)
    beyond = torch.where((x == 0) | (x == 1), 3 * x - 1, x)
    solution = solve_affine_box(A, x, beyond, norm=norm)
    assert torch.equal(solution.value, x)
    assert solution.iterations.max() == 0
    assert solution.gap.max() <= 1e-12


@pytest.mark.parametrize("norm", NORMS)
def test_fixed_entries_stay(norm: Norm) -> None:
    A, (x, t) = row_space(5, 30), points(30)
    fixed = torch.arange(30) % 3 == 0
    solution = solve_affine_box(A, x, t, torch.where(fixed, x, 0.0), torch.where(fixed, x, 1.0), norm=norm)
    check(solution, A, x)
    assert torch.equal(solution.value[:, fixed], x[:, fixed])
    rest = solve_affine_box(
        torch.linalg.qr(A[:, ~fixed].mT)[0].mT, x[:, ~fixed], t[:, ~fixed], norm=norm
    )  # the same problems without those entries
    torch.testing.assert_close(
        distances(solution.value[:, ~fixed], t[:, ~fixed], norm),
        distances(rest.value, t[:, ~fixed], norm),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("norm", NORMS)
def test_other_bounds(norm: Norm) -> None:
    """The whole problem moved and stretched."""
    A, (x, t) = row_space(8, 40), points(40, saturated=0.2)
    plain = solve_affine_box(A, x, t, norm=norm, gap=1e-9)
    moved = solve_affine_box(A, 2 * x - 5, 2 * t - 5, -5.0, -3.0, norm=norm, gap=1e-9)
    best = 2**norm * distances(plain.value, t, norm)
    torch.testing.assert_close(distances(moved.value, 2 * t - 5, norm), best, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_problems_do_not_disturb_each_other(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    A, (x, t) = row_space(10, 60), points(60, 5, saturated=0.3)
    together = solve_affine_box(A, x, t, norm=norm)
    monkeypatch.setattr("nullspace_cli.engine.solvers.interior_point.side_by_side", lambda device, numbers: 2)
    in_pairs = solve_affine_box(A, x, t, norm=norm)
    apart = [solve_affine_box(A, x[i : i + 1], t[i : i + 1], norm=norm) for i in range(5)]
    for others in (in_pairs.value, torch.cat([one.value for one in apart])):
        torch.testing.assert_close(together.value, others, rtol=0, atol=1e-6)
    assert together.iterations.tolist() == [int(one.iterations) for one in apart]


def test_a_limit_that_is_too_low_is_reported() -> None:
    A, (x, t) = row_space(20, 60), points(60)
    solution = solve_affine_box(A, x, t, norm=1, max_iterations=2)
    assert solution.status is Status.ITERATION_LIMIT
    assert solution.iterations.tolist() == [4] * 4  # two, and two in graded rows
    assert solution.gap.max() > 1e-7


@pytest.mark.parametrize("norm", NORMS)
def test_no_problems(norm: Norm) -> None:
    none = torch.zeros(0, 10, dtype=torch.float64)
    solution = solve_affine_box(row_space(3, 10), none, none, norm=norm)
    assert solution.value.shape == (0, 10)
    assert solution.status is Status.SOLVED


@pytest.mark.gpu
@pytest.mark.parametrize("norm", NORMS)
def test_cuda_gives_the_same_answer(norm: Norm) -> None:
    A, (x, t) = row_space(48, 192), points(192, saturated=0.3)
    here = solve_affine_box(A, x, t, norm=norm)
    there = solve_affine_box(A.cuda(), x.cuda(), t.cuda(), norm=norm)
    assert there.value.is_cuda
    torch.testing.assert_close(there.value.cpu(), here.value, rtol=0, atol=1e-6)
    assert there.gap.max() <= 1e-7
