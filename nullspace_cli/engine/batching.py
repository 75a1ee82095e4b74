"""Work on ranges of items that goes on with smaller ones when memory runs short."""

from collections.abc import Callable

import torch


def in_chunks(
    run: Callable[[int, int], object], count: int, size: int, notice: Callable[[str], None] = lambda text: None
) -> int:
    """Call `run(start, stop)` on consecutive ranges that cover `count` items, `size` or fewer at a time.

    A range that does not fit into memory is tried again with half the items, and so are those after it. `run` must
    have no effect where it raises.

    Args:
        notice: is told when the size is halved.

    Returns:
        The size that fitted, for the next call.

    Raises:
        torch.OutOfMemoryError, MemoryError: one item alone does not fit.
    """
    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            run(start, stop)
            start = stop
            continue
        except (torch.OutOfMemoryError, MemoryError):
            if stop - start == 1:
                raise
        # Only here, past the exception, whose traceback kept the tensors of the attempt alive.
        size = (stop - start) // 2
        notice(f"out of memory with {stop - start} images at once; going on with {size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return size
