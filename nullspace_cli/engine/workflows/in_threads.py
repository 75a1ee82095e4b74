"""Work on many items by several threads, whose results come in the items' order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import torch

from nullspace_cli.engine.runtime.threads import OF_NEW_THREADS

T = TypeVar("T")
R = TypeVar("R")


def default_workers(device: torch.device) -> int:
    """Two on a GPU, so that one item is decoded while another is worked on; else one for each core, up to four."""
    return 2 if device.type == "cuda" else min(4, os.cpu_count() or 1)


def in_groups(items: Iterable[T], size: int) -> Generator[list[T], None, None]:
    """So many items at a time, in their order; the last group may have fewer."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


def in_threads(work: Callable[[T, threading.Event | None], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """What `work` makes of each item, in their order.

    Each thread is at work on an item of its own, with its share of PyTorch's threads. No more items are taken than can
    be worked on, and results are asked for before too many wait. By the event, which is set when nobody takes results
    any more, `work` learns that it may stop.
    """
    rest = iter(items)
    first = list(islice(rest, 2))
    waiting = chain(first, rest)
    if len(first) < 2 or workers == 1:
        for item in waiting:
            yield work(item, None)
        return
    threads = max(1, torch.get_num_threads() // workers)
    running: deque[Future[R]] = deque()
    with OF_NEW_THREADS:
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
        stop = threading.Event()
        try:
            running.extend(pool.submit(work, item, stop) for item in islice(waiting, workers + 1))
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(work, item, stop) for item in islice(waiting, 1))
        finally:
            stop.set()  # whoever is interrupted waits for no item that is being worked on
            pool.shutdown(wait=False, cancel_futures=True)
