"""Measures, against scipy, scikit-free definitions and their edge cases."""

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch

from nullspace_cli.engine import metrics

A, B = (
    torch.rand(3, 5, generator=torch.Generator().manual_seed(0)),
    torch.rand(3, 5, generator=torch.Generator().manual_seed(1)),
)


def test_against_scipy() -> None:
    a, b = A.numpy().ravel(), B.numpy().ravel()
    assert metrics.correlation(A, B) == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
    assert metrics.cosine(A.flatten(), B.flatten()) == pytest.approx(1 - scipy.spatial.distance.cosine(a, b))
    index, probability = metrics.top1(A[0])
    assert index == int(a[:5].argmax())
    assert probability == pytest.approx(scipy.special.softmax(a[:5]).max())


def test_by_hand() -> None:
    assert metrics.psnr(torch.zeros(4), torch.full((4,), 0.1)) == pytest.approx(20)
    assert metrics.relative_change(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(0.1)
    assert metrics.squared_change(A, B).tolist() == pytest.approx(np.square(A.numpy() - B.numpy()).sum(1).tolist())


def test_cosines_are_those_of_the_rows() -> None:
    a = torch.cat([A, torch.zeros(1, 5)])
    found = metrics.cosines(a, torch.cat([B, torch.ones(1, 5)]))
    assert found[:3].tolist() == pytest.approx([metrics.cosine(*rows) for rows in zip(A, B, strict=True)])
    assert found[3].isnan()


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (0, 20), (7, 20), (20, 20), (499, 500), (3925, 3925)])
def test_wilson(hits: int, count: int) -> None:
    expected = scipy.stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert metrics.wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_undefined_is_none() -> None:
    constant = torch.ones(3, 5)
    assert metrics.psnr(A, A) is None
    assert metrics.correlation(A, constant) is None
    assert metrics.cosine(A.flatten(), torch.zeros(15)) is None
    assert metrics.relative_change(torch.zeros(2), torch.ones(2)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -7e-5, 1e300])
def test_two_constants_have_no_correlation(value: float, dtype: torch.dtype) -> None:
    """Their mean is rounded: what is left of them is noise of one sign, whose correlation is 1 or -1."""
    if value > torch.finfo(dtype).max:
        pytest.skip("not a number of this precision")
    a, b = torch.full((1000,), value, dtype=dtype), torch.full((1000,), 0.7, dtype=dtype)
    assert metrics.correlation(a, b) is None
    assert metrics.correlation(a, torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=dtype)) is None


def test_rounding_alone_is_no_signal() -> None:
    nearly = torch.full((50,), 0.3, dtype=torch.float64)
    nearly[::2] = 0.1 + 0.2  # one unit in the last place above
    assert nearly.max() > nearly.min()
    assert metrics.correlation(nearly, torch.arange(50.0)) is None
