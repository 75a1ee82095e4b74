"""Theory: what surrogates keep, what a first layer reads of null noise, and p-values of networks without kinship."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.fft import dctn
from scipy.linalg import null_space
from torch import Tensor

from nullspace_cli.engine.ownership.frequencies import draw_signs, low_frequencies, mirror, with_signs
from nullspace_cli.engine.ownership.randomisation import generator_of, p_value
from nullspace_cli.engine.ownership.reading import reading_of


def shaped(seed: int, size: int = 6, rank: int = 20) -> Tensor:
    """Kernels [rank, 3, size, size] whose spectrum falls as natural images' does: common to all, signs apart."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.arange(size).square()[:, None] + torch.arange(size).square()
    spectrum = 1 / (1 + frequency.double())
    white = torch.randn(rank, 3, size, size, generator=generator, dtype=torch.float64)
    # Colours that go together, and one random sign for each frequency: the law that p-values are exact for.
    white[:, 1:] = 0.8 * white[:, :1] + 0.2 * white[:, 1:]
    return with_signs(low_frequencies(white, (size, size)), draw_signs(1, (size, size), generator))[0] * spectrum.mean()


def rows_of(kernel: Tensor) -> Tensor:
    return torch.linalg.qr(kernel.flatten(1).mT).Q.mT.unflatten(1, kernel.shape[1:])


def nulls_of(rows: Tensor) -> Tensor:
    basis = null_space(rows.flatten(1).numpy()).T
    return torch.from_numpy(np.ascontiguousarray(basis)).unflatten(1, rows.shape[1:])


def power(kernel: Tensor, noises: Tensor) -> float:
    return float((noises.flatten(1) @ kernel.flatten(1).mT).square().sum())


def test_surrogates_have_equal_spectra_and_colours() -> None:
    patches = torch.randn(5, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signs = draw_signs(3, (6, 8), torch.Generator().manual_seed(1))
    surrogates = with_signs(patches, signs)
    assert surrogates.shape == (3, 5, 3, 6, 8)
    before, after = (dctn(x.numpy(), axes=(-2, -1), norm="ortho") for x in (patches, surrogates))
    assert np.allclose(np.abs(after), np.abs(before))
    for c, other in ((0, 1), (0, 2), (1, 2)):
        assert np.allclose(after[:, :, c] * after[:, :, other], before[:, c] * before[:, other])
    assert not torch.allclose(surrogates[0], patches)


def test_the_mirror_is_one() -> None:
    patches = torch.randn(5, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(with_signs(patches, mirror((6, 7))), patches.flip(3))


def test_what_is_read_is_what_the_matrix_makes_of_null_vectors() -> None:
    kernel, rows = shaped(0), rows_of(shaped(1))
    nulls, reading = nulls_of(rows), reading_of(kernel, rows)
    assert reading.null == pytest.approx(power(kernel, nulls))
    assert reading.mirrored == pytest.approx(power(kernel, nulls.flip(3)))
    assert reading.white == pytest.approx(power(kernel, torch.eye(108, dtype=torch.float64)) * len(nulls) / 108)
    assert reading.visibility == pytest.approx((reading.null + reading.mirrored) / 2 / reading.white)
    signs = draw_signs(50, (6, 6), generator_of("test"))
    expected = [(power(kernel, with_signs(nulls, s)) - power(kernel, with_signs(nulls, s).flip(3))) / 2 for s in signs]
    assert torch.allclose(reading.surrogates(50, generator_of("test")), torch.tensor(expected, dtype=torch.float64))


def test_the_score_is_in_standard_deviations() -> None:
    reading = reading_of(shaped(0), rows_of(shaped(1)))
    drawn = reading.surrogates(20_000, generator_of("test"))
    assert reading.score == pytest.approx(reading.odd / float(drawn.std()), rel=0.03)


def test_a_network_does_not_read_its_own_nullspace() -> None:
    kernel = shaped(0)
    reading = reading_of(kernel, rows_of(kernel))
    assert reading.null < 1e-12 * reading.mirrored
    assert reading.odd == pytest.approx(-reading.even)


def test_p_values_are_uniform_without_kinship() -> None:
    values = []
    for seed in range(300):
        reading = reading_of(shaped(2 * seed), rows_of(shaped(2 * seed + 1)))
        values.append(p_value(reading.odd, reading.surrogates(199, generator_of(seed))))
    # A p-value is a multiple of 1/200; spread over the step below it, it is uniform.
    spread = np.array(values) - np.random.default_rng(0).random(300) / 200
    assert stats.kstest(spread, "uniform").pvalue > 0.05


@pytest.mark.parametrize(
    ("statistic", "surrogates", "expected"),
    [(-3.0, [-2.0, -1.0, 0.0], 1 / 4), (-1.0, [-2.0, -1.0, 0.0], 3 / 4), (-1.0, [-1 + 1e-12] * 3, 1.0)],
)
def test_p_counts_what_is_as_small(statistic: float, surrogates: list[float], expected: float) -> None:
    assert p_value(statistic, torch.tensor(surrogates, dtype=torch.float64)) == expected
