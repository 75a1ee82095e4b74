"""Images that are tensors already, as a data set."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.data.collection import Decoded
from nullspace_cli.engine.files.two_readings import Reading


class Tensors:
    """A `Collection` of images [n, c, h, w] in [0, 1], which are a model's input but for its normalisation.

    Args:
        labels: the class of each, if known.
        classes: how many classes there are.
    """

    name = "images"

    def __init__(
        self, images: Float[Tensor, "n c h w"], labels: Sequence[int] | None = None, classes: int | None = None
    ) -> None:
        self._images = images.detach().to("cpu", torch.float32)
        self.labels: Sequence[int | None] = labels or [None] * len(images)
        self.classes = None if classes is None else tuple(map(str, range(classes)))

    def name_of(self, index: int) -> str:
        return f"images[{index}]"

    def decode(self, index: int, reading: Reading) -> Decoded:
        return Decoded(self._images[index].movedim(0, -1).numpy(), fitted=True)

    def stamp(self, index: int) -> tuple[str, str]:
        return self.name_of(index), hashlib.sha256(self._images[index].contiguous().numpy().tobytes()).hexdigest()

    def file_of(self, index: int) -> None:
        return None
