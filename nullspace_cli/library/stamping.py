"""Marks on images in memory, in one call: in a data loader's workers as well as by hand."""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.files.pictures import Picture, with_levels
from nullspace_cli.engine.files.two_readings import READINGS, Reading
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.runtime.threads import one_thread
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.legibility import LEGIBLE, legibility
from nullspace_cli.engine.watermark.mark_style import MarkStyle
from nullspace_cli.engine.watermark.marks import Fit, Position
from nullspace_cli.engine.watermark.native_size import NativeSize, NullspaceChoice
from nullspace_cli.engine.watermark.result import Rounding
from nullspace_cli.library.arguments import require_choice, require_model, require_number, wrong
from nullspace_cli.library.inputs import AnyImage, read_image
from nullspace_cli.library.watermarks import lettered, placement_of, read_mark_image, require_drawing

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "vit_small_patch32_224"
InMemory = TypeVar("InMemory", Image.Image, NDArray[np.uint8])


class StampSettings(TypedDict, total=False):
    """What `Stamper` takes besides the mark."""

    text: str | None
    font: Path | str | None
    model: Model | str
    nullspace: NullspaceChoice
    rounding: Rounding
    style: MarkStyle | None
    fit: Fit
    position: Position
    margin: float | None
    scale: float | None
    opacity: float
    strength: float | None
    tolerance: float
    reading: Reading
    min_legibility: float


class Stamper:
    """Puts one mark on image after image, each at its own size, so that a model does not notice.

    A call takes a PIL image or an array and gives the same kind. It computes on the CPU in one thread, so that the
    result is the same to the last bit in every process; it writes nothing and keeps nothing of the image. A stamper can
    be sent to other processes, forked or spawned: a data set's transform, say.

    Args:
        mark: a picture of it: a path, a PIL image, or uint8 [h, w, c]. Its alpha says where it covers.
        text: lettering in place of `mark`, as of `text_image`; braces are braces.
        font: for `text`.
        model: whose input is to stay: a name, of which only the transform is looked up as long as the resize suffices,
            or a `Model`.
        nullspace, rounding, style, fit, position, margin, scale, opacity, strength, tolerance, reading: as of
            `make_watermark`. With `nullspace="resize"` weights are never read: an image that is too small is refused.
        min_legibility: share of the mark below which the logger warns that people can hardly read it; 0 measures
            nothing.

    Raises:
        UsageError: there is no mark, or two, or a setting makes no sense.
        ImageError: the mark cannot be read.
        FontError: the font cannot be read, or is of another kind.
    """

    def __init__(
        self,
        mark: AnyImage | None = None,
        *,
        text: str | None = None,
        font: Path | str | None = None,
        model: Model | str = DEFAULT_MODEL,
        nullspace: NullspaceChoice = "auto",
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
        min_legibility: float = LEGIBLE,
    ) -> None:
        if (mark is None) == (text is None):
            raise UsageError("A watermark is either a mark or a text. Give one of `mark` and `text`.")
        if text is None and font is not None:
            raise UsageError("A font letters a text. Give `text`, or leave `font` out.")
        if not isinstance(model, str):
            require_model(model)
        require_choice("nullspace", nullspace, get_args(NullspaceChoice))
        require_choice("rounding", rounding, get_args(Rounding))
        require_choice("reading", reading, READINGS)
        require_number("tolerance", tolerance, least=0)
        require_number("min_legibility", min_legibility, least=0, most=1)
        require_drawing(style, strength)
        placement = placement_of(fit, position, margin, scale, opacity)
        made = lettered(text, font) if text is not None else read_mark_image(mark)  # type: ignore[arg-type]
        self._design = Design(made, placement, style, strength)
        self._model, self._nullspace, self._rounding = model, nullspace, rounding
        self._tolerance, self._reading, self._min_legibility = tolerance, reading, min_legibility

    def __call__(self, image: InMemory) -> InMemory:
        """The image with the mark on it, of the same size and kind.

        An array keeps its shape. A PIL image keeps its `info`, and its mode where that is L, LA, RGB or RGBA; others
        become the one of these that holds them.

        Raises:
            ImageError: it is no PIL image or array of uint8 [H, W] or [H, W, 1 to 4], or is too small or too elongated.
            ModelError: the model is not known, or has to be loaded and cannot be.
            NoNullspaceError: the patch embedding's was asked for and the model has none.
        """
        if not isinstance(image, Image.Image | np.ndarray):
            raise wrong("image", image, "a PIL image, or an array of uint8 [H, W, 1 to 4]")
        picture = read_image(image, "image", self._reading)
        with one_thread():
            made = self._make(picture)
            if self._min_legibility and (seen := legibility(made).full) < self._min_legibility:
                logger.warning("The mark can hardly be read: %.0f%% of it can be seen.", 100 * seen)
        return _like(image, picture, with_levels(picture, made.pixels))

    def on(self, column: str = "image") -> "ColumnStamper":
        """This stamper for rows, or batches of rows, of tables: what `map` of `datasets` and Ray Data take."""
        return ColumnStamper(self, column)

    @cached_property
    def _make(self) -> NativeSize:
        model = self._model
        request = ModelRequest(model, device="cpu") if isinstance(model, str) else None
        network = LazyModel(request) if request else LazyModel.of(model)  # type: ignore[arg-type]
        network.transform.require_pictures()
        return NativeSize(
            network.transform, self._design, lambda: network.patches, self._nullspace, self._rounding,
            tolerance=self._tolerance,
        )  # fmt: skip

    def __getstate__(self) -> Mapping[str, Any]:
        """All but what each process makes for itself, which has locks, and arrays by the sizes of images."""
        return {name: value for name, value in vars(self).items() if name != "_make"}

    def __repr__(self) -> str:
        name = self._model if isinstance(self._model, str) else self._model.name
        return f"<Stamper of {str(self._design.mark.text or self._design.mark.origin)!r} for {name}>"


