"""The exact nullspace: defining properties, scipy as oracle, and the geometry of patches."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.nullspace.decomposition import count_rank, split_space
from nullspace_cli.engine.nullspace.patch_embedding import Nullspace, PatchMap, Space, sample_null

STD = (0.2, 0.25, 0.4)


def random_matrix(d: int, n: int, rank: int, seed: int = 0) -> Tensor:
    """A matrix of known rank whose non-zero singular values lie in [0.1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(d, rank, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))
    sigma = torch.linspace(1, 0.1, rank, dtype=torch.float64)
    return left * sigma @ right.mT


def patch_map(d: int = 10, c: int = 3, rh: int = 4, rw: int = 3, seed: int = 0) -> PatchMap:
    generator = torch.Generator().manual_seed(seed)
    return PatchMap.from_weight(torch.randn(d, c, rh, rw, generator=generator), STD[:c])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.data())
def test_split_space_is_an_orthonormal_decomposition(d: int, n: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, min(d, n)))
    A = random_matrix(d, n, rank, seed=d * 31 + n) if rank else torch.zeros(d, n, dtype=torch.float64)
    rows, null, sigma = split_space(A, 1e-10)
    assert (len(rows), len(null), len(sigma)) == (rank, n - rank, min(d, n))
    both = torch.cat([rows, null])
    torch.testing.assert_close(both @ both.mT, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(A @ null.mT, torch.zeros(d, n - rank, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(sigma, torch.linalg.svdvals(A), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("d", "n", "rank"), [(8, 48, 8), (8, 48, 5), (48, 48, 48), (60, 48, 40), (60, 48, 48)])
def test_same_projector_as_scipy(d: int, n: int, rank: int) -> None:
    A = random_matrix(d, n, rank)
    _, null, _ = split_space(A, 1e-10)
    oracle = torch.from_numpy(scipy.linalg.null_space(A.numpy(), rcond=1e-10))
    torch.testing.assert_close(null.mT @ null, oracle @ oracle.mT, rtol=0, atol=1e-12)


def test_row_space_is_ordered_by_singular_value() -> None:
    A = random_matrix(6, 20, 6)
    rows, _, sigma = split_space(A, 1e-10)
    torch.testing.assert_close((rows @ A.mT).norm(dim=1), sigma, rtol=1e-12, atol=0)


def test_identity_reflectors_are_handled() -> None:
    """A triangular input needs no reflection in its last column, for which 1 / tau does not exist."""
    A = torch.eye(4, 9, dtype=torch.float64)
    rows, null, _ = split_space(A, 1e-10)
    torch.testing.assert_close(null.mT @ null, torch.diag(torch.tensor([0.0] * 4 + [1.0] * 5, dtype=torch.float64)))
    assert len(rows) == 4


def test_count_rank_is_relative() -> None:
    sigma = torch.tensor([10.0, 1.0, 1e-3])
    assert [count_rank(sigma, rtol) for rtol in (1e-5, 2e-4, 0.05, 0.5)] == [3, 2, 2, 1]
    assert count_rank(torch.zeros(3), 0.1) == 0


@pytest.mark.parametrize("space", ["pixel", "normalized"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_null_vectors_do_not_move_the_convolution(space: Space, per_channel: bool) -> None:
    map_ = patch_map()
    nullspace = map_.nullspace(space, per_channel=per_channel)
    vectors = nullspace.basis / (torch.tensor(STD, dtype=torch.float64)[:, None, None] if space == "pixel" else 1)
    assert F.conv2d(vectors, map_.weight).abs().max() < 1e-13
    assert nullspace.rank + nullspace.nullity == map_.patch_dim


def test_per_channel_touches_one_channel_and_lies_in_the_joint_nullspace() -> None:
    map_ = patch_map()
    joint, single = map_.nullspace(), map_.nullspace(per_channel=True)
    assert map_.nullity_per_channel(joint.rtol) == [2, 2, 2]
    assert (single.nullity, joint.nullity) == (6, 26)
    assert single.singular_values.shape == (3, 10)
    assert ((single.basis.flatten(2).norm(dim=2) > 0).sum(dim=1) == 1).all()
    flat = single.basis.flatten(1)
    torch.testing.assert_close(joint.project(flat), flat)
    both = torch.cat([single.row_space.flatten(1), flat])
    torch.testing.assert_close(both @ both.mT, torch.eye(36, dtype=torch.float64))


def test_projection_is_idempotent_and_removes_the_row_space() -> None:
    nullspace = patch_map().nullspace()
    x = torch.randn(5, 36, dtype=torch.float64)
    once = nullspace.project(x)
    torch.testing.assert_close(nullspace.project(once), once)
    torch.testing.assert_close(once, x @ nullspace.basis.flatten(1).mT @ nullspace.basis.flatten(1))
    assert nullspace.project(x.float()).dtype == torch.float32


def test_samples_fill_the_nullspace_evenly() -> None:
    map_ = patch_map()
    nullspace = map_.nullspace("normalized")
    noise = sample_null(nullspace.basis, (162, 91), torch.Generator().manual_seed(3))
    assert noise.shape == (3, 162, 91)
    assert F.conv2d(noise[None], map_.weight, stride=(4, 3)).abs().max() < 1e-12
    assert not noise[:, 160:].any()
    assert not noise[:, :, 90:].any()
    coefficients = map_.patchify(noise) @ nullspace.basis.flatten(1).mT
    torch.testing.assert_close(coefficients.std(0), torch.ones(nullspace.nullity).double(), rtol=0.1, atol=0)
    assert torch.equal(noise, sample_null(nullspace.basis, (162, 91), torch.Generator().manual_seed(3)))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_patchify_agrees_with_unfold_and_is_undone(c: int, rh: int, rw: int, dh: int, dw: int, batched: bool) -> None:
    map_ = PatchMap(torch.zeros(1, c, rh, rw, dtype=torch.float64), (1.0,) * c, 1e-7)
    image = torch.rand(*([2, 2] if batched else []), c, rh + dh, rw + dw)
    patches = map_.patchify(image)
    flat = image.reshape(-1, *image.shape[-3:])
    oracle = F.unfold(flat, (rh, rw), stride=(rh, rw)).mT
    assert torch.equal(patches.reshape(oracle.shape), oracle)
    assert torch.equal(map_.unpatchify(patches, image), image)
    changed = map_.unpatchify(patches + 1, image)
    gh, gw = (rh + dh) // rh * rh, (rw + dw) // rw * rw
    assert torch.equal(changed[..., :gh, :gw], image[..., :gh, :gw] + 1)
    assert torch.equal(changed[..., gh:, :], image[..., gh:, :])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tolerance_follows_the_stored_precision(dtype: torch.dtype) -> None:
    """A rank deficiency that storage has blurred is still seen: rows 6 to 10 repeat rows 1 to 5 up to rounding."""
    weight = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = torch.cat([weight, weight.flip(0) * 0.7 + weight * 0.1])
    map_ = PatchMap.from_weight(mixed.to(dtype).float(), STD)
    assert map_.stored_eps == torch.finfo(dtype).eps
    assert map_.nullspace("normalized").rank == 5
    assert map_.nullspace("normalized", 0.0).rank == 10


def test_space_matters() -> None:
    map_ = patch_map()
    pixel, normalized = map_.nullspace("pixel"), map_.nullspace("normalized")
    std = torch.tensor(STD, dtype=torch.float64)[:, None, None]
    moved = normalized.basis * std  # a normalised delta in pixels
    torch.testing.assert_close(pixel.project(moved.flatten(1)), moved.flatten(1))
    assert (map_.matrix("pixel") @ normalized.basis.flatten(1).mT).abs().max() > 0.01
    assert isinstance(pixel, Nullspace)
    np.testing.assert_allclose(pixel.singular_values, torch.linalg.svdvals(map_.matrix("pixel")))
