"""Visible marks that a network cannot see, on images at hand."""

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.files.pictures import Picture, encode_like, encode_resized, read_again
from nullspace_cli.engine.files.two_readings import READINGS, Reading
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.fonts import read_font
from nullspace_cli.engine.watermark.further_readers import FurtherReaders, changes
from nullspace_cli.engine.watermark.legibility import Legibility, legibility
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.mark_style import DEFAULT_STRENGTH, MarkStyle
from nullspace_cli.engine.watermark.marks import Fit, Mark, Placement, Position, mark_of, read_mark
from nullspace_cli.engine.watermark.model_size import ModelSize
from nullspace_cli.engine.watermark.native_size import NativeSize, NullspaceChoice
from nullspace_cli.engine.watermark.result import Rounding, Unrounded, Watermarked
from nullspace_cli.engine.watermark.verification import Verification, figures, verify
from nullspace_cli.library.arguments import require_choice, require_model, require_number, wrong
from nullspace_cli.library.inputs import AnyImage, read_image
from nullspace_cli.library.outputs import save_picture

logger = logging.getLogger(__name__)


class WatermarkResult:
    """A watermarked image, and what the model says of it.

    Attributes:
        pixels: uint8 [H, W, 3]: the result, as the model is given it.
        verification: the model's answers before and after, and how far its input, embeddings and features moved.
        verified: whether it holds: the model's input is the same, or the class is and the embeddings moved by no more
            than `tolerance`; None where neither could be measured.
        readers: what of each further reader's 8-bit input differs: `reader`, `input_pixels_changed`, `rms` and `max`.
    """

    def __init__(
        self,
        source: Picture,
        made: Watermarked,
        verification: Verification,
        *,
        native: bool,
        tolerance: float,
        readers: list[dict[str, Any]],
    ) -> None:
        self._source, self._made, self._native, self._tolerance = source, made, native, tolerance
        self.pixels: NDArray[np.uint8] = made.pixels
        self.verification = verification
        self.verified = verification.holds(tolerance)
        self.readers = readers

    @cached_property
    def legibility(self) -> Legibility:
        """The share of the mark that people can see, `full` size and at `half`; below 0.7 it can hardly be read."""
        return legibility(self._made)

    def unrounded(self) -> Unrounded:
        """`image`, the exact solution before rounding, `source` and `target`: floats [3, H, W] in [0, 1]."""
        return self._made.unrounded()

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a .png, .webp or .tif, lossless: at native size with the source's depth and transparency, and metadata.

        Raises:
            ArtifactError: the file cannot be written, is there already, or has another ending.
            ImageError: the format cannot hold the source's depth.
        """
        encode = encode_like if self._native else encode_resized
        return save_picture(
            path, partial(encode, self._source, self.pixels), self.pixels, self._source.reading, overwrite=overwrite
        )

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON of `vitnull watermark` for one image, but for those of its files."""
        made = figures(self._made, self.verification, self._tolerance, self.legibility)
        return {**made, "readers": self.readers}

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return f"<WatermarkResult {width} x {height}, nullspace {self._made.nullspace}, verified {self.verified}>"


