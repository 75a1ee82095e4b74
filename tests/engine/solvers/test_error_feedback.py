"""Rounding with error feedback, against the least-squares problem that each of its steps solves, posed afresh."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.solvers.error_feedback import feedback_taps, round_along

Array = NDArray[np.floating[Any]]


def banded(outputs: int, entries: int, seed: int = 0) -> Array:
    """Windows of random weights, positive and negative, that move along the entries."""
    generator = np.random.default_rng(seed)
    R = np.zeros((outputs, entries))
    for i in range(outputs):
        start = i * (entries - 6) // max(outputs - 1, 1)
        R[i, start : start + 6] = generator.normal(size=6)
    return R


def resize(outputs: int, entries: int) -> Array:
    """Pillow's bicubic resize of one axis: what it makes of the unit vectors."""
    unit = Image.fromarray(np.eye(entries, dtype=np.float32))
    return np.asarray(unit.resize((outputs, entries), Image.Resampling.BICUBIC), np.float64).T


def points(entries: int, columns: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 255, (entries, columns)).astype(np.float32)


def no_error(R: Array, z: Array) -> NDArray[np.float32]:
    return np.zeros((len(R), z.shape[1]), np.float32)


def greedily(R: Array, z: Array, damping: float, lower: float, upper: float) -> Array:
    """Each entry is rounded after all that are still free were moved, as reals, to where they mend the error best."""
    outputs, entries = R.shape
    q = np.empty_like(z)
    for column in range(z.shape[1]):
        error = np.zeros(outputs)
        for k in range(entries):
            free = R[:, k:]
            system = np.vstack([free, damping**0.5 * np.eye(entries - k)])
            best = np.linalg.lstsq(system, np.r_[-error, np.zeros(entries - k)], rcond=None)[0]
            q[k, column] = np.rint(np.clip(z[k, column] + best[0], lower, upper))
            error += R[:, k] * (q[k, column] - z[k, column])
    return q


@pytest.mark.parametrize("damping", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("R", [banded(9, 24), banded(20, 24), resize(13, 40), resize(24, 15)])
def test_the_integers_of_the_dense_problem(R: Array, damping: float) -> None:
    z = points(R.shape[1], 6)
    q = round_along(feedback_taps(R, damping), z, no_error(R, z), 40, 215)
    np.testing.assert_array_equal(q, greedily(R, z, damping, 40, 215))


@pytest.mark.parametrize(
    ("outputs", "damping", "largest_ratio"), [(20, 0.0005, 0.15), (40, 0.0005, 0.2), (40, 0.05, 0.6), (80, 0.05, 0.6)]
)
def test_moves_the_output_far_less_than_nearest_rounding(outputs: int, damping: float, largest_ratio: float) -> None:
    R, z = resize(outputs, 200), points(200, 50)
    q = round_along(feedback_taps(R, damping), z, no_error(R, z))
    np.testing.assert_array_equal(q, np.rint(q))
    assert np.square(R @ (q - z)).mean() ** 0.5 <= largest_ratio * np.square(R @ (np.rint(z) - z)).mean() ** 0.5
    assert np.square(q - z).mean() ** 0.5 < 0.6


def test_an_error_at_the_start_is_made_up_for() -> None:
    R, z = resize(40, 200), points(200, 50).clip(20, 235)
    error = np.random.default_rng(2).uniform(-0.5, 0.5, (40, 50)).astype(np.float32)
    before = error.copy()
    q = round_along(feedback_taps(R, damping=0.0005), z, error)
    np.testing.assert_array_equal(error, before)
    assert np.abs(R @ (q - z) + error).mean() < 0.1 * np.abs(error).mean()


def test_bounds_hold_and_the_others_make_up_for_them() -> None:
    R, z = resize(30, 200), points(200, 20)
    lower, upper = np.zeros(z.shape, np.uint8), np.full(z.shape, 255, np.uint8)
    lower[50:60] = upper[50:60] = np.rint(z[50:60]).astype(np.uint8)  # fixed
    lower[100:120, :10] = np.ceil(z[100:120, :10]).astype(np.uint8)
    q = round_along(feedback_taps(R, damping=0.0005), z, no_error(R, z), lower, upper)
    assert (q >= lower).all()
    assert (q <= upper).all()
    np.testing.assert_array_equal(q[50:60], np.rint(z[50:60]))
    blunt = np.clip(np.rint(z), lower, upper)
    assert np.abs(R @ (q - z)).mean() < 0.4 * np.abs(R @ (blunt - z)).mean()


def test_what_nothing_reads_is_rounded_to_nearest() -> None:
    R, z = np.zeros((10, 50)), points(50, 8)
    R[:, 20:40] = resize(10, 20)
    q = round_along(feedback_taps(R), z, no_error(R, z))
    outside = np.r_[0:20, 40:50]
    np.testing.assert_array_equal(q[outside], np.rint(z[outside]))
    assert (q[20:40] != np.rint(z[20:40])).any()
