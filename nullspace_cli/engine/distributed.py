"""Several processes that share one job, as `torchrun` starts them."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; a process on its own is rank 0 of 1."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of the items: every `world`-th."""
        return list(items[self.rank :: self.world])

    def gather(self, part: T) -> list[T]:
        """The parts of all processes, in the order of their ranks, in every one of them."""
        if self.world == 1:
            return [part]
        parts: list[T | None] = [None] * self.world
        distributed.all_gather_object(parts, part)
        return [item for item in parts if item is not None]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place, the same to the last bit in every one of them."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def device(self, name: str) -> str:
        """The device of this process: "auto" and "cuda" deal out one GPU to each."""
        if self.world > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return name


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the process group that the environment describes, if it describes one, and leave it in the end."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # NCCL wants a GPU for each process; gloo carries records, and gradients where there is none.
    nccl = distributed.is_nccl_available() and 0 < here <= torch.cuda.device_count()
    store, rank, _ = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    try:
        yield Ranks(rank, world, local)
        distributed.barrier()  # nobody leaves while another still gathers
        _leave_together(store, world)
    finally:
        distributed.destroy_process_group()


def _leave_together(store: Any, world: int) -> None:
    """Wait until every process is through the barrier: gloo aborts one that still reads when another hangs up."""
    store.add("vitnull/through", 1)
    with suppress(RuntimeError):  # the store is gone: whoever kept it has seen all of them
        while store.add("vitnull/through", 0) < world:
            time.sleep(0.01)
