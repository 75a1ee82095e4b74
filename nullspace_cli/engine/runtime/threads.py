"""How many threads torch computes with."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from nullspace_cli.engine.runtime.process import Shared

T = TypeVar("T")


def _in_a_new_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@contextmanager
def _of_new_threads() -> Iterator[None]:
    """`torch.set_num_threads` is for the thread that calls it, and for all that start later: the latter is restored."""
    count = _in_a_new_thread(torch.get_num_threads)
    try:
        yield
    finally:
        _in_a_new_thread(partial(torch.set_num_threads, count))


OF_NEW_THREADS = Shared(_of_new_threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in this thread alone: the same to the last bit wherever it is, and safe in a process that was forked."""
    with OF_NEW_THREADS:
        count = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(count)
