"""Blocks along edges against the whole A A^T, and where they are."""

import numpy as np
import pytest
import torch

from nullspace_cli.engine.solvers import edge_blocks
from nullspace_cli.engine.solvers.edge_blocks import EdgeBlocks
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap
from tests.stems import matrix_of


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 0, 0), (-1, 2, 0, 1)])
def test_each_is_inverted_whole(padding: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs within DEPTH of a cut one, by squares of side 3."""
    d = 4
    monkeypatch.setattr(edge_blocks, "BLOCK", 3 * 2 * d)
    monkeypatch.setattr(edge_blocks, "DEPTH", 2)
    image_map = ImageMap((Branch(normal(d, 3, 3, 3), (2, 2), padding),), (3, 22, 20))
    ((_, oh, ow),) = image_map.output_sizes
    A = matrix_of(image_map).reshape(d, oh, ow, -1)
    outputs = normal(1, d, oh, ow)
    expected = np.zeros((d, oh, ow))
    cut = [
        [k for k in range(count) if not 0 <= 2 * k - before <= side - 3]
        for count, before, side in ((oh, padding[0], 22), (ow, padding[2], 20))
    ]
    near = np.zeros((oh, ow), dtype=bool)
    for i, j in np.ndindex(oh, ow):
        near[i, j] = any(abs(i - k) < 2 for k in cut[0]) or any(abs(j - k) < 2 for k in cut[1])
    for i in range(0, oh, 3):
        for j in range(0, ow, 3):
            square = np.zeros_like(near)
            square[i : i + 3, j : j + 3] = near[i : i + 3, j : j + 3]
            rows = A[:, square].reshape(-1, A.shape[3])
            if len(rows):
                solved = np.linalg.solve(rows @ rows.T, outputs[0].numpy()[:, square].ravel())
                expected[:, square] = solved.reshape(d, -1)
    blocks = EdgeBlocks(image_map.branches[0], (22, 20))
    assert blocks.any == near.any()
    np.testing.assert_allclose(blocks(outputs)[0], expected, atol=1e-6 * np.abs(expected).max())


def test_where_no_kernel_is_cut_there_are_none() -> None:
    blocks = EdgeBlocks(Branch(normal(4, 3, 4, 4), (2, 2), (-1, 0, 0, 0)), (16, 16))
    assert not blocks.any
    assert not blocks(normal(1, 4, 6, 7)).any()
