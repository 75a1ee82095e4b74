"""Singular values by frequency: against those of the patch matrix, of the map itself, and of a wave."""

import numpy as np
import torch

from nullspace_cli.engine.nullspace.spectrum import find_spectrum
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap
from tests.stems import matrix_of


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_patches_have_their_matrix_at_every_frequency() -> None:
    branch = Branch(normal(10, 3, 2, 2), (2, 2))
    spectrum = find_spectrum(branch, (8, 6))
    expected = np.linalg.svd(branch.kernel.flatten(1).numpy(), compute_uv=False)
    assert spectrum.by_frequency.shape == (4, 3, 12)
    np.testing.assert_allclose(spectrum.by_frequency[..., :10], np.broadcast_to(expected, (4, 3, 10)))
    assert spectrum.share_below(0.0) == 2 / 12
    np.testing.assert_allclose(spectrum.sorted, np.sort(spectrum.by_frequency.flatten())[::-1])


def test_it_is_near_the_maps_own() -> None:
    branch, size = Branch(normal(16, 3, 3, 3), (2, 2), (0, 1, 0, 1)), (20, 20)
    sigma = np.linalg.svd(matrix_of(ImageMap((branch,), (3, *size))), compute_uv=False)
    spectrum = find_spectrum(branch, size)
    assert abs(spectrum.share_below(0.3) - (sigma <= 0.3 * sigma[0]).mean()) < 0.01
    assert abs(float(spectrum.by_frequency.max()) / sigma[0] - 1) < 0.02


def test_what_reads_means_alone_reads_the_middle() -> None:
    spectrum = find_spectrum(Branch(torch.ones(1, 1, 3, 3, dtype=torch.float64), (1, 1)), (9, 9))
    places = (spectrum.smallest == spectrum.smallest.max()).nonzero()
    assert places.tolist() == [[4, 4]]
    assert spectrum.describe()["share_below"]["0.001"] == np.mean(spectrum.by_frequency.numpy() <= 0.009)
