"""Arrays on their way to the device, ahead of their use: to a card they are copied while it computes.

A copy from ordinary memory holds the host up until the card has done all work before it. So arrays go by way of pinned
memory and by a stream of their own: two buffers, of which one is filled while the other is copied from.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.errors import is_out_of_memory
from nullspace_cli.engine.runtime.out_of_memory import release_memory

T = TypeVar("T")
ALIGNED = 64
"""Bytes, of which each array's place in a buffer is a multiple."""


def uploaded(
    items: Iterable[T], arrays: Callable[[T], tuple[NDArray[Any], ...]], device: torch.device
) -> Iterator[tuple[T, tuple[Tensor, ...]]]:
    """Each item, with its arrays as tensors on the device.

    For a card one thread takes the next item and sends its arrays while the caller is at work on this one, and no more
    than that. Arrays that the card has no room for stay in the host's memory: whoever halves its work will find room
    for parts of them.
    """
    if device.type != "cuda":
        for item in items:
            yield item, tuple(map(torch.from_numpy, arrays(item)))
        return
    lane, waiting = _Lane(device), iter(items)

    def take() -> "_Sent[T] | None":
        for item in waiting:
            return _Sent(item, *lane.send(arrays(item)))
        return None

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(take)
        while sent := coming.result():
            coming = pool.submit(take)
            here = torch.cuda.current_stream(device)
            here.wait_event(sent.copied)
            for tensor in sent.tensors:
                if tensor.is_cuda:  # its memory is the lane's to use again, once this stream is done with it
                    tensor.record_stream(here)
            yield sent.item, sent.tensors
            del sent  # the caller's to keep or to leave, while the next one is waited for


class _Sent(NamedTuple, Generic[T]):
    """An item under way: its tensors are to be read after `copied`."""

    item: T
    tensors: tuple[Tensor, ...]
    copied: torch.cuda.Event


class _Lane:
    """The way to one card, for one thread."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._buffers = deque([_Buffer(), _Buffer()])

    def send(self, arrays: tuple[NDArray[Any], ...]) -> tuple[tuple[Tensor, ...], torch.cuda.Event]:
        """The arrays on the card, as soon as the event says so."""
        buffer = self._buffers[0]
        self._buffers.rotate()
        copied = torch.cuda.Event()
        try:
            with torch.cuda.stream(self._stream):
                pinned = buffer.holding(arrays)
                tensors = tuple(place.to(self._device, non_blocking=True) for place in pinned)
                copied.record(self._stream)
            buffer.read = copied
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            copied.record(self._stream)
            buffer.read = copied
            tensors = tuple(map(torch.from_numpy, arrays))
            release_memory()
        return tensors, copied


class _Buffer:
    """Pinned memory, as much as was ever asked for; `read` is when nobody copies from it any more."""

    def __init__(self) -> None:
        self.read = torch.cuda.Event()
        self._memory = torch.empty(0, dtype=torch.uint8)

    def holding(self, arrays: tuple[NDArray[Any], ...]) -> list[Tensor]:
        """Copies of the arrays, in this memory."""
        self.read.synchronize()
        starts = np.cumsum([0, *(-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays)]).tolist()
        if starts[-1] > len(self._memory):
            self._memory = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=True)
        places = []
        for array, start in zip(arrays, starts, strict=False):
            kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
            place = self._memory[start : start + array.nbytes].view(kind).view(array.shape)
            np.copyto(place.numpy(), array)
            places.append(place)
        return places
