"""What a network reads of every image of a data set, and its undisturbed answers: computed once, and kept."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Batch, Store, batches, left_out
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.models.model import Model, require_finite_answers
from nullspace_cli.engine.noise.injection_sites import InjectionSite
from nullspace_cli.engine.noise.kept_rows import Some, room_for
from nullspace_cli.engine.runtime.out_of_memory import in_chunks
from nullspace_cli.engine.runtime.uploads import uploaded
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

Part = Callable[[range], tuple[Tensor, Tensor]]
"""What enters for some of a piece's images, [b, *shape], and the clean answers to it, [b, k]; on the model's device."""


class ReferenceCache:
    """Rows of inputs and clean answers, one for each image.

    They lie on the card, where that is the device and has room, else in the host's store. At encoder level the patch
    embeddings are kept where they fit, so that the first layer need not run again. Otherwise the model's 8-bit input
    pixels are: they are smaller, and made into inputs when asked for. Nothing is decoded twice.

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
        blank = torch.zeros(1, *transform.input_size, device=model.device)

        def look(batch: Batch, seen: Tensor, start: int, stop: int) -> None:
            part, pixels = batch.part(start, stop), seen[start:stop].to(model.device)
            values = site.read(transform.normalize(pixels))
            clean = site.answer(values).answer
            require_finite_answers(model, [clean], part.names, lambda other: site.on(other).answer(values))
            forms = [Some(kept, clean) for kept in ((values, pixels) if site.level == "encoder" else (pixels,))]
            if not self._row:
                self._rows = room_for(len(positions), forms, store)
                self._holds_values = forms[self._rows.form].kept is values
            first = len(self._row)
            self._rows.put(slice(first, first + len(part)), forms[self._rows.form])
            self._row.update((position, first + i) for i, position in enumerate(part.positions))

        with torch.no_grad():
            size = model.images_at_once(lambda count: site.answer(site.read(blank.expand(count, -1, -1, -1))))
            reading = batches(images, transform, size, positions=positions, workers=workers, skip=skip, notice=notice)
            for batch, (pixels,) in uploaded(reading, lambda batch: (batch.pixels,), model.device):
                size = in_chunks(partial(look, batch, pixels), len(batch), size, notice, left_out(batch, skip))
                for _ in batch.positions:
                    advance()
        self.missing = [position for position in positions if position not in self._row]

    def pieces(self, lists: Sequence[Sequence[int]]) -> Iterator[Part]:
        """For each list of images what enters for them, in turn."""
        rows = [[self._row[position] for position in positions] for positions in lists]
        return (partial(self._part, some) for some in self._rows.pieces(rows))

    def __call__(self, positions: Sequence[int]) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b k"]]:
        """What enters for these images, and the clean answers to it, on the model's device."""
        (part,) = self.pieces([positions])
        return part(range(len(positions)))

    def _part(self, some: Some, rows: range) -> tuple[Tensor, Tensor]:
        kept, clean = (tensor[rows.start : rows.stop].to(self._device) for tensor in some)
        if self._holds_values:
            return kept, clean
        with torch.no_grad():
            return self._site.read(self._transform.normalize(kept)), clean
