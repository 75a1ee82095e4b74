"""Ranges that are halved when memory runs short."""

from collections.abc import Callable

import pytest
import torch

from nullspace_cli.engine.batching import in_chunks


def starved(room: int, error: type[Exception], done: list[int]) -> Callable[[int, int], None]:
    """Work that fits up to `room` items at once."""

    def run(start: int, stop: int) -> None:
        if stop - start > room:
            raise error("no memory")
        done.extend(range(start, stop))

    return run


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize(("room", "fits"), [(100, 8), (8, 8), (5, 4), (1, 1)])
def test_every_item_is_done_once_and_in_order(room: int, fits: int, error: type[Exception]) -> None:
    done: list[int] = []
    notices: list[str] = []
    assert in_chunks(starved(room, error, done), 21, 8, notices.append) == fits
    assert done == list(range(21))
    assert len(notices) == {8: 0, 4: 1, 1: 3}[fits]
    assert not notices or notices[0] == "out of memory with 8 images at once; going on with 4"


def test_one_item_that_does_not_fit() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        in_chunks(starved(0, torch.OutOfMemoryError, []), 3, 2)


def test_the_failed_attempt_is_let_go_before_the_next() -> None:
    """An exception keeps its frames, and they their tensors."""
    alive: list[int] = []

    class Held:
        def __del__(self) -> None:
            alive.remove(0)

    def run(start: int, stop: int) -> None:
        assert not alive
        held = Held()  # noqa: F841 - what the frame holds
        alive.append(0)
        if stop - start > 1:
            raise torch.OutOfMemoryError

    assert in_chunks(run, 4, 4) == 1


def test_nothing_to_do() -> None:
    assert in_chunks(starved(0, MemoryError, []), 0, 8) == 8
