"""Many systems at once, against scipy's direct solution of each and its own conjugate gradients, step by step."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import cg
from torch import Tensor

from nullspace_cli.engine.solvers.conjugate_gradients import LinearMap, conjugate_gradients


@pytest.fixture
def systems() -> tuple[Tensor, Tensor]:
    """Three of them, ever worse conditioned: K [3, 12, 12] and right-hand sides [3, 12]."""
    generator = torch.Generator().manual_seed(5)
    turns, _ = torch.linalg.qr(torch.randn(3, 12, 12, generator=generator, dtype=torch.float64))
    spectra = torch.stack([torch.logspace(0, decades, 12, dtype=torch.float64) for decades in (0.5, 2, 4)])
    K = turns * spectra[:, None] @ turns.mT
    return K, torch.randn(3, 12, generator=generator, dtype=torch.float64)


def times(K: Tensor) -> LinearMap:
    return lambda s: (K @ s[..., None])[..., 0]


def by_diagonal(K: Tensor) -> LinearMap:
    return lambda r: r / K.diagonal(dim1=1, dim2=2)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_each_problem_is_solved(systems: tuple[Tensor, Tensor], preconditioned: bool) -> None:
    K, right = systems
    preconditioner = by_diagonal(K) if preconditioned else lambda r: r
    s, open_ = conjugate_gradients(times(K), right, relative=1e-12, preconditioner=preconditioner, max_iterations=100)
    assert not open_.any()
    np.testing.assert_allclose(s, np.linalg.solve(K.numpy(), right.numpy()[..., None])[..., 0], rtol=1e-7)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_each_step_is_scipys(systems: tuple[Tensor, Tensor], steps: int) -> None:
    K, right = systems
    s, open_ = conjugate_gradients(times(K), right, relative=0.0, preconditioner=by_diagonal(K), max_iterations=steps)
    assert open_.all()
    for matrix, b, ours in zip(K.numpy(), right.numpy(), s, strict=True):
        theirs, _ = cg(matrix, b, rtol=0, maxiter=steps, M=np.diag(1 / np.diag(matrix)))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_problem_that_is_done_stays_as_it_is(systems: tuple[Tensor, Tensor]) -> None:
    """Whatever the others of its batch still need: each to its own accuracy."""
    K, right = systems
    relative = torch.tensor([0.5, 1e-3, 1e-10], dtype=torch.float64)
    together, _ = conjugate_gradients(times(K), right, relative=relative, max_iterations=100)
    for k in range(3):
        one = times(K[k : k + 1])
        alone, _ = conjugate_gradients(one, right[k : k + 1], relative=float(relative[k]), max_iterations=100)
        torch.testing.assert_close(together[k], alone[0], rtol=1e-12, atol=0)
        residual = float((right[k] - K[k] @ together[k]).norm() / right[k].norm())
        assert relative[k] / 1e4 < residual <= relative[k]


def test_an_absolute_bound_is_met_besides(systems: tuple[Tensor, Tensor]) -> None:
    K, right = systems
    s, open_ = conjugate_gradients(times(K), right, relative=0.9, absolute=1e-6, max_iterations=100)
    assert not open_.any()
    assert float((right - (K @ s[..., None])[..., 0]).norm(dim=1).max()) <= 1e-6


def test_of_nothing_the_solution_is_nothing(systems: tuple[Tensor, Tensor]) -> None:
    K, right = systems
    s, open_ = conjugate_gradients(times(K), torch.zeros_like(right), relative=0.1, max_iterations=5)
    assert not open_.any()
    assert (s == 0).all()
