"""What a network reads of every image of a data set, and its undisturbed answers: computed once, and kept."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Batch, Store, batches, left_out
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.models.model import Model, require_finite_answers
from nullspace_cli.engine.noise.injection_sites import InjectionSite
from nullspace_cli.engine.runtime.out_of_memory import in_chunks
from nullspace_cli.engine.transforms.eval_transform import EvalTransform


class ReferenceCache:
    """Rows of inputs and clean answers, one for each image.

    At encoder level the patch embeddings are kept where they fit into the store's memory, so that the first layer need
    not run again. Otherwise the model's 8-bit input pixels are: they are smaller, and made into inputs when asked for.
    Nothing is decoded twice.

    Args:
        positions: the images of `images` to read.
        skip: is told name and error of an image that cannot be read; without it such an image is an error.
        notice: is told of memory that ran short, and of what is doubtful in an image.

    Attributes:
        missing: those of `positions` that could not be read.
    """

    def __init__(
        self,
        model: Model,
        site: InjectionSite,
        images: ImageSet,
        positions: Sequence[int],
        transform: EvalTransform,
        store: Store,
        *,
        workers: int | None = None,
        skip: Callable[[str, VitnullError], None] | None = None,
        notice: Callable[[str], None] = lambda text: None,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self._site, self._transform, self._device = site, transform, model.device
        self._row: dict[int, int] = {}
        size = model.batch_size

        def look(batch: Batch, start: int, stop: int) -> None:
            part = batch.part(start, stop)
            read = site.read(transform.normalize(part.pixels))
            clean, values = site.answer(read).answer.cpu(), read.cpu()
            require_finite_answers(model, [clean], part.names, lambda other: site.on(other).answer(read))
            if not self._row:
                self._allocate(store, len(positions), part, values, clean)
            self._keep(part, values, clean)

        with torch.no_grad():
            reading = batches(images, transform, size, positions=positions, workers=workers, skip=skip, notice=notice)
            for batch in reading:
                size = in_chunks(partial(look, batch), len(batch), size, notice, left_out(batch, skip))
                for _ in batch.positions:
                    advance()
        self.missing = [position for position in positions if position not in self._row]

    def _allocate(self, store: Store, count: int, batch: Batch, values: Tensor, clean: Tensor) -> None:
        self._clean = store.allocate((count, *clean.shape[1:]), np.float32)
        tokens = (count, *values.shape[1:])
        self._holds_values = self._site.level == "encoder" and store.fits(tokens, np.float32)
        kept = (tokens, np.float32) if self._holds_values else ((count, *batch.pixels.shape[1:]), batch.pixels.dtype)
        self._kept = store.allocate(*kept)

    def _keep(self, batch: Batch, values: Tensor, clean: Tensor) -> None:
        first = len(self._row)
        rows = slice(first, first + len(batch))
        self._clean[rows] = clean.numpy()
        self._kept[rows] = values.numpy() if self._holds_values else batch.pixels
        self._row.update((position, first + i) for i, position in enumerate(batch.positions))

    def __call__(self, positions: Sequence[int]) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b k"]]:
        """What enters for these images, and the clean answers to it, on the model's device."""
        rows = [self._row[position] for position in positions]
        clean = torch.from_numpy(self._clean[rows]).to(self._device)
        kept = self._kept[rows]
        with torch.no_grad():
            if self._holds_values:
                return torch.from_numpy(kept).to(self._device), clean
            return self._site.read(self._transform.normalize(kept)), clean
