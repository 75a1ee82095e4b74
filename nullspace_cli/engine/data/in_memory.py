"""Images that are tensors already, as a data set."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.data.datasets import ImageSet, Sample
from nullspace_cli.engine.transforms.eval_transform import EvalTransform


class InMemoryImages(ImageSet):
    """Images [n, c, h, w] in [0, 1], which are a model's input but for its normalisation.

    Args:
        labels: the class of each, if known.
        classes: how many classes there are.
    """

    def __init__(
        self, images: Float[Tensor, "n c h w"], labels: Sequence[int] | None = None, classes: int | None = None
    ) -> None:
        names = None if classes is None else tuple(map(str, range(classes)))
        super().__init__("images", list(enumerate(labels or [None] * len(images))), names)
        self._images = images.detach().to("cpu", torch.float32)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSet: ...
    def __getitem__(self, index: int | slice) -> Sample | ImageSet:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return Sample(self.name_of(index), self._images[index].movedim(0, -1).numpy(), self._entries[index][1])

    def read(self, index: int, transform: EvalTransform) -> Sample:
        """An image as it is."""
        return self[index]

    def select(self, indices: Sequence[int]) -> "InMemoryImages":
        labels = [self._entries[i][1] for i in indices]
        known = [label for label in labels if label is not None]
        count = None if self.classes is None else len(self.classes)
        return InMemoryImages(self._images[list(indices)], known or None, count)

    def name_of(self, index: int) -> str:
        return f"images[{index}]"

    def files(self) -> Iterator[Path]:
        return iter(())

    def fingerprint(self) -> str:
        """sha256 over the images and their labels."""
        digest = hashlib.sha256(self._images.contiguous().numpy().tobytes())
        digest.update(repr([label for _, label in self._entries]).encode())
        return digest.hexdigest()
