"""The circular twin against its whole matrix, column by column."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullspace_cli.engine.solvers.image_map import Branch
from nullspace_cli.engine.solvers.polyphase import CirculantInverse, circulant_gram, polyphase

GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 5))


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 5), st.integers(1, 5))
STRIDES = st.tuples(st.integers(1, 3), st.integers(1, 3))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def twin(branch: Branch, grid: tuple[int, int]) -> np.ndarray:
    """Its matrix: at each output the kernel, written onto the torus pixel by pixel."""
    d, c, kh, kw = branch.kernel.shape
    (m, n), (down, across) = grid, branch.stride
    matrix = np.zeros((d, m, n, c, m * down, n * across))
    for i, j, u, v in np.ndindex(m, n, kh, kw):
        matrix[:, i, j, :, (i * down + u) % (m * down), (j * across + v) % (n * across)] += branch.kernel[
            :, :, u, v
        ].numpy()
    return matrix.reshape(d * m * n, -1)


@given(SHAPES, STRIDES, GRIDS)
@settings(max_examples=25, deadline=None)
def test_singular_values_are_those_of_the_blocks(
    shape: tuple[int, ...], stride: tuple[int, int], grid: tuple[int, int]
) -> None:
    branch = Branch(normal(*shape), stride)
    matrix = twin(branch, grid)
    ours = np.sort(torch.linalg.svdvals(torch.stack([*polyphase(branch, grid)])).flatten())
    np.testing.assert_allclose(ours, np.sort(np.linalg.svd(matrix, compute_uv=False)), atol=1e-10)


@given(SHAPES, STRIDES, GRIDS)
@settings(max_examples=25, deadline=None)
def test_the_gram_is_the_twins(shape: tuple[int, ...], stride: tuple[int, int], grid: tuple[int, int]) -> None:
    branch = Branch(normal(*shape), stride)
    matrix = twin(branch, grid)
    outputs = normal(2, len(branch.kernel), *grid)
    spectrum = circulant_gram(branch, grid) @ torch.fft.rfft2(outputs).permute(2, 3, 1, 0)
    ours = torch.fft.irfft2(spectrum.permute(3, 2, 0, 1), s=grid).flatten(1)
    np.testing.assert_allclose(ours, outputs.flatten(1).numpy() @ (matrix @ matrix.T), atol=1e-9)


def test_the_inverse_is_that_of_a_larger_torus() -> None:
    branch = Branch(normal(3, 3, 4, 4), (3, 3))
    inverse, outputs = CirculantInverse(branch, (4, 5), floor=0.0), normal(1, 3, 4, 5)
    matrix = twin(branch, (8, 9))
    padded = torch.nn.functional.pad(outputs, (0, 4, 0, 4)).flatten()
    expected = np.linalg.solve(matrix @ matrix.T, padded.numpy()).reshape(3, 8, 9)[:, :4, :5]
    np.testing.assert_allclose(inverse(outputs)[0], expected, atol=1e-10)