class ColumnStamper:
    """Puts a stamper's mark on the images in one column of a row, or of a batch of rows; the others stay.

    Args:
        column: its name.
    """

    def __init__(self, stamper: Stamper, column: str = "image") -> None:
        self.stamper, self.column = stamper, column

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """The same with marked images, of the kind that the column holds.

        Args:
            rows: from column names to an image, as `Stamper` takes it, for a row; for a batch to a list of images, an
                array uint8 [b, H, W, c] of them, or of objects where their sizes differ.

        Raises:
            UsageError: there is no such column.
            VitnullError: as of `Stamper`'s call.
        """
        if self.column not in rows:
            raise UsageError(f"There is no column {self.column!r}; there are {', '.join(map(repr, rows))}.")
        return {**rows, self.column: self._marked(rows[self.column])}

    def _marked(self, images: Any) -> Any:
        if isinstance(images, list):
            return [self.stamper(image) for image in images]
        if isinstance(images, np.ndarray) and images.dtype == object:
            marked = np.empty(len(images), object)
            for index, image in enumerate(images):
                marked[index] = self.stamper(np.asarray(image))
            return marked
        if isinstance(images, np.ndarray) and images.ndim == 4:
            return np.stack([self.stamper(image) for image in images])
        return self.stamper(images)

    def __repr__(self) -> str:
        return f"<{self.stamper!r} on {self.column!r}>"


def watermark(image: InMemory, mark: AnyImage | None = None, **settings: Unpack[StampSettings]) -> InMemory:
    """Put a visible mark on an image in memory, at its own size, so that a model does not notice.

    For many images make one `Stamper`. `make_watermark` runs the model on the result and says what came of it.

    Args:
        image: a PIL image, or uint8 [H, W, c]; what comes back is of the same kind.
        mark, settings: as of `Stamper`: `text="(c) 2026"` in place of `mark`, `model="..."`, `position="bottom-right"`.

    Raises:
        VitnullError: as of `Stamper` and its call.
    """
    return Stamper(mark, **settings)(image)


def _like(image: InMemory, source: Picture, made: Picture) -> InMemory:
    """What was made of an image, as the same kind."""
    samples = made.samples
    if isinstance(image, np.ndarray):
        return samples.reshape(image.shape)
    result = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    result.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return result
