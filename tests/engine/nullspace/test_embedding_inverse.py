"""Noise on the tokens, realised in pixels: what a model does with it, and what is said of what it cannot carry."""

import json

import pytest
import torch
from scipy.optimize import lsq_linear
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.errors import ArtifactError, UsageError
from nullspace_cli.engine.nullspace.embedding_inverse import realise
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap

STD = (0.2, 0.25, 0.4)
SIZE = (9, 14)  # 2 x 4 patches of 4 x 3, and a remainder of one row and two columns


@pytest.fixture
def patch_map() -> PatchMap:
    weight = torch.randn(10, 3, 4, 3, generator=torch.Generator().manual_seed(0))
    return PatchMap.from_weight(weight, STD)


def noise_on_tokens(lim: float) -> Tensor:
    return lim * (2 * torch.rand(1, 8, 10, generator=torch.Generator().manual_seed(1)) - 1)


def tokens(patch_map: PatchMap, image: Tensor) -> Tensor:
    """What the patch embedding, a convolution on normalised images, makes of a difference."""
    return F.conv2d(image, patch_map.weight, stride=patch_map.patch_size).flatten(2).mT


def test_small_noise_is_carried_exactly(patch_map: PatchMap) -> None:
    delta = noise_on_tokens(1.0)
    realised = realise(patch_map, delta, SIZE)
    assert realised.noise.shape == (1, 3, *SIZE)
    torch.testing.assert_close(tokens(patch_map, realised.noise), delta.double(), rtol=0, atol=1e-8)
    assert realised.noise[..., 8:, :].count_nonzero() == 0
    assert realised.noise[..., 12:].count_nonzero() == 0
    assert realised.total_relative_residual < 1e-9
    assert realised.share_at_bound == 0


def test_large_noise_comes_as_near_as_scipy_s(patch_map: PatchMap) -> None:
    delta = noise_on_tokens(40.0)
    realised = realise(patch_map, delta, SIZE, bound=0.5)
    assert realised.noise.abs().max() == pytest.approx(0.5, abs=1e-9)
    assert realised.noise.abs().max() <= 0.5
    W = patch_map.weight.flatten(1).numpy()
    found = [lsq_linear(W, token.double().numpy(), (-0.5, 0.5), "bvls", tol=1e-14) for token in delta[0]]
    expected = torch.tensor([(2 * patch.cost) ** 0.5 for patch in found])
    scale = delta[0].double().norm(dim=1)
    error = (tokens(patch_map, realised.noise) - delta)[0].norm(dim=1)
    torch.testing.assert_close(error, expected.double(), rtol=1e-7, atol=0)
    torch.testing.assert_close(realised.relative_residual, error / scale, rtol=1e-12, atol=0)
    assert realised.total_relative_residual == pytest.approx(float(error.norm() / scale.norm()), rel=1e-12)
    at_bound = sum((abs(abs(patch.x) - 0.5) < 1e-7).sum() for patch in found) / (8 * 36)
    assert realised.share_at_bound == pytest.approx(at_bound, abs=1e-12)
    assert 0.3 < realised.share_at_bound < 1
    solver = json.loads(json.dumps(realised.solver))
    assert solver["status"] == "solved"
    assert solver["excess"] <= 1e-9
    assert solver["iterations"] > 0


def test_no_noise_is_no_noise(patch_map: PatchMap) -> None:
    realised = realise(patch_map, torch.zeros(1, 8, 10), SIZE)
    assert realised.noise.count_nonzero() == 0
    assert realised.relative_residual.count_nonzero() == 0
    assert realised.total_relative_residual == 0


@pytest.mark.parametrize("shape", [(1, 9, 10), (1, 8, 12), (2, 8, 10), (8, 10)])
def test_noise_of_another_model_is_refused(patch_map: PatchMap, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"expected \(1, 8, 10\): 2 x 4 patches of an input of 9 x 14"):
        realise(patch_map, torch.zeros(shape), SIZE)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bound_that_bounds_nothing_is_refused(patch_map: PatchMap, bound: float) -> None:
    with pytest.raises(UsageError, match="positive number"):
        realise(patch_map, noise_on_tokens(1.0), SIZE, bound=bound)
