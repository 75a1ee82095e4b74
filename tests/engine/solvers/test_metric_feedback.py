"""Rounding in a metric, against Babai's nearest plane on the dense basis."""

import numpy as np
import pytest

from nullspace_cli.engine.solvers.metric_feedback import MetricFeedback
from tests.engine.solvers.test_row_projection import STACK, WIDTH, Array

GRAM = STACK.T @ STACK


def nearest_plane(basis: Array, z: Array) -> Array:
    """Babai 1986: project onto the span of the columns that are left, round the last coefficient, and take it off."""
    q, rest = np.zeros(basis.shape[1]), basis @ z
    for k in range(basis.shape[1] - 1, -1, -1):
        others = basis[:, :k]
        across = basis[:, k] - (others @ np.linalg.lstsq(others, basis[:, k], rcond=None)[0] if k else 0)
        q[k] = np.rint(across @ rest / (across @ across))
        rest = rest - basis[:, k] * q[k]
    return q


@pytest.mark.parametrize("damping", [0.005, 0.1])
def test_the_integers_of_the_nearest_plane(damping: float) -> None:
    z = np.random.default_rng(0).uniform(0, 255, (WIDTH, 4)).astype(np.float32)
    q = MetricFeedback(GRAM, damping)(z, np.full_like(z, -1000), np.full_like(z, 1000))
    basis = np.concatenate([STACK, damping**0.5 * np.eye(WIDTH)])
    for column in range(4):
        np.testing.assert_array_equal(q[:, column], nearest_plane(basis, z[:, column].astype(float)))


def test_what_bounds_take_is_made_up_for() -> None:
    z = np.random.default_rng(0).uniform(-3, 10, (WIDTH, 50)).astype(np.float32)
    lower, upper = np.zeros_like(z), np.full_like(z, 255)
    q = MetricFeedback(GRAM, 0.01)(z, lower, upper)
    assert q.min() == 0
    np.testing.assert_array_equal(q, np.rint(q))
    shaped, nearest = (np.square(STACK @ (made - z)).mean() for made in (q, z.round().clip(0)))
    assert shaped < 0.3 * nearest
