"""Closest vectors, against all whole vectors around."""

from itertools import product

import numpy as np
import pytest

from nullspace_cli.engine.preimage.closest_vectors import closest_vectors

N, SIDE = 40, 4


@pytest.fixture(scope="module")
def problems() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((N, SIDE, SIDE)) * [4, 2, 1, 1]
    return factors.swapaxes(1, 2) @ factors + np.eye(SIDE), 3 * rng.standard_normal((N, SIDE))


def costs(H: np.ndarray, g: np.ndarray, t: np.ndarray) -> np.ndarray:
    """[N, K], of [N, K, n]."""
    values: np.ndarray = np.einsum("nki,nij,nkj->nk", t, H, t) + 2 * np.einsum("nki,ni->nk", t, g)
    return values


def least(H: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Of all whole vectors within 4 of the real-valued minimum."""
    around = np.array(list(product(range(-4, 5), repeat=SIDE)))
    centre = np.rint(np.linalg.solve(H, -g[..., None]))[:, None, :, 0]
    lowest: np.ndarray = costs(H, g, centre + around).min(1)
    return lowest


def test_a_wide_beam_mostly_finds_the_closest(problems: tuple[np.ndarray, np.ndarray]) -> None:
    H, g = problems
    found, lowest = costs(H, g, closest_vectors(H, g, 64))[:, 0], least(H, g)
    assert (found > lowest - 1e-6).all()
    assert (found < lowest + 1e-6).mean() >= 0.8


def test_the_best_comes_first_and_all_differ(problems: tuple[np.ndarray, np.ndarray]) -> None:
    H, g = problems
    found = closest_vectors(H, g, 2, 8)
    assert found.shape == (N, 8, SIDE)
    values = costs(H, g, found)
    assert (np.diff(values, axis=1) > -1e-3).all()
    assert all(len(np.unique(one, axis=0)) == 8 for one in found)
    rounded = np.rint(np.linalg.solve(H, -g[..., None]))[:, None, :, 0]
    assert values[:, 0].mean() < costs(H, g, rounded)[:, 0].mean()
