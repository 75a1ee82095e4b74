"""Work on ranges of items that goes on with smaller ones when memory runs short."""

from collections import deque
from collections.abc import Callable

import torch

from nullspace_cli.engine.errors import MemoryShortError, first_line, is_out_of_memory


def in_chunks(
    run: Callable[[int, int], object],
    count: int,
    size: int,
    notice: Callable[[str], None] = lambda text: None,
    alone: Callable[[int, str], None] | None = None,
) -> int:
    """Call `run(start, stop)` on consecutive ranges that cover `count` items, `size` or fewer at a time.

    A range that does not fit into memory is tried again with half the items, and so are those after it. `run` must
    have no effect where it raises.

    Args:
        notice: is told when the size is halved.
        alone: is told of an item that does not fit by itself, and what was said of it; the others go on without it.

    Returns:
        The size that fitted, for the next call.

    Raises:
        torch.OutOfMemoryError, MemoryError, ...: one item alone does not fit, and there is no `alone`.
    """
    return _cover(lambda rows, _: run(rows.start, rows.stop), count, 1, size, notice, alone)


def in_blocks(
    run: Callable[[range, range], object],
    rows: int,
    columns: int,
    size: int,
    notice: Callable[[str], None] = lambda text: None,
    alone: Callable[[int, str], None] | None = None,
) -> int:
    """Call `run(rows, columns)` on blocks that cover a table, `size` or fewer of its cells at a time.

    A block has as many rows as may be, and then as many columns. Blocks of the same rows follow one another, and of
    each column the rows are in order: sums down the columns do not depend on how many columns go together. In all else
    as `in_chunks`, which has one column; of a row that does not fit `alone` is told once for each of its cells.
    """
    return _cover(run, rows, columns, size, notice, alone)


def _cover(
    run: Callable[[range, range], object],
    rows: int,
    columns: int,
    size: int,
    notice: Callable[[str], None],
    alone: Callable[[int, str], None] | None,
) -> int:
    waiting: deque[tuple[range, range]] = deque([(range(rows), range(columns))])
    while waiting:
        down, across = waiting.popleft()
        if not down or not across:
            continue
        height = min(size, len(down))
        width = max(1, size // height)
        waiting.extendleft([(down[height:], across), (down[:height], across[width:])])
        block, short = (down[:height], across[:width]), ""
        try:
            run(*block)
        except Exception as error:
            if not is_out_of_memory(error) or (alone is None and len(block[0]) * len(block[1]) == 1):
                raise
            short = first_line(error)
        if not short:
            continue
        # Only here, past the exception, whose traceback kept the tensors of the attempt alive.
        release_memory()
        cells = len(block[0]) * len(block[1])
        if cells == 1:
            assert alone is not None
            alone(block[0].start, short)
            continue
        size = cells // 2
        notice(f"out of memory with {cells} images at once; going on with {size}")
        waiting.appendleft(block)
    return size


class within_memory:  # noqa: N801 - a context manager, as those of contextlib
    """Say what it was where memory is short, as an error that is the user's to mend.

    Raises:
        MemoryShortError: in the place of whatever the library raised.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, Exception) or not is_out_of_memory(error):
            return
        reason = first_line(error)
        error.__traceback__ = None  # the frames in it keep the tensors of the attempt, and our own error would keep it
        del error, traceback
        raise MemoryShortError(self._what, reason) from None


def release_memory() -> None:
    """Give the system what torch keeps of a GPU's memory for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
