"""What a picture should look like: a mark on it, or whatever else."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.files.orientation import UPRIGHT, Orientation
from nullspace_cli.engine.watermark.mark_style import DEFAULT_STRENGTH, GREY, MarkStyle, Period, Tint, target_image
from nullspace_cli.engine.watermark.marks import Mark, Placement


@runtime_checkable
class Aim(Protocol):
    """What a picture should look like, whichever picture it is: a mark on it, or another picture altogether."""

    def target(
        self,
        image: Float[Tensor, "c h w"],
        default: MarkStyle,
        period: Period,
        tint: Tint = GREY,
        turn: Orientation = UPRIGHT,
    ) -> Float[Tensor, "c h w"]:
        """The target image for the source `image` in [0, 1]; it may leave [0, 1].

        Args:
            default, period, tint: how to draw what is drawn on the upright image, where nothing else was asked for.
            turn: of the image, to be upright.
        """
        ...


@dataclass(frozen=True)
class Design:
    """A mark on the picture.

    Attributes:
        style: how the mark is drawn; None leaves it to the place where it goes.
        strength: of the mark; None is what suits the style there.
    """

    mark: Mark
    placement: Placement
    style: MarkStyle | None = None
    strength: float | None = None

    def target(
        self,
        image: Float[Tensor, "c h w"],
        default: MarkStyle,
        period: Period,
        tint: Tint = GREY,
        turn: Orientation = UPRIGHT,
    ) -> Float[Tensor, "c h w"]:
        """The target image, possibly outside [0, 1]: the mark is upright when the image is turned to be.

        Args:
            default: the style that suits the place, where none was asked for.
        """
        style = self.style or default
        strength = DEFAULT_STRENGTH[style] if self.strength is None else self.strength
        placement = replace(self.placement, strength=strength)
        upright = turn.upright(image, (1, 2))
        return turn.stored(target_image(upright, self.mark, placement, style, period, tint), (1, 2))

    def describe(self) -> dict[str, Any]:
        return {**asdict(self.placement), "treatment": self.style, "strength": self.strength}
