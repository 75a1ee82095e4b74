"""The kernel and the layout of whatever was computed from an image, if it is a convolution in some order.

Unfolds, fixed transforms and patches that are laid out as tokens give the same when the image moves by their stride. So
the gradient of one place's numbers is the kernel, and how it shifts from one place to the next is the stride.
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.solvers.image_map import Branch

EXACT = 1e-11
"""By which tensors in float64 may differ, relative to the largest entry, and still be said to be the same."""
MAX_CHANNELS = 8192
"""Of one place. What has more is not the same at every place, but different everywhere."""


@dataclass(frozen=True)
class Arrangement:
    """Where the numbers of a branch's output are in a layer's output.

    Attributes:
        channel: the dimension of the layer's output that goes last.
        split: what it is reshaped to then.
        order: how that is permuted.
        size: (d, oh, ow), the branch's output.
    """

    channel: int
    split: tuple[int, ...]
    order: tuple[int, ...]
    size: tuple[int, int, int]

    def __call__(self, output: Tensor) -> Float[Tensor, "d oh ow"]:
        return output.movedim(self.channel, -1).reshape(self.split).permute(self.order).reshape(self.size)


class Reading(NamedTuple):
    """A layer that reads the image, as a branch, and where the branch's outputs are in those of the layer."""

    branch: Branch
    arranged: Arrangement


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors in float64 are the same up to rounding."""
    return a.shape == b.shape and bool((a - b).abs().max() <= EXACT * torch.maximum(a.abs().max(), b.abs().max()))


def probed(
    image: Float[Tensor, "1 c h w"], values: Tensor, channel: int, weight: Float[Tensor, "d n"] | None = None
) -> Reading | None:
    """The branch whose outputs `values` are, if they are such; that they are has to be tested.

    Args:
        image: what `values` were computed from, requiring a gradient.
        channel: the dimension of `values` that holds the different kernels of one place.
        weight: of a pointwise layer on that dimension, which is made part of the branch.
    """
    if not values.requires_grad:
        return None
    places = _Places(image, values.movedim(channel, -1))
    *sizes, n = places.values.shape
    by_axis = places.grid()
    grid = [dim for dim, _ in by_axis.values()]
    others = [dim for dim in range(len(sizes)) if dim not in grid]
    middle = [size // 2 if dim in grid else 0 for dim, size in enumerate(sizes)]
    window = places.window(
        places.values[tuple(middle[dim] if dim in grid else slice(None) for dim in range(len(sizes)))]
    )
    if window is None or prod(sizes[dim] for dim in others) * n > MAX_CHANNELS:
        return None
    kh, kw = window.gradient.shape[1:]
    counts, strides, edges = [], [], []
    for axis, (start, extent, length) in enumerate(zip(window.start, (kh, kw), image.shape[2:], strict=True)):
        dim, stride = by_axis.get(axis, (None, extent))
        count, before = (1, -start) if dim is None else (sizes[dim], middle[dim] * stride - start)
        counts.append(count)
        strides.append(stride)
        edges += [before, (count - 1) * stride + extent - before - length]
    order = (*others, len(sizes), *(by_axis[axis][0] for axis in sorted(by_axis)))
    size = (prod(sizes[dim] for dim in others) * n, counts[0], counts[1])
    by_place = places.values.permute(order).reshape(size)
    kernel = places.kernel(by_place, (strides[0], strides[1]), (edges[0], edges[2]), (kh, kw))
    if weight is not None:
        kernel = torch.einsum("dn,enchw->edchw", weight, kernel.unflatten(0, (-1, n))).flatten(0, 1)
        n, size = len(weight), (len(kernel), counts[0], counts[1])
    branch = Branch(kernel, (strides[0], strides[1]), (edges[0], edges[1], edges[2], edges[3]))
    return Reading(branch, Arrangement(channel, (*sizes, n), order, size))


class _Window(NamedTuple):
    """What a number reads of an image: the smallest rectangle that holds it, and the gradient there."""

    start: tuple[int, int]
    gradient: Float[Tensor, "c kh kw"]


class _Places:
    """Numbers [..., n] of an image; which of their dimensions are places in it, and where these are."""

    def __init__(self, image: Float[Tensor, "1 c h w"], values: Tensor) -> None:
        self.image, self.values = image, values
        self._windows: dict[tuple[int, ...], _Window | None] = {}
        for dim in reversed(range(values.ndim - 1)):
            length = self._row_length(dim)
            if length:
                self.values = self.values.unflatten(dim, (-1, length))
                self._windows.clear()

    def grid(self) -> dict[int, tuple[int, int]]:
        """By axis of the image (0 down, 1 across), the dimension whose places lie along it, and their stride.

        Of several dimensions along one axis (windows, and places in these) it is the one that goes in larger steps.
        """
        found = dict[int, tuple[int, int]]()
        for dim in range(self.values.ndim - 1):
            shift = self._shift(dim, self.values.shape[dim] // 2 - 1)
            if shift is None or min(shift) != 0 or max(shift) <= 0:
                continue
            axis = 0 if shift[0] else 1
            if shift[axis] > found.get(axis, (0, 0))[1]:
                found[axis] = dim, shift[axis]
        return found

    def window(self, values: Tensor) -> _Window | None:
        """What numbers [..., n] read together; None for nothing."""
        # Of the channels all at once, by weights that let no two of them cancel.
        weights = torch.rand(values.shape, generator=torch.Generator().manual_seed(0), dtype=values.dtype) + 0.5
        gradient = self.gradient((values * weights).sum())
        seen = gradient.abs().amax(0)
        rows, columns = seen.amax(1).nonzero()[:, 0], seen.amax(0).nonzero()[:, 0]
        if not len(rows):
            return None
        (top, bottom), (left, right) = ((int(axis[0]), int(axis[-1]) + 1) for axis in (rows, columns))
        return _Window((top, left), gradient[:, top:bottom, left:right])

    def kernel(
        self,
        values: Float[Tensor, "d gh gw"],
        stride: tuple[int, int],
        before: tuple[int, int],
        extent: tuple[int, int],
    ) -> Float[Tensor, "d c kh kw"]:
        """The gradient of each channel in its window, which starts `before` pixels before the place's own.

        Each channel at a place of its own, so many at once as have windows that do not meet and lie in the image.
        """
        free = []
        for axis, length in enumerate(self.image.shape[2:]):
            starts = [(place, place * stride[axis] - before[axis]) for place in range(values.shape[1 + axis])]
            inside = [(place, start) for place, start in starts if 0 <= start <= length - extent[axis]]
            free.append(inside[:: -(-extent[axis] // stride[axis])])
        spots = list(product(*free))
        kernel = self.image.new_zeros(len(values), self.image.shape[1], *extent)
        for channels in torch.arange(len(values)).split(max(len(spots), 1)):
            here = list(zip(channels.tolist(), spots, strict=False))
            gradient = self.gradient(torch.stack([values[d, row, column] for d, ((row, _), (column, _)) in here]).sum())
            for d, ((_, top), (_, left)) in here:
                kernel[d] = gradient[:, top : top + extent[0], left : left + extent[1]]
        return kernel

    def gradient(self, value: Float[Tensor, ""]) -> Float[Tensor, "c h w"]:
        found: Tensor = torch.autograd.grad(value, self.image, retain_graph=True)[0][0]
        return found

    def _at(self, dim: int, place: int) -> _Window | None:
        """What one place of a dimension reads, in the middle of the others."""
        index = [size // 2 for size in self.values.shape[:-1]]
        index[dim] = place
        key = tuple(index)
        if key not in self._windows:
            self._windows[key] = self.window(self.values[key])
        return self._windows[key]

    def _shift(self, dim: int, place: int) -> tuple[int, int] | None:
        """From one place to the next, if both read the same; down and across."""
        if not 0 <= place < self.values.shape[dim] - 1:
            return None
        one, other = self._at(dim, place), self._at(dim, place + 1)
        if one is None or other is None or not same(one.gradient, other.gradient):
            return None
        return other.start[0] - one.start[0], other.start[1] - one.start[1]

    def _row_length(self, dim: int) -> int | None:
        """Of a dimension that goes through all places, row by row or column by column: how many places a row has."""
        count = self.values.shape[dim]
        middle = count // 2
        shifts = [shift for place in (middle - 1, middle) if (shift := self._shift(dim, place)) and 0 in shift]
        if not shifts:
            return None
        across = 1 - next(axis for axis in (0, 1) if shifts[0][axis])

        def beside(place: int) -> bool:
            window, first = self._at(dim, place), self._at(dim, 0)
            return window is not None and first is not None and window.start[across] == first.start[across]

        if beside(middle):
            return None
        low, high = 0, middle  # one in the first row, and one that is not
        while high - low > 1:
            half = (low + high) // 2
            low, high = (half, high) if beside(half) else (low, half)
        return high if count % high == 0 else None
