"""Arrays on their way to a card: what comes, in which order, and what becomes of the thread."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from nullspace_cli.engine.runtime import uploads
from nullspace_cli.engine.runtime.uploads import uploaded
from tests.simulated_card import Traffic

Arrays = tuple[np.ndarray, ...]


def numbers(count: int) -> list[Arrays]:
    """Pairs of arrays of several sizes and types, among them empty ones."""
    dice = np.random.default_rng(0)
    return [(dice.integers(0, 255, (i % 4, 5), np.uint8), dice.random((2, i)).astype(np.float32)) for i in range(count)]


def test_each_item_comes_with_its_arrays(device: torch.device) -> None:
    given = numbers(9)
    kept = list(uploaded(given, lambda item: item, device))  # all of them: no buffer is written over too early
    for item, (own, (left, right)) in zip(given, kept, strict=True):
        assert own is item
        assert left.device.type == right.device.type == device.type
        np.testing.assert_array_equal(left.cpu().numpy(), item[0])
        np.testing.assert_array_equal(right.cpu().numpy(), item[1])
        assert (left.dtype, right.dtype) == (torch.uint8, torch.float32)


def test_nothing_holds_the_host_up(traffic: Traffic) -> None:
    given, before = numbers(5)[1:], traffic.counts()
    list(uploaded(given, lambda item: item, torch.device("cuda")))
    assert traffic.counts() - before == (8, 0, 0, 0), traffic.report()


@pytest.mark.gpu
def test_one_item_is_taken_ahead_and_no_more() -> None:
    taken, before = list[int](), threading.active_count()

    def items() -> Iterator[int]:
        for i in range(5):
            taken.append(i)
            yield i

    each = uploaded(items(), lambda item: (np.zeros(item),), torch.device("cuda"))
    assert next(each)[0] == 0
    each.close()  # type: ignore[attr-defined]
    assert taken in ([0], [0, 1])
    assert threading.active_count() == before


@pytest.mark.gpu
def test_an_error_gets_through() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise KeyError("bad")

    each = uploaded(items(), lambda item: (np.zeros(1),), torch.device("cuda"))
    next(each)
    with pytest.raises(KeyError, match="bad"):
        next(each)


@pytest.mark.gpu
def test_what_the_card_has_no_room_for_stays_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    holding = uploads._Buffer.holding

    def short(self: uploads._Buffer, arrays: Arrays) -> list[torch.Tensor]:
        if sum(array.nbytes for array in arrays) > 50:
            raise torch.OutOfMemoryError("too much")
        return holding(self, arrays)

    monkeypatch.setattr(uploads._Buffer, "holding", short)
    given = numbers(9)
    for item, tensors in uploaded(given, lambda item: item, torch.device("cuda")):
        assert all(tensor.is_cuda == (item[0].nbytes + item[1].nbytes <= 50) for tensor in tensors)
        np.testing.assert_array_equal(tensors[1].cpu().numpy(), item[1])
