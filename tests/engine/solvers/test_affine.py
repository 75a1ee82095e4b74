"""The nearest point of an affine set: against SciPy's least squares and linear programming."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from nullspace_cli.engine.solvers.affine import nearest_affine
from nullspace_cli.engine.solvers.solution import Norm

ROWS, SIZE, FREE = 12, 36, 20


@pytest.fixture(scope="module")
def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A with orthonormal rows of which the first entries are harder to reach, points, targets, and what is free."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(ROWS, SIZE, generator=generator, dtype=torch.float64)
    A = torch.linalg.qr((mixed * torch.logspace(-2, 0, SIZE, dtype=torch.float64)).mT).Q.mT
    x, t = torch.rand(2, 5, SIZE, generator=generator, dtype=torch.float64)
    return A, x, t, torch.arange(SIZE) < FREE


@pytest.mark.parametrize("norm", [1, 2])
def test_the_constraints_are_met(problem: tuple[Tensor, Tensor, Tensor, Tensor], norm: Norm) -> None:
    A, x, t, free = problem
    solution = nearest_affine(A, x, t, free, norm=norm)
    assert float(((solution.value - x) @ A.mT).norm(dim=1).max()) <= 1e-9
    torch.testing.assert_close(solution.residual, ((solution.value - x) @ A.mT).norm(dim=1), atol=1e-12, rtol=0)
    assert torch.equal(solution.value[:, ~free], t[:, ~free])
    assert float(solution.gap.max()) <= 1e-7


def test_euclidean_distance_is_that_of_least_squares(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    A, x, t, free = problem
    z = nearest_affine(A, x, t, free, norm=2).value
    for i in range(len(t)):
        shortest, *_ = np.linalg.lstsq(A[:, free].numpy(), (A @ (x[i] - t[i])).numpy(), rcond=None)
        np.testing.assert_allclose((z[i] - t[i])[free].numpy(), shortest, atol=1e-10)


def test_absolute_distance_is_that_of_the_linear_program(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    A, x, t, free = problem
    z = nearest_affine(A, x, t, free, norm=1).value
    F = A[:, free].numpy()
    for i in range(len(t)):
        b = (A @ (x[i] - t[i])).numpy()
        best = linprog(np.ones(2 * FREE), A_eq=np.hstack([F, -F]), b_eq=b, method="highs").fun
        assert float((z[i] - t[i]).abs().sum()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("norm", [1, 2])
def test_a_target_that_is_feasible_is_the_answer(problem: tuple[Tensor, Tensor, Tensor, Tensor], norm: Norm) -> None:
    A, x, _, free = problem
    torch.testing.assert_close(nearest_affine(A, x, x, free, norm=norm).value, x, atol=1e-9, rtol=0)
