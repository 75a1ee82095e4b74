"""Maps of whole images: against scipy's correlation, and the adjoint against the matrix itself."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from nullspace_cli.engine.solvers.image_map import Branch, ImageMap, Resize


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


BRANCHES = {
    "patches": Branch(normal(5, 3, 4, 4), (4, 4)),
    "overlapping": Branch(normal(4, 3, 3, 5), (2, 3), (1, 1, 2, 2)),
    "one side": Branch(normal(4, 3, 3, 3), (2, 2), (0, 1, 0, 1)),
    "cropped": Branch(normal(4, 3, 3, 3), (2, 2), (-1, 0, -2, 1)),
    "gaps": Branch(normal(2, 3, 2, 2), (5, 4)),
    "resized": Branch(normal(4, 3, 3, 3), (2, 2), (1, 1, 1, 1), Resize(normal(9, 11), normal(7, 10))),
}
SIZE = (3, 11, 10)


@pytest.mark.parametrize("name", BRANCHES)
def test_branch_is_the_correlation_it_says(name: str) -> None:
    branch, (top, bottom, left, right) = BRANCHES[name], BRANCHES[name].padding
    image = normal(*SIZE).numpy()
    if branch.resize:
        image = branch.resize.rows.numpy() @ image @ branch.resize.cols.numpy().T
    image = np.pad(image, ((0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))))
    image = image[:, max(-top, 0) :, max(-left, 0) :]
    down, across = branch.stride
    expected = [correlate(image, kernel.numpy(), "valid")[0, ::down, ::across] for kernel in branch.kernel]
    found = branch.forward(normal(*SIZE)[None])[0]
    assert tuple(found.shape) == branch.output_size(SIZE[1:])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_adjoint_is_the_transpose() -> None:
    image_map = ImageMap(tuple(BRANCHES.values()), SIZE)
    identity = torch.eye(image_map.inputs, dtype=torch.float64).unflatten(1, SIZE)
    matrix = image_map.forward(identity).T
    assert matrix.shape == (image_map.outputs, image_map.inputs)
    assert image_map.outputs == sum(d * h * w for d, h, w in image_map.output_sizes)
    back = image_map.adjoint(torch.eye(image_map.outputs, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(back, matrix, atol=1e-12, rtol=0)
