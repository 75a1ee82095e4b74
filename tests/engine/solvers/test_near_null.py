"""The filter against the same function of singular values, and its bound against what is measured."""

import numpy as np
import pytest
import torch

from nullspace_cli.engine.solvers.image_map import Branch, ImageMap
from nullspace_cli.engine.solvers.near_null import near_null
from nullspace_cli.engine.solvers.polyphase import norm_bound
from tests.stems import matrix_of


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


INJECTIVE = ImageMap((Branch(normal(8, 2, 3, 3), (2, 2), (0, 1, 0, 1)),), (2, 12, 10))
FREE = ImageMap((Branch(normal(3, 2, 3, 3), (2, 2), (1, 1, 1, 1)),), (2, 12, 10))


@pytest.mark.parametrize("rtol", [0.3, 0.1])
@pytest.mark.parametrize("image_map", [INJECTIVE, FREE])
def test_it_is_that_function_of_singular_values(image_map: ImageMap, rtol: float) -> None:
    images = normal(2, *image_map.input_size)
    _, sigma, rows = np.linalg.svd(matrix_of(image_map))
    found = near_null(image_map, images, rtol, sigma[0])
    t = np.zeros(len(rows))
    t[: len(sigma)] = sigma**2
    cut = (rtol * sigma[0]) ** 2
    chebyshev = np.polynomial.chebyshev.Chebyshev.basis(found.degree, domain=[cut, norm_bound(image_map) ** 2])
    filtered = chebyshev(t) / chebyshev(0)
    assert np.abs(filtered[t > cut]).max() <= 1e-6
    expected = (images.flatten(1).numpy() @ rows.T * filtered) @ rows
    np.testing.assert_allclose(found.images.flatten(1), expected, atol=1e-11)


@pytest.mark.parametrize("image_map", [INJECTIVE, FREE])
def test_the_bound_holds(image_map: ImageMap) -> None:
    sigma = float(np.linalg.norm(matrix_of(image_map), 2))
    found = near_null(image_map, normal(4, *image_map.input_size), 0.2, sigma)
    read = image_map.forward(found.images).norm(dim=1) / found.images.flatten(1).norm(dim=1) / sigma
    torch.testing.assert_close(found.read, read)
    assert (found.read <= found.bound).all()
    assert (found.bound < 0.21).all()