def make_watermark(
    model: Model,
    image: AnyImage,
    mark: AnyImage,
    *,
    size: Literal["native", "model"] = "native",
    nullspace: NullspaceChoice = "auto",
    p: Literal[1, 2] = 2,
    rounding: Rounding = "aware",
    style: MarkStyle | None = None,
    fit: Fit = "contain",
    position: Position = "center",
    margin: float | None = None,
    scale: float | None = None,
    opacity: float = 1.0,
    strength: float | None = None,
    tolerance: float = 0.01,
    reading: Reading = "timm",
    readers: Sequence[str] = (),
) -> WatermarkResult:
    """Put a visible mark on an image that the model does not notice (paper, section 6), and run the model to see.

    Args:
        image: a path, a PIL image, or uint8 [H, W, c].
        mark: the same; its alpha says where it covers, and an opaque one covers where it is not its own background.
            For lettering, `text_image("...")`.
        size: "native" keeps the image's own size and, where it can be had, every bit of the model's input; "model"
            works at the size of that input, as the paper does.
        nullspace: at native size, of the "resize" that the model begins with, or of its "patch" embedding.
        p: minimised is the distance to the marked image, ||z - t||_p; 1 at model size alone, of models with patches.
        rounding: "aware" chooses the levels together, so that the embeddings stay; "nearest" each for itself.
        style, fit, position, margin, scale, opacity, strength: how the mark is drawn, as of `vitnull watermark`; None
            for what suits the rest.
        tolerance: largest relative change of the embeddings that passes verification.
        reading: how the model is given the image: as timm's loader gives it, pixels as they are stored and without
            alpha, or as it is "shown", turned upright by its EXIF orientation and on white.
        readers: at native size, who else shall see no mark: "SIZE/FILTER/CROP_PCT", names of models, or "common" for
            those of 90% of timm's pretrained models. Their inputs change by a level in places, the model's not at all.

    Raises:
        ImageError: the image or the mark cannot be read, or the image is too small or too elongated for it.
        NoNullspaceError: the patch embedding's was asked for and the model has none.
        UsageError: settings exclude each other, or one makes no sense.
    """
    require_model(model)
    require_choice("size", size, ("native", "model"))
    require_choice("nullspace", nullspace, get_args(NullspaceChoice))
    require_choice("p", p, (1, 2))
    require_choice("rounding", rounding, get_args(Rounding))
    require_choice("reading", reading, READINGS)
    require_drawing(style, strength)
    require_number("tolerance", tolerance, least=0)
    if p == 1 and size == "native":
        raise UsageError("p = 1 is solved at the model's size. Give size='model'.")
    if size == "model" and nullspace == "resize":
        raise UsageError("At model size nothing is resized. Leave nullspace out.")
    if isinstance(readers, str) or not all(isinstance(reader, str) for reader in readers):
        raise wrong("readers", readers, "a list of names")
    if readers and (size == "model" or nullspace == "patch"):
        raise UsageError("Further readers share the resize's nullspace alone. Leave size and nullspace out.")
    further = FurtherReaders.parse(readers)
    source = read_image(image, "image", reading)
    placement = placement_of(fit, position, margin, scale, opacity)
    design = Design(read_mark_image(mark), placement, style, strength)
    network = LazyModel.of(model)
    if size == "model":
        (made,) = ModelSize(model.transform, network.first_layer, design, p, rounding, device=model.device)([source])
    else:
        made = NativeSize(
            model.transform,
            design,
            lambda: network.patches,
            nullspace,
            rounding,
            model.device,
            tolerance=tolerance,
            readers=further,
        )(source)
    read_back = read_again(source, made.pixels, native=size == "native")
    verification = verify(model, network.reading, source, read_back)
    measured = further.of(source.width, source.height, model.transform).measured
    return WatermarkResult(
        source,
        made,
        verification,
        native=size == "native",
        tolerance=tolerance,
        readers=changes(measured, source, read_back),
    )


def text_image(text: str, font: Path | str | None = None) -> NDArray[np.uint8]:
    r"""White lettering as a mark, uint8 [h, w, 4]; \n starts a new line.

    Args:
        font: a .ttf, .otf or .ttc; None for the one that Pillow carries or, for letters that it lacks, one that is
            installed.

    Raises:
        FontError: the font cannot be read, or is of another kind.
        UsageError: the text is blank, or no font has one of its characters.
    """
    mark = lettered(text, font)
    return (np.concatenate([mark.colour, mark.coverage[..., None]], 2) * 255).round().astype(np.uint8)


def lettered(text: str, font: Path | str | None) -> Mark:
    """A text as a mark, as of `text_image`."""
    if not isinstance(text, str):
        raise wrong("text", text, "letters")
    if font is not None and not isinstance(font, str | Path):
        raise wrong("font", font, "a path, or None")
    return text_mark(text, None if font is None else read_font(Path(font)))


def read_mark_image(mark: AnyImage) -> Mark:
    """A picture as a mark."""
    if isinstance(mark, str | Path):
        return read_mark(Path(mark), logger.warning)
    picture = read_image(mark, "mark", "shown")
    return mark_of(picture, picture.path)


def placement_of(fit: Fit, position: Position, margin: float | None, scale: float | None, opacity: float) -> Placement:
    """Where a mark goes, and how strongly.

    Raises:
        UsageError: one of the settings makes no sense.
    """
    require_choice("fit", fit, get_args(Fit))
    require_choice("position", position, get_args(Position))
    require_number("opacity", opacity, above=0, most=1)
    if margin is not None:
        require_number("margin", margin, least=0, most=0.49)
    if scale is not None:
        require_number("scale", scale, least=0.01, most=1)
    return Placement.suiting(fit, position, scale, margin, opacity)


def require_drawing(style: MarkStyle | None, strength: float | None) -> None:
    """See that a mark can be drawn so.

    Raises:
        UsageError: it cannot.
    """
    if style is not None:
        require_choice("style", style, DEFAULT_STRENGTH)
    if strength is not None:
        require_number("strength", strength, above=0, most=100)
