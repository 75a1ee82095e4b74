"""Projection without a matrix, against the projector that a dense singular value decomposition gives."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from nullspace_cli.engine.nullspace.independent_kernels import independent_kernels
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap
from nullspace_cli.engine.solvers.null_projection import NullProjection
from tests.stems import MAPS, RTOL, DrawnMap, matrix_of, null_projector


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@given(MAPS)
@settings(max_examples=15, deadline=None)
def test_it_is_the_projection(drawn: DrawnMap) -> None:
    image_map = drawn.built()
    ours = independent_kernels(image_map, RTOL)
    sigma = np.linalg.svd(matrix_of(ours), compute_uv=False)
    assume(not ((sigma > 1e-12) & (sigma < 1e-2 * sigma[0])).any())
    images = normal(2, *image_map.input_size)
    found = NullProjection(ours)(images)
    assert found.converged.all()
    expected = images.flatten(1).numpy() @ null_projector(ours)
    np.testing.assert_allclose(found.images.flatten(1), expected, atol=1e-12 * float(images.norm()))
    assert float(found.residual.max()) <= 1e-12


@pytest.fixture
def padded() -> ImageMap:
    return ImageMap((Branch(normal(8, 3, 3, 3), (2, 2), (1, 1, 1, 1)),), (3, 32, 32))


def test_the_residual_is_what_it_says(padded: ImageMap) -> None:
    projection, images = NullProjection(padded), normal(2, *padded.input_size)
    found = projection(images, tolerance=1e-4)
    norm = np.linalg.norm(matrix_of(padded), 2)
    assert norm <= projection.norm_bound <= 1.2 * norm
    left = padded.forward(found.images).norm(dim=1) / (projection.norm_bound * images.flatten(1).norm(dim=1))
    torch.testing.assert_close(found.residual, left)
    assert 1e-9 < float(left.max()) < 1e-3


def test_nothing_stays_nothing(padded: ImageMap) -> None:
    found = NullProjection(padded)(torch.zeros(1, *padded.input_size, dtype=torch.float64))
    assert (found.images == 0).all()
    assert found.residual == 0
    assert found.converged


def test_too_few_iterations_are_told(padded: ImageMap) -> None:
    assert not NullProjection(padded)(normal(1, *padded.input_size), max_iterations=2).converged


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 0, 0, 0)])
def test_the_preconditioner_saves_iterations(padding: tuple[int, int, int, int]) -> None:
    """And more than the products of A A^T that it spends itself."""
    image_map = ImageMap((Branch(normal(8, 3, 3, 3), (2, 2), padding),), (3, 48, 48))
    images = normal(1, *image_map.input_size)
    plain, ours = (NullProjection(image_map, preconditioned=on)(images) for on in (False, True))
    assert plain.iterations == plain.products
    assert ours.iterations * 5 < plain.iterations
    assert ours.products * 1.5 < plain.products
    torch.testing.assert_close(ours.images, plain.images, atol=1e-10, rtol=0)


def test_on_any_device(device: torch.device) -> None:
    kernel = normal(8, 3, 3, 3)
    image_map = ImageMap((Branch(kernel.to(device), (2, 2), (1, 1, 1, 1)),), (3, 16, 16))
    found = NullProjection(image_map).sample(2, torch.Generator().manual_seed(1))
    assert found.images.device.type == device.type
    on_cpu = ImageMap((Branch(kernel, (2, 2), (1, 1, 1, 1)),), (3, 16, 16))
    expected = NullProjection(on_cpu).sample(2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.images.cpu(), expected.images, atol=1e-11, rtol=0)
