"""Fewer kernels, the same nullspace: against a dense singular value decomposition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.nullspace.independent_kernels import independent_kernels
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap
from tests.stems import MAPS, RTOL, DrawnMap, null_projector


@given(MAPS)
@settings(max_examples=25, deadline=None)
def test_the_nullspace_stays(drawn: DrawnMap) -> None:
    image_map = drawn.built()
    ours = independent_kernels(image_map, RTOL)
    assert ours.outputs <= image_map.outputs
    np.testing.assert_allclose(null_projector(ours), null_projector(image_map), atol=1e-7)


def test_branches_on_one_grid_become_one() -> None:
    """With their kernels where they were, and those that both have only once."""
    dice = torch.Generator().manual_seed(0)
    small = torch.randn(3, 3, 2, 2, generator=dice, dtype=torch.float64)
    large = torch.randn(4, 3, 5, 4, generator=dice, dtype=torch.float64)
    large[0] = torch.nn.functional.pad(small[0], (1, 1, 2, 1))
    image_map = ImageMap((Branch(small, (2, 2)), Branch(large, (2, 2), (2, 1, 1, 1))), (3, 8, 8))
    ours = independent_kernels(image_map, RTOL)
    (branch,) = ours.branches
    assert ours.output_sizes == ((6, 4, 4),)
    assert branch.padding == (2, 1, 1, 1)
    torch.testing.assert_close(branch.kernel.flatten(1) @ branch.kernel.flatten(1).mT, torch.eye(6).double())
    np.testing.assert_allclose(null_projector(ours), null_projector(image_map), atol=1e-10)


def test_what_reads_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="reads nothing"):
        independent_kernels(ImageMap((Branch(torch.zeros(2, 3, 2, 2), (2, 2)),), (3, 4, 4)), RTOL)
