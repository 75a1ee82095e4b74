"""A strided convolution whose image closes to a torus, its circular twin: one small matrix for each frequency.

An image of m s x n s pixels under a convolution of stride s gives m x n outputs. In the frequencies of the outputs the
map is block diagonal: the kernel's spectrum at the s^2 frequencies that the stride folds onto one (its phases) is a
block [d, c s^2]. All singular values of the twin are those of the blocks (Sedghi et al. 2019; with strides Senderovich
et al. 2022), and A A^T is inverted block by block.
"""

from collections.abc import Iterator
from math import pi, prod

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.solvers.image_map import Branch, ImageMap

Grid = tuple[int, int]
"""Outputs down and across."""


def circulant_gram(branch: Branch, grid: Grid) -> Complex[Tensor, "m half d d"]:
    """A A^T of the twin with `grid` outputs, at the frequencies of a real transform; a resize is left out of it.

    Of the outputs at i and i' it depends on n = i - i' alone: sum_u W_d[u] W_d'[u + n s].
    """
    kernel, stride = branch.kernel, branch.stride
    down, across = ((size - 1) // step for size, step in zip(kernel.shape[2:], stride, strict=True))
    around = (across * stride[1],) * 2 + (down * stride[0],) * 2
    stencil = F.conv2d(F.pad(kernel, around), kernel, stride=stride).transpose(0, 1)
    return torch.fft.rfft2(_on_a_torus(stencil, grid, (-down, -across))).permute(2, 3, 0, 1)


def polyphase(branch: Branch, grid: Grid) -> Iterator[Complex[Tensor, "n d phases"]]:
    """The twin itself with `grid` outputs, [d, c s^2] at each frequency: row by row of them; a resize is left out."""
    (m, n), (down, across) = grid, branch.stride
    kernel = branch.kernel.to(torch.complex128)

    def waves(frequencies: Tensor, pixels: int, window: int) -> Complex[Tensor, "_frequencies _window"]:
        turns = torch.outer(frequencies, torch.arange(window, device=kernel.device)) % pixels
        return torch.exp(-2j * pi / pixels * turns.double())

    steps = torch.arange(n * across, device=kernel.device)
    along = torch.einsum("dcuv,fv->dcuf", kernel, waves(steps, n * across, kernel.shape[3]))
    for i in range(m):
        folded = i + m * torch.arange(down, device=kernel.device)
        spectrum = torch.einsum("dcuf,au->dcaf", along, waves(folded, m * down, kernel.shape[2]))
        blocks = spectrum.unflatten(3, (across, n))  # [d, c, down, across, n]
        yield blocks.permute(4, 0, 1, 2, 3).flatten(2) / (down * across) ** 0.5


class CirculantInverse:
    """(A A^T)^-1 as the twin has it, on a torus a little larger than the outputs, where opposite edges do not meet.

    Args:
        grid: the outputs, down and across.
        floor: what is added to A A^T of the twin, as a share of its largest eigenvalue: a twin may be singular at a
            frequency where the map itself is not.
    """

    def __init__(self, branch: Branch, grid: Grid, floor: float = 1e-9) -> None:
        self._grid, self._torus = grid, _apart(branch, grid)
        gram = circulant_gram(branch, self._torus)
        largest = _largest(gram)
        one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        self._inverse = torch.linalg.inv(gram + (floor * largest).clamp_min(torch.finfo(one.real.dtype).tiny) * one)

    def __call__(self, outputs: Float[Tensor, "b d oh ow"]) -> Float[Tensor, "b d oh ow"]:
        spectrum = torch.fft.rfft2(outputs, s=self._torus).permute(2, 3, 1, 0)
        solved = torch.fft.irfft2((self._inverse @ spectrum).permute(3, 2, 0, 1), s=self._torus)
        return solved[..., : self._grid[0], : self._grid[1]]


def norm_bound(image_map: ImageMap) -> float:
    """No less than the largest singular value of A, and not much more where there is one branch, or none overlaps.

    A convolution without a resize is its twin on a torus large enough, less outputs and pixels.
    """
    squares = []
    for branch, (_, *grid) in zip(image_map.branches, image_map.output_sizes, strict=True):
        largest = _largest(circulant_gram(branch, _apart(branch, (grid[0], grid[1]))))
        axes = (branch.resize.rows, branch.resize.cols) if branch.resize else ()
        squares.append(float(largest) * prod(float(torch.linalg.matrix_norm(axis, 2)) ** 2 for axis in axes))
    return sum(squares) ** 0.5


def _apart(branch: Branch, grid: Grid) -> Grid:
    """A torus on which outputs at opposite edges of the grid share no pixel."""
    reach = [(size - 1) // step for size, step in zip(branch.kernel.shape[2:], branch.stride, strict=True)]
    more = 4 * max(1, *reach)
    return grid[0] + more, grid[1] + more


def _largest(gram: Complex[Tensor, "m half d d"]) -> Float[Tensor, ""]:
    """No less than the largest eigenvalue at any frequency, and at most d^(1/8) times that."""
    square = gram @ gram
    return torch.linalg.matrix_norm(square @ square).max() ** 0.25


def _on_a_torus(stencil: Float[Tensor, "a b kh kw"], size: Grid, first: Grid) -> Float[Tensor, "a b m n"]:
    """Entries at first, first + 1, ... of each axis, on axes that close after `size`; those that meet add up."""
    for axis in (0, 1):
        places = torch.arange(stencil.shape[2 + axis], device=stencil.device).add(first[axis]).remainder(size[axis])
        shape = [*stencil.shape]
        shape[2 + axis] = size[axis]
        stencil = stencil.new_zeros(shape).index_add_(2 + axis, places, stencil)
    return stencil
