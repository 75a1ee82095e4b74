"""Likeness of maps, against scipy and literal definitions, and where it is undefined."""

from dataclasses import astuple

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from nullspace_cli.engine.metrics import ssim
from nullspace_cli.engine.saliency.similarity import Similarity, similarity, top_overlap


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ssim_by_loops(a: Tensor, b: Tensor, data_range: float) -> float:
    """Wang et al. 2004, eq. 13, window by window."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for p, q in zip(a.numpy(), b.numpy(), strict=True):
        height, width = p.shape
        rows, columns = min(7, height), min(7, width)
        for i in range(height - rows + 1):
            for j in range(width - columns + 1):
                x, y = (image[i : i + rows, j : j + columns].ravel() for image in (p, q))
                (vx, cov), (_, vy) = np.cov(x, y)
                numerator = (2 * x.mean() * y.mean() + c1) * (2 * cov + c2)
                values.append(numerator / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 4, 5), (3, 20, 13)])
@pytest.mark.parametrize("data_range", [1.0, 4.0])
def test_ssim_by_its_definition(shape: tuple[int, ...], data_range: float) -> None:
    a, noise = drawn(*shape, seed=0), drawn(*shape, seed=1)
    b = 0.7 * a + 0.3 * noise
    expected = ssim_by_loops(a, b, data_range)
    assert ssim(a, b, data_range) == pytest.approx(expected, abs=1e-12)
    assert 0.3 < expected < 0.999
    assert ssim(a, a, data_range) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(7, 7), (16, 16)])
def test_similarity_by_its_definitions(shape: tuple[int, int]) -> None:
    a, b = drawn(*shape, seed=0), 3 * drawn(*shape, seed=1) - 1
    b = b + a
    a[:2] = 0  # ties
    x, y = a.numpy().ravel(), b.numpy().ravel()
    found = similarity(a, b)
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert found.pearson == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    scaled = [(m - m.min()) / (m.max() - m.min()) for m in (a, b)]
    assert found.ssim == pytest.approx(ssim_by_loops(scaled[0][None], scaled[1][None], 1.0))
    k = round(0.1 * x.size)
    assert found.top10 == len({*x.argsort()[-k:]} & {*y.argsort()[-k:]}) / k
    assert similarity(b, a) == pytest.approx(found)


def test_a_map_is_like_itself_at_any_scale() -> None:
    a = drawn(7, 7, seed=0)
    assert astuple(similarity(a, 5 * a + 2)) == pytest.approx((1, 1, 1, 1))


def test_ties_for_the_last_places_share_them() -> None:
    a = torch.zeros(10, 10)
    a[0, :5] = 1  # five places of ten are left to 95 zeros
    b = a.roll(5, 1)
    assert top_overlap(a, a) == pytest.approx(1)
    assert top_overlap(a, b) == pytest.approx((10 * 5 / 95 + 90 * 5 / 95) / 10)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_constant_maps_are_undefined(value: float) -> None:
    undefined = Similarity(None, None, None, None)
    constant, a = torch.full((7, 7), value, dtype=torch.float64), drawn(7, 7, seed=0)
    assert similarity(a, constant) == similarity(constant, a) == similarity(constant, constant) == undefined
    rounded = constant * (1 + 1e-15 * a)
    assert similarity(a, rounded) == undefined
