"""Projection of rows that several resizes read, against scipy's bounded least squares."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import lsq_linear

from nullspace_cli.engine.solvers.row_projection import RowProjection
from nullspace_cli.engine.solvers.solution import Status

Array = NDArray[np.floating[Any]]
WIDTH, MU = 60, 50.0


def resize(outputs: int) -> Array:
    """Pillow's bicubic resize of one axis: what it makes of the unit vectors."""
    unit = Image.fromarray(np.eye(WIDTH, dtype=np.float32))
    return np.asarray(unit.resize((outputs, WIDTH), Image.Resampling.BICUBIC), np.float64).T


STACK = np.concatenate([resize(13), resize(17), resize(24)])


@pytest.mark.parametrize("room", [400.0, 60.0, 5.0])
def test_the_rows_of_the_bounded_least_squares(room: float) -> None:
    generator = np.random.default_rng(0)
    wanted = generator.normal(0, 60, (6, WIDTH)).astype(np.float32)
    lower, upper = (-generator.uniform(0, room, wanted.shape), generator.uniform(0, room, wanted.shape))
    lower[:, 20:24] = upper[:, 20:24] = 0  # entries that are fixed
    project = RowProjection(STACK.T @ STACK, MU)
    found = project(*(torch.tensor(part, dtype=torch.float32) for part in (wanted, lower, upper)), tolerance=1e-3)
    assert found.certificate.status is Status.SOLVED
    assert found.certificate.figures(2)["bound_violation"] == 0
    assert 0 <= found.certificate.figures(2)["gap"] < 1e-4
    system = np.concatenate([np.eye(WIDTH), MU**0.5 * STACK])
    for row, change in enumerate(found.change.numpy()):
        free = lower[row] < upper[row]
        wished = np.r_[wanted[row], np.zeros(len(STACK))]
        best = lsq_linear(system[:, free], wished, (lower[row, free], upper[row, free]), tol=1e-12)
        np.testing.assert_allclose(change[free], best.x, atol=0.05)
        assert not change[~free].any()


def test_of_rows_that_were_not_solved_the_certificate_says_so() -> None:
    generator = np.random.default_rng(0)
    wanted = torch.tensor(generator.normal(0, 60, (2, WIDTH)), dtype=torch.float32)
    room = torch.full_like(wanted, 5.0)
    few = RowProjection(STACK.T @ STACK, MU)(wanted, -room, room, tolerance=1e-6, max_iterations=10)
    many = RowProjection(STACK.T @ STACK, MU)(wanted, -room, room, tolerance=1e-3)
    assert few.certificate.status is Status.ITERATION_LIMIT
    assert few.certificate.figures(2)["gap"] > 10 * many.certificate.figures(2)["gap"]
