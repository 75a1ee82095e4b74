"""Rounding whole images to the levels of a file in the metric of a map of images, so that A z hardly moves.

As in `metric_rounding`, J(q) = ||A (q - z)||^2 + delta ||q - z||^2 shall be small. The image is cut into tiles, whose
entries are rounded together, in the metric of the outputs that read the tile. Let e = A (q - z) be the error of what is
rounded already. A tile's part of J is then (q - c)^T H (q - c) and what it cannot change, with H = A^T A + delta I of
the tile and c = z - H^-1 A^T e: each tile makes up for the errors of those before it. Tiles that share no output are
rounded side by side, and those that outputs read alike have one metric.
"""

from itertools import product
from math import lcm
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.solvers.image_map import ImageMap
from nullspace_cli.engine.solvers.metric_rounding import MetricRounding
from nullspace_cli.engine.solvers.readings import Reading, readings

SIDE, LARGEST = 16, 32
"""Pixels of a tile's side, the next multiple of all strides: at least, and at most, as a metric grows with its fourth
power."""

KINDS = 16
"""Most metrics: strides and edges make 9; a resize within the network may make one of every tile."""


Kind = tuple[object, object]
"""What tiles that are read alike have in common, down and across."""


class Tile(NamedTuple):
    """Pixels `start` to `stop` along one axis, the outputs of each branch that read them, and how."""

    start: int
    stop: int
    outputs: tuple[frozenset[int], ...]
    parts: tuple[Reading, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for tiles that are read alike."""
        return tuple((*part.shape, part.cpu().contiguous().numpy().tobytes()) for part in self.parts)


class TileRounding:
    """Rounds images of one size, in the dtype and on the device of the map's tensors."""

    def __init__(self, image_map: ImageMap) -> None:
        self._map = image_map
        found = [readings(branch, image_map.input_size[1:]) for branch in image_map.branches]
        self._axes = tuple(
            _tiles([pair[axis] for pair in found], _side([branch.stride[axis] for branch in image_map.branches]))
            for axis in (0, 1)
        )
        self._kinds = tuple([tile.key for tile in tiles] for tiles in self._axes)
        self._metrics: dict[Kind, MetricRounding | None] = {}

    @property
    def suits(self) -> bool:
        """Whether tiles are small, and few enough of them differ."""
        down, across = (len(set(kinds)) for kinds in self._kinds)
        return down * across <= KINDS and max(tiles[0].stop for tiles in self._axes) <= LARGEST

    def round(
        self, z: Float[Tensor, "b c h w"], lower: Float[Tensor, "b c h w"], upper: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Images q on the grid k / 255 near z, within the bounds, with A (q - z) no larger than that of the nearest."""
        nearest = torch.where(lower == upper, z, (z * 255).round() / 255)
        q = self._rounded(z, nearest, lower, upper)
        errors = [self._map.forward(rounded - z).norm(dim=1) for rounded in (q, nearest)]
        return torch.where((errors[0] < errors[1])[:, None, None, None], q, nearest)

    def _rounded(self, z: Tensor, nearest: Tensor, lower: Tensor, upper: Tensor) -> Float[Tensor, "b c h w"]:
        q = z.clone()
        periods = tuple(_apart(tiles) for tiles in self._axes)
        for first in product(*(range(period) for period in periods)):
            pull = self._map.adjoint(self._map.forward(q - z))
            kinds: dict[Kind, list[tuple[slice, slice]]] = {}
            for i in range(first[0], len(self._axes[0]), periods[0]):
                for j in range(first[1], len(self._axes[1]), periods[1]):
                    down, across = self._axes[0][i], self._axes[1][j]
                    place = slice(down.start, down.stop), slice(across.start, across.stop)
                    kind: Kind = (self._kinds[0][i], self._kinds[1][j])
                    if self._metric(kind, down, across):
                        kinds.setdefault(kind, []).append(place)
                    else:  # nothing reads it
                        q[:, :, *place] = nearest[:, :, *place]
            for alike, places in kinds.items():
                parts = [torch.stack([part[:, :, *place] for place in places], 1) for part in (z, pull, lower, upper)]
                flat = [part.flatten(2).flatten(0, 1) for part in parts]
                metric = self._metrics[alike]
                assert metric is not None
                done = metric.round(flat[0], pull=flat[1], lower=flat[2], upper=flat[3])
                for place, tile in zip(places, done.view(parts[0].shape).unbind(1), strict=True):
                    q[:, :, *place] = tile
        return q

    def _metric(self, kind: Kind, down: Tile, across: Tile) -> MetricRounding | None:
        """Of a kind of tiles; None where nothing reads it."""
        if kind not in self._metrics:
            rows = [
                torch.einsum("dcuv,iup,jvq->dijcpq", branch.kernel, part, other).flatten(3).flatten(0, 2)
                for branch, part, other in zip(self._map.branches, down.parts, across.parts, strict=True)
            ]
            A = torch.cat(rows)
            self._metrics[kind] = MetricRounding.of(A) if bool(A.any()) else None
        return self._metrics[kind]


def _side(strides: list[int]) -> int:
    step = lcm(*strides)
    return step * -(-SIDE // step)


def _tiles(found: list[Reading], side: int) -> list[Tile]:
    pixels = found[0].shape[2]
    tiles = []
    for start in range(0, pixels, side):
        stop = min(start + side, pixels)
        parts = [reading[:, :, start:stop] for reading in found]
        read = [(part != 0).flatten(1).any(1) for part in parts]
        outputs = tuple(frozenset(torch.nonzero(some)[:, 0].tolist()) for some in read)
        tiles.append(Tile(start, stop, outputs, tuple(part[some] for part, some in zip(parts, read, strict=True))))
    return tiles


def _apart(tiles: list[Tile]) -> int:
    """The least distance from which on no two tiles share an output."""
    for period in range(1, len(tiles)):
        pairs = zip(tiles, tiles[period:], strict=False)
        if all(one.isdisjoint(other) for a, b in pairs for one, other in zip(a.outputs, b.outputs, strict=True)):
            return period
    return len(tiles)
