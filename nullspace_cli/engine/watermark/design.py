"""What a picture should look like: a mark on it, or whatever else."""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.files.orientation import UPRIGHT, Orientation
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.watermark.fonts import Font, read_font
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.mark_style import DEFAULT_STRENGTH, GREY, MarkStyle, Period, Tint, target_image
from nullspace_cli.engine.watermark.marks import Mark, Placement
from nullspace_cli.engine.watermark.text_template import TextTemplate


@runtime_checkable
class Aim(Protocol):
    """What a picture should look like, whichever picture it is: a mark on it, or another picture altogether."""

    def target(
        self,
        image: Shaped[Tensor, "c h w"],
        default: MarkStyle,
        period: Period,
        tint: Tint = GREY,
        turn: Orientation = UPRIGHT,
        phase: float = 0.0,
    ) -> Shaped[Tensor, "c h w"]:
        """The target image for the source `image`, in [0, 1], which it may leave, or both in whole levels.

        Args:
            default, period, tint, phase: how to draw what is drawn on the upright image, where nothing else was asked
                for.
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
        image: Shaped[Tensor, "c h w"],
        default: MarkStyle,
        period: Period,
        tint: Tint = GREY,
        turn: Orientation = UPRIGHT,
        phase: float = 0.0,
    ) -> Shaped[Tensor, "c h w"]:
        """The target image, possibly outside [0, 1]: the mark is upright when the image is turned to be.

        Args:
            default: the style that suits the place, where none was asked for.
        """
        style = self.style or default
        strength = DEFAULT_STRENGTH[style] if self.strength is None else self.strength
        placement = replace(self.placement, strength=strength)
        upright = turn.upright(image, (1, 2))
        return turn.stored(target_image(upright, self.mark, placement, style, period, tint, phase), (1, 2))

    @property
    def sha256(self) -> str:
        """Of the mark."""
        return self.mark.sha256

    def of(self, picture: Picture) -> "Design":
        """That of one picture: of all the same."""
        return self

    def describe(self) -> dict[str, Any]:
        return {**asdict(self.placement), "treatment": self.style, "strength": self.strength}


@dataclass(frozen=True)
class TextDesign:
    """A text on the picture, of each another one if it has fields; the rest is as of `Design`.

    Attributes:
        font: as of `text_mark`.
    """

    text: TextTemplate
    font: Font | None
    placement: Placement
    style: MarkStyle | None = None
    strength: float | None = None

    @classmethod
    def read(
        cls, text: str, font: Path | None, placement: Placement, style: MarkStyle | None, strength: float | None
    ) -> "TextDesign":
        """With the font of a file. What is wrong with the text is seen here, as far as it does not hang on a picture.

        Raises:
            FontError: the font cannot be read, or is of another kind.
            UsageError: a field is unknown, or the text is blank or cannot be lettered.
        """
        design = cls(TextTemplate(text), read_font(font) if font else None, placement, style, strength)
        if design.text.without_fields.strip() or not design.text.fields:
            text_mark(design.text.without_fields, design.font)
        return design

    @property
    def sha256(self) -> str:
        """Of the text with its fields, in UTF-8."""
        return hashlib.sha256(self.text.text.encode()).hexdigest()

    def of(self, picture: Picture) -> Design:
        """That of one picture.

        Raises:
            ImageError: the picture does not say what a field stands for.
            UsageError: it says what no font can letter.
        """
        return Design(text_mark(self.text(picture), self.font), self.placement, self.style, self.strength)


def own_design(given: Aim | None, of_all: Aim | None) -> Aim:
    """What is drawn on one picture: its own design, or that of all."""
    design = given or of_all
    if design is None:
        raise ValueError("neither the maker nor the call has a design")
    return design


def drawn_on_grey(
    aim: Aim,
    height: int,
    width: int,
    default: MarkStyle,
    period: Period,
    turn: Orientation = UPRIGHT,
    phase: float = 0.0,
) -> Float[NDArray[np.float32], "h w"]:
    """The change of luminance that a mark makes on mid-grey, where there is head-room for all of it."""
    grey = torch.tensor(0.5)
    return aim.target(grey.expand(1, height, width), default, period, GREY, turn, phase).sub_(grey)[0].numpy()
