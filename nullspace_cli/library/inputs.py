"""What callers have, as the engine takes it: images of any kind, batches of tensors, generators."""

import logging
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nullspace_cli.engine.errors import ImageError, UsageError
from nullspace_cli.engine.files.orientation import UPRIGHT, Orientation, orientation_of
from nullspace_cli.engine.files.pictures import Picture, picture_of, read_picture
from nullspace_cli.engine.files.two_readings import Reading
from nullspace_cli.engine.models.model import Model
from nullspace_cli.library.arguments import require_model

logger = logging.getLogger(__name__)

AnyImage = Path | str | Image.Image | NDArray[np.uint8]
"""A file, a PIL image, or uint8 [H, W, c]: grey, grey and alpha, RGB or RGBA as c is 1 to 4; [H, W] is grey."""


def read_image(image: AnyImage, name: str, reading: Reading) -> Picture:
    """One image, whatever it comes as.

    Args:
        name: of the argument, for messages.
        reading: how a network is given it. Arrays are upright.

    Raises:
        ImageError: it cannot be read, or is of another type or shape.
    """
    if isinstance(image, Path | str):
        picture = read_picture(Path(image), reading)
        picture.tell(logger.warning)
        return picture
    orientation = UPRIGHT
    if isinstance(image, Image.Image):
        image, orientation = _decoded(image, name)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise _no_image(image, name)
    samples = image[..., None] if image.ndim == 2 else image
    if samples.shape[2] not in (1, 2, 3, 4):
        raise _no_image(image, name)
    return picture_of(samples, f"the {name}", reading, orientation)


def _decoded(image: Image.Image, name: str) -> tuple[NDArray[np.uint8], Orientation]:
    """What `read_picture` makes of a file with such an image: grey where it is grey, alpha where it has some.

    Raises:
        ImageError: its values are deeper than 8 bits: which of them is white its file alone can tell.
    """
    if image.mode.startswith(("I", "F")):
        raise ImageError(f"{name} is a PIL image of mode {image.mode}; expected 8 bits a channel. Give its path.")
    orientation = orientation_of(image)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        mode += "A"
    return np.array(image if image.mode == mode else image.convert(mode)), orientation


def _no_image(image: object, name: str) -> ImageError:
    shape = f" of {image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray | Tensor) else ""
    return ImageError(
        f"{name} is {type(image).__name__}{shape}; expected a path, a PIL image, or an array of uint8 [H, W, 1 to 4]."
    )


def require_batch(model: Model, images: Tensor) -> Float[Tensor, "b c h w"]:
    """See that images are what the model takes: floats [b, c, h, w] in [0, 1], at its input size.

    Raises:
        UsageError: they are not. Normalised images and levels up to 255 are the usual mistakes.
    """
    require_model(model)
    size = model.transform.input_size
    expected = f"floats in [0, 1] of shape [b, {', '.join(map(str, size))}], what {model.name} reads"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"images are {found}; expected {expected}.")
    if images.ndim != 4 or tuple(images.shape[1:]) != size or len(images) == 0:
        raise UsageError(f"images have the shape {list(images.shape)}; expected {expected}.")
    least, largest = (float(value) for value in torch.aminmax(images.detach()))
    if not (math.isfinite(least) and math.isfinite(largest)):
        raise UsageError(f"images hold values that are not finite; expected {expected}. Check where they come from.")
    if not (least >= 0 and largest <= 1):
        raise UsageError(
            f"images reach from {least:.3g} to {largest:.3g}; expected {expected}. Do not normalise them: the model "
            f"does it."
        )
    return images
