"""What is looked for, and what is found: pictures with a given view, the model's 8-bit input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from nullspace_cli.engine.preimage.pillow_passes import Levels, View
from nullspace_cli.engine.solvers.resize_projection import DualPoint, ResizeProblem


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

    @property
    def fixed(self) -> Bool[NDArray[np.bool_], "H c W"]:
        """Which pixels cannot change."""
        return np.broadcast_to(np.equal(self.lower, self.upper), self.target.shape)

    def bounds_of(self, channel: int) -> tuple[NDArray[np.uint8] | int, NDArray[np.uint8] | int]:
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


class Preimage(NamedTuple):
    """A picture found.

    Attributes:
        pixels: uint8 [H, c, W].
        wrong: which values of its view are not the wanted ones.
        target: the target that was aimed at in the end, blended to the source in places.
        projection, solution: the exact projection that the picture was rounded from.
    """

    pixels: Levels
    wrong: Bool[NDArray[np.bool_], "h c w"]
    target: Levels
    projection: ResizeProblem
    solution: DualPoint


def halved(source: Levels, target: Levels) -> Levels:
    """The target half as far from the source; a level away, it is the source."""
    change = target.astype(np.int16) - source
    return (source + np.sign(change) * (np.abs(change) // 2)).astype(np.uint8)
