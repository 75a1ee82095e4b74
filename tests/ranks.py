"""Processes that share a job, as threads: each with ranks of its own, that meet as those of `torch.distributed` do."""

import copy
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch import Tensor

from nullspace_cli.engine.runtime.distributed import Ranks

T = TypeVar("T")


class Hall:
    """Where threads meet, again and again; one that does not come any more keeps nobody waiting."""

    def __init__(self, world: int) -> None:
        self.shared: list[Any] = [None] * world
        self._barriers = defaultdict[int, threading.Barrier](lambda: threading.Barrier(world))
        self._lock = threading.Lock()

    def meet(self, number: int) -> None:
        with self._lock:
            barrier = self._barriers[number]
        barrier.wait(60)

    def leave(self, number: int) -> None:
        """Come to no meeting from this one on."""
        with self._lock:
            self._barriers[number].abort()


class ThreadRanks(Ranks):
    """One rank of as many as there are threads."""

    def __init__(self, rank: int, world: int, hall: Hall) -> None:
        super().__init__(rank, world)
        vars(self).update(hall=hall, count=0)

    def gather(self, part: T) -> list[T]:
        own = vars(self)
        own["hall"].shared[self.rank] = part
        own["count"] += 2
        own["hall"].meet(own["count"] - 2)
        parts = copy.deepcopy(own["hall"].shared)  # processes share no memory
        own["hall"].meet(own["count"] - 1)
        return parts

    def sum(self, tensor: Tensor) -> Tensor:
        total: Any = sum(self.gather(tensor))
        return tensor.copy_(total)


def in_ranks(run: Callable[[Ranks], T], world: int = 2) -> list[T | BaseException]:
    """What `run` returns or raises in each of several ranks."""
    hall = Hall(world)

    def one(rank: int) -> T | BaseException:
        ranks = ThreadRanks(rank, world, hall)
        try:
            return run(ranks)
        except BaseException as error:  # noqa: BLE001 - what is looked at
            hall.leave(vars(ranks)["count"])
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


def same(values: Sequence[Any]) -> Any:
    """What all ranks have."""
    assert all(value == values[0] for value in values), values
    return values[0]
