"""What is looked for, and what is found: pictures with a given view, the model's 8-bit input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from nullspace_cli.engine.preimage.pillow_passes import Levels, View, Window
from nullspace_cli.engine.solvers.resize_projection import DualPoint, ResizeProblem

Bounds = tuple[NDArray[np.uint8] | int, NDArray[np.uint8] | int]
"""The lowest and the highest levels of one channel [H, W]."""


@dataclass(frozen=True)
class PreimageProblem:
    """What is looked for: a picture near `target` whose view is `wanted`, between the bounds.

    Attributes:
        source: a picture whose view is `wanted`, blended to where the target cannot be had; None if there is none.
        lower, upper: both numbers, or both of the picture's shape.
        strayed: given a picture, which values of its view another reader gets wrong by too much; under these, too, the
            target is blended to the source.
    """

    target: Levels
    wanted: View
    source: Levels | None
    lower: Levels | int = 0
    upper: Levels | int = 255
    strayed: Callable[[Levels], Bool[NDArray[np.bool_], "h c w"]] | None = None

    def astray(self, pixels: Levels) -> Bool[NDArray[np.bool_], "h c w"]:
        """As of `strayed`; nothing where there is no other reader."""
        return np.zeros(self.wanted.shape, bool) if self.strayed is None else self.strayed(pixels)

    def part(self, window: Window, values: Window) -> "PreimageProblem":
        """The problem of a window of pixels, in which all lie that some values of the view read."""
        (rows, columns), (down, across) = window, values

        def cut(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
            return np.ascontiguousarray(levels[rows, :, columns])

        def strayed(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
            return self.astray(framed(pixels, window, self.within_bounds))[down, :, across]

        lower, upper = (bound if isinstance(bound, int) else cut(bound) for bound in (self.lower, self.upper))
        return PreimageProblem(
            cut(self.target),
            self.wanted[down, :, across],
            None if self.source is None else cut(self.source),
            lower,
            upper,
            None if self.strayed is None else strayed,
        )

    @property
    def within_bounds(self) -> Levels:
        """The target within the bounds: what a picture is where nothing reads it."""
        return self.target if isinstance(self.lower, int) else np.clip(self.target, self.lower, self.upper)

    @property
    def fixed(self) -> Bool[NDArray[np.bool_], "H c W"]:
        """Which pixels cannot change."""
        return np.broadcast_to(np.equal(self.lower, self.upper), self.target.shape)

    def bounds_of(self, channel: int) -> Bounds:
        lower, upper = (bound if isinstance(bound, int) else bound[:, channel] for bound in (self.lower, self.upper))
        return lower, upper


class Rounded(NamedTuple):
    """A picture in whole levels.

    Attributes:
        pixels: uint8 [H, c, W].
        wrong: which values of its view are not the wanted ones.
    """

    pixels: Levels
    wrong: Bool[NDArray[np.bool_], "h c w"]


class Projected(NamedTuple):
    """The exact projection that a picture was rounded from.

    Attributes:
        target: of the whole picture.
        projection, solution: of the pixels in `window`; around it the projection is the target.
    """

    target: Levels
    projection: ResizeProblem
    solution: DualPoint
    window: Window

    def unrounded(self) -> Float[NDArray[np.float32], "H c W"]:
        """The exact projection, in levels."""
        return self._projected(np.dtype(np.float32))

    def nearest(self) -> Levels:
        """The exact projection, each value rounded for itself."""
        return self._projected(np.dtype(np.uint8))

    def _projected(self, kind: np.dtype[Any]) -> NDArray[Any]:
        image = self.target.astype(kind)
        rows, columns = self.window
        for strip, _, z in self.projection.images(self.solution.y):
            values = z.cpu().numpy() if kind.kind == "f" else z.round().cpu().numpy()
            part = image[rows.start + strip.start : rows.start + strip.stop, :, columns]
            part[:] = values.reshape(part.shape)
        return image


class Preimage(NamedTuple):
    """A picture found.

    Attributes:
        pixels: uint8 [H, c, W].
        wrong: which values of its view are not the wanted ones.
        projected: what it was rounded from, with the target that was aimed at in the end, blended to the source in
            places.
    """

    pixels: Levels
    wrong: Bool[NDArray[np.bool_], "h c w"]
    projected: Projected

    def within(self, problem: PreimageProblem, values: Window) -> "Preimage":
        """The same of the whole problem, of which it was found for some values alone."""
        (down, across), window = values, self.projected.window
        wrong = np.zeros(problem.wanted.shape, bool)
        wrong[down, :, across] = self.wrong
        target = framed(self.projected.target, window, problem.target)
        pixels = framed(self.pixels, window, problem.within_bounds)
        return Preimage(pixels, wrong, self.projected._replace(target=target))


def framed(part: NDArray[np.uint8], window: Window, around: Levels) -> Levels:
    """A picture with the window of another in it."""
    rows, columns = window
    whole = around.copy()
    whole[rows, :, columns] = part
    return whole


def halved(source: Levels, target: Levels) -> Levels:
    """The target half as far from the source; a level away, it is the source."""
    change = target.astype(np.int16) - source
    return (source + np.sign(change) * (np.abs(change) // 2)).astype(np.uint8)
