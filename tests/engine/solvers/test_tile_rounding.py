"""Rounding whole images by tiles: by the dense matrix, and as rounding by patches where tiles are patches."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.nullspace.patches import patchify
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap, Resize
from nullspace_cli.engine.solvers.metric_rounding import MetricRounding
from nullspace_cli.engine.solvers.tile_rounding import TileRounding
from tests.stems import matrix_of


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def a_map(*branches: Branch, size: tuple[int, int, int] = (1, 40, 36)) -> ImageMap:
    return ImageMap(branches, size)


def bounds(z: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(z), torch.ones_like(z)


MAPS = {
    "overlapping": a_map(Branch(random(4, 1, 8, 8) - 0.5, (4, 4))),
    "zeros around": a_map(Branch(random(2, 1, 3, 3) - 0.5, (2, 2), (1, 1, 1, 1))),
    "two branches, a corner that none reads": a_map(
        Branch(random(4, 1, 8, 8) - 0.5, (8, 4)), Branch(random(3, 1, 4, 4) - 0.5, (4, 4), (-20, 0, 0, -20))
    ),
}


@pytest.mark.parametrize(
    ("name", "share"),
    [("overlapping", 0.21), ("zeros around", 0.31), ("two branches, a corner that none reads", 0.165)],
)
def test_what_is_read_moves_far_less(name: str, share: float, device: torch.device) -> None:
    """Tiles that knew nothing of each other's errors would leave 0.23, 0.33 and 0.172."""
    image_map = MAPS[name]
    z = random(2, *image_map.input_size, seed=1)
    on = z.to(device)
    tiles = TileRounding(image_map.to(device))
    assert tiles.suits
    q = tiles.round(on, *bounds(on)).cpu()
    assert torch.equal(q * 255, (q * 255).round())
    assert 0 <= q.min() <= q.max() <= 1
    A = matrix_of(image_map)
    ours, nearest = (
        np.linalg.norm((rounded - z).flatten(1).numpy() @ A.T, axis=1) for rounded in (q, (z * 255).round() / 255)
    )
    assert (ours < share * nearest).all()
    assert (q - z).abs().mean() < 1 / 255


def test_tiles_that_are_patches_are_rounded_as_patches() -> None:
    kernel, z = random(6, 1, 16, 16) - 0.5, random(1, 1, 32, 48, seed=1)
    q = TileRounding(a_map(Branch(kernel, (16, 16)), size=(1, 32, 48))).round(z, *bounds(z))
    expected = MetricRounding.of(kernel.flatten(1)).round(patchify(z, (16, 16))[0])
    torch.testing.assert_close(patchify(q, (16, 16))[0], expected, atol=1e-12, rtol=0)


def test_what_is_fixed_stays() -> None:
    image_map, z = MAPS["overlapping"], random(1, 1, 40, 36, seed=1)
    lower, upper = bounds(z)
    lower[..., :5], upper[..., :5] = z[..., :5], z[..., :5]
    q = TileRounding(image_map).round(z, lower, upper)
    assert torch.equal(q[..., :5], z[..., :5])
    assert torch.equal(q[..., 5:] * 255, (q[..., 5:] * 255).round())


def test_what_would_take_too_many_or_too_large_metrics() -> None:
    resize = Resize(random(90, 100), random(90, 100, seed=1))
    assert not TileRounding(a_map(Branch(random(2, 1, 3, 3), (3, 3), resize=resize), size=(1, 100, 100))).suits
    strides = Branch(random(2, 1, 12, 12), (12, 12)), Branch(random(2, 1, 16, 16), (16, 16))
    assert not TileRounding(a_map(*strides, size=(1, 96, 96))).suits
