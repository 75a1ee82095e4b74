"""The integer against a dense singular value decomposition, by both proofs, and the estimate against the integer."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nullspace_cli.engine.nullspace.independent_kernels import independent_kernels
from nullspace_cli.engine.nullspace.nullity import estimate_nullity, find_nullity
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap, Resize
from nullspace_cli.engine.solvers.null_projection import NullProjection
from nullspace_cli.engine.solvers.row_inertia import output_rows, pixel_rows
from nullspace_cli.engine.solvers.staircase import rank_bounds
from tests.stems import MAPS, RTOL, DrawnMap, matrix_of


def rank_of(image_map: ImageMap) -> int:
    """Of what is drawn so that no singular value is near to zero without being it."""
    sigma = np.linalg.svd(matrix_of(image_map), compute_uv=False)
    assume(not ((sigma > 1e-10 * sigma[0]) & (sigma < 1e-4 * sigma[0])).any())
    return int((sigma > 1e-4 * sigma[0]).sum())


@given(MAPS)
@settings(max_examples=25, deadline=None)
def test_it_is_the_dense_one(drawn: DrawnMap) -> None:
    image_map = drawn.built()
    rank = rank_of(image_map)
    reduced = independent_kernels(image_map, RTOL)
    bounds = rank_bounds(reduced)
    assert bounds.lower <= rank <= bounds.upper
    found = find_nullity(image_map, RTOL)
    assert found.nullity == image_map.inputs - rank
    assert found.proof == ("staircase" if bounds.lower == bounds.upper else "inertia")


@given(MAPS, st.floats(1e-4, 0.95))
@settings(max_examples=25, deadline=None)
def test_singular_values_above_any_bound(drawn: DrawnMap, share: float) -> None:
    image_map = drawn.built()
    sigma = np.linalg.svd(matrix_of(image_map), compute_uv=False)
    bound = share * sigma[0]
    assume(sigma[0] > 0 and not (np.abs(sigma - bound) < 1e-6 * bound).any())
    for rows in (output_rows(image_map), pixel_rows(image_map)):
        assert rows.count(bound**2) == (sigma > bound).sum()


def test_rounding_does_not_grow_from_row_to_row() -> None:
    image_map = ImageMap((Branch(normal(8, 3, 3, 3), (2, 2), (1, 1, 1, 1)),), (3, 120, 6))
    sigma = np.linalg.svd(matrix_of(image_map), compute_uv=False)
    for share in (0.1, 0.2, 0.4):
        assert pixel_rows(image_map).count((share * sigma[0]) ** 2) == (sigma > share * sigma[0]).sum()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


STEMS = {
    "PiT": ImageMap((Branch(normal(64, 3, 16, 16), (8, 8)),), (3, 224, 224)),
    "PVT": ImageMap((Branch(normal(32, 3, 7, 7), (4, 4), (3, 3, 3, 3)),), (3, 224, 224)),
    "LCNet": ImageMap((Branch(normal(8, 3, 3, 3), (2, 2), (1, 1, 1, 1)),), (3, 224, 224)),
    "ResNet": ImageMap((Branch(normal(64, 3, 7, 7), (2, 2), (3, 3, 3, 3)),), (3, 224, 224)),
    "patches": ImageMap((Branch(normal(192, 3, 16, 16), (16, 16)),), (3, 229, 224)),
}


@pytest.mark.parametrize(
    ("name", "nullity"),
    [
        ("PiT", 3 * 224**2 - 64 * 27**2),
        ("PVT", 3 * 224**2 - 32 * 56**2),
        ("LCNet", 3 * 224**2 - 8 * 112**2),
        ("ResNet", 0),
        ("patches", 3 * 229 * 224 - 192 * 14**2),
    ],
)
def test_at_full_size_it_is_what_counting_says(name: str, nullity: int) -> None:
    found = find_nullity(STEMS[name], 1e-7)
    assert found.proof == "staircase"
    assert found.nullity == nullity
    assert found.threshold > 1e-7


def test_two_grids_that_do_not_agree() -> None:
    """As CrossViT's: patches of the image, and others of the image resized; free is what neither reads."""
    resize = torch.nn.functional.interpolate(torch.eye(40)[None].double(), 28, mode="linear")[0].mT
    small, large = (
        Branch(normal(20, 3, 5, 5), (5, 5)),
        Branch(normal(30, 3, 7, 7), (7, 7), resize=Resize(resize, resize)),
    )
    found = find_nullity(ImageMap((small, large), (3, 40, 40)), 1e-7)
    assert (found.proof, found.nullity) == ("staircase", 3 * 40**2 - 20 * 8**2 - 30 * 4**2)


def test_zeros_around_can_make_outputs_depend() -> None:
    """At the corner 12 kernels read 3 pixels of a channel: outputs less than inputs, and still not independent."""
    image_map = ImageMap((Branch(normal(12, 2, 3, 3), (4, 4), (2, 0, 2, 0)),), (2, 16, 16))
    rank = np.linalg.matrix_rank(matrix_of(image_map))
    found = find_nullity(image_map, 1e-7)
    assert rank < image_map.outputs < image_map.inputs
    assert found.rank == rank


def test_the_estimate_is_within_its_error() -> None:
    image_map = ImageMap((Branch(normal(8, 3, 3, 3), (2, 2), (1, 1, 1, 1)),), (3, 32, 32))
    estimate = estimate_nullity(NullProjection(image_map), 20, torch.Generator().manual_seed(0))
    nullity = find_nullity(image_map, 1e-7).nullity
    assert abs(estimate.nullity - nullity) < 3 * estimate.standard_error
    assert estimate.standard_error < 0.02 * nullity
