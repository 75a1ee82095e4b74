"""Rows about images, kept on the card or in the host's memory, and asked for in the order of a round."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.errors import is_out_of_memory
from nullspace_cli.engine.runtime.card_memory import free_memory
from nullspace_cli.engine.runtime.out_of_memory import release_memory
from nullspace_cli.engine.runtime.uploads import uploaded

SHARE = 0.5
"""Of a card's free memory, what rows may take: the rest is for the passes through the network."""


class Some(NamedTuple):
    """Rows of some images."""

    kept: Shaped[Tensor, "b ..."]
    clean: Float[Tensor, "b k"]


class KeptRows(Protocol):
    """A row of what is `kept`, and one of the `clean` answer, for each image.

    Attributes:
        form: which of the forms that were offered is kept.
    """

    form: int

    def put(self, rows: slice, some: Some) -> None:
        """Write rows, wherever they are now."""
        ...

    def pieces(self, lists: Sequence[Sequence[int]]) -> Iterator[Some]:
        """For each list the rows that it names, on the device."""
        ...


def room_for(count: int, forms: Sequence[Some], store: Store) -> KeptRows:
    """Room for `count` rows on the card that their device is, else in the store.

    Args:
        forms: rows as they may be kept, the best first; the last is what the store keeps on its disk.

    Raises:
        ArtifactError: there is none.
    """
    for form, like in enumerate(forms):
        if found := _on_card(count, like, form):
            return found
    return RowsOnHost(count, forms, store)


class RowsOnCard:
    """All rows lie on the card: what is read of them neither crosses nor is waited for."""

    def __init__(self, count: int, like: Some, form: int) -> None:
        self.form, self._rows = form, Some(*(tensor.new_zeros(count, *tensor.shape[1:]) for tensor in like))

    def put(self, rows: slice, some: Some) -> None:
        for whole, part in zip(self._rows, some, strict=True):
            whole[rows] = part

    def pieces(self, lists: Sequence[Sequence[int]]) -> Iterator[Some]:
        # The places of a whole round cross at once, and are cut there.
        places = torch.tensor(list(chain.from_iterable(lists)), dtype=torch.int64).pin_memory()
        places = places.to(self._rows.clean.device, non_blocking=True)
        for start, stop in pairwise(accumulate(map(len, lists), initial=0)):
            yield Some(*(whole.index_select(0, places[start:stop]) for whole in self._rows))


def _on_card(count: int, like: Some, form: int) -> RowsOnCard | None:
    device = like.clean.device
    size = sum(count * math.prod(tensor.shape[1:]) * tensor.itemsize for tensor in like)
    if device.type != "cuda" or size > SHARE * free_memory(device):
        return None
    try:
        return RowsOnCard(count, like, form)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory()  # past the exception, whose traceback kept what had been allocated
    return None


class RowsOnHost:
    """Rows in the host's memory or on its disk, on their way to the device before they are needed."""

    def __init__(self, count: int, forms: Sequence[Some], store: Store) -> None:
        def room(like: Tensor) -> tuple[tuple[int, ...], Any]:
            return (count, *like.shape[1:]), np.uint8 if like.dtype == torch.uint8 else np.float32

        self._device = forms[0].clean.device
        self._clean = store.allocate(*room(forms[0].clean))
        fitting = (form for form, like in enumerate(forms) if store.fits(*room(like.kept)))
        self.form = next(fitting, len(forms) - 1)
        self._kept = store.allocate(*room(forms[self.form].kept))

    def put(self, rows: slice, some: Some) -> None:
        self._kept[rows], self._clean[rows] = some.kept.cpu().numpy(), some.clean.cpu().numpy()

    def pieces(self, lists: Sequence[Sequence[int]]) -> Iterator[Some]:
        for _, tensors in uploaded(lists, self._gathered, self._device):
            yield Some(*tensors)

    def _gathered(self, rows: Sequence[int]) -> tuple[NDArray[Any], ...]:
        chosen = list(rows)
        return self._kept[chosen], self._clean[chosen]
