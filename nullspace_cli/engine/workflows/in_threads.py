"""Work on many items by several threads, whose results come in the items' order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from nullspace_cli.engine.runtime.process import Shared

T = TypeVar("T")
R = TypeVar("R")


def default_workers(device: torch.device) -> int:
    """Two on a GPU, so that one item is decoded while another is worked on; else one for each core, up to four."""
    return 2 if device.type == "cuda" else min(4, os.cpu_count() or 1)


def in_threads(work: Callable[[T, threading.Event | None], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """What `work` makes of each item, in their order.

    Each thread is at work on an item of its own, with its share of PyTorch's threads. Results are asked for before too
    many wait. By the event, which is set when nobody takes results any more, `work` learns that it may stop.
    """
    if len(items) <= 1 or workers == 1:
        for item in items:
            yield work(item, None)
        return
    waiting = deque(items)
    threads = max(1, torch.get_num_threads() // workers)
    running: deque[Future[R]] = deque()
    with _THREADS:
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
        stop = threading.Event()
        try:
            while waiting or running:
                while waiting and len(running) <= workers:
                    running.append(pool.submit(work, waiting.popleft(), stop))
                yield running.popleft().result()
        finally:
            stop.set()  # whoever is interrupted waits for no item that is being worked on
            pool.shutdown(wait=False, cancel_futures=True)


def _in_a_new_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@contextmanager
def _threads_of_new_threads() -> Iterator[None]:
    """`torch.set_num_threads` is for the thread that calls it, and for all that start later: the latter is restored."""
    count = _in_a_new_thread(torch.get_num_threads)
    try:
        yield
    finally:
        _in_a_new_thread(partial(torch.set_num_threads, count))


_THREADS = Shared(_threads_of_new_threads)
