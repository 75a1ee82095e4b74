"""First layers of every kind, small enough for their whole matrix: what hypothesis draws, and the matrix."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from nullspace_cli.engine.solvers.image_map import Branch, ImageMap, Resize

RTOL = 1e-9
"""Singular values below this share count as zero; none of those drawn lies near it but by rounding."""


class DrawnBranch(NamedTuple):
    """Overlap or gaps, zeros around or pixels left out, kernels that repeat or are zero, a resize or none."""

    seed: int
    kernels: int
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    resized: tuple[int, int] | None
    repeated: float | None

    def built(self, channels: int, size: tuple[int, int]) -> Branch:
        dice = np.random.default_rng(self.seed)
        kernel = dice.normal(size=(self.kernels, channels, *self.window))
        if self.repeated is not None:
            kernel[-1] = self.repeated * kernel[0]
        resize = None
        if self.resized:
            full = (dice.uniform(0.2, 1, shape) for shape in zip(self.resized, size, strict=True))
            resize = Resize(*(torch.from_numpy(np.triu(np.tril(axis, 2), -1)) for axis in full))
        return Branch(torch.from_numpy(kernel), self.stride, self.padding, resize)


class DrawnMap(NamedTuple):
    """What a map is made of; made outside of hypothesis, which allows no checks of shapes while it draws."""

    input_size: tuple[int, int, int]
    branches: list[DrawnBranch]

    def built(self) -> ImageMap:
        channels, *size = self.input_size
        return ImageMap(tuple(branch.built(channels, (size[0], size[1])) for branch in self.branches), self.input_size)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


BRANCHES = st.builds(
    DrawnBranch,
    seed=st.integers(0, 2**32 - 1),
    kernels=st.integers(1, 6),
    window=pairs(1, 4),
    stride=pairs(1, 4),
    padding=st.tuples(*[st.integers(-1, 2)] * 4),
    resized=st.none() | st.none() | pairs(6, 8),
    repeated=st.sampled_from([None, None, 0.0, 0.5]),
)

MAPS = st.builds(
    DrawnMap,
    input_size=st.tuples(st.sampled_from([1, 3]), st.integers(6, 9), st.integers(6, 9)),
    branches=st.lists(BRANCHES, min_size=1, max_size=2),
).filter(lambda drawn: any(branch.kernels > 1 or branch.repeated is None for branch in drawn.branches))
"""Those that read something."""


def matrix_of(image_map: ImageMap) -> NDArray[np.float64]:
    """A [outputs, inputs], column by column."""
    identity = torch.eye(image_map.inputs, dtype=torch.float64).unflatten(1, image_map.input_size)
    return image_map.forward(identity).T.numpy()


def null_projector(image_map: ImageMap) -> NDArray[np.float64]:
    """Onto the nullspace of A, by a dense singular value decomposition."""
    _, sigma, rows = np.linalg.svd(matrix_of(image_map))
    read = rows[: int((sigma > RTOL * sigma[0]).sum())]
    return np.eye(rows.shape[1]) - read.T @ read
