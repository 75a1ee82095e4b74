"""Ranges that are halved when memory runs short, and who says that it is."""

import errno
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullspace_cli.engine.errors import MemoryShortError, VitnullError, is_out_of_memory
from nullspace_cli.engine.runtime.out_of_memory import in_blocks, in_chunks, within_memory

SAID = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 8.00 GB)",
    "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "9000000000000 bytes. Error code 12 (Cannot allocate memory)",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "MAGMA: cannot allocate memory on GPU device",
    "could not create a primitive",
    "could not create a memory object",
    "could not execute a primitive",
    "std::bad_alloc",
    "bad allocation",
    "unable to mmap 86 bytes from file <model.pth>: Cannot allocate memory (12)",
)
OTHERWISE = (
    "required rank 4 tensor to use channels_last format",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
    "could not create a primitive descriptor for the convolution forward propagation primitive",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "",
)


class AcceleratorError(RuntimeError):
    """As torch's, which cannot be made here."""


@pytest.mark.parametrize("kind", [RuntimeError, AcceleratorError])
def test_who_says_that_memory_is_short(kind: type[RuntimeError]) -> None:
    assert [text for text in SAID if not is_out_of_memory(kind(text))] == []
    assert [text for text in OTHERWISE if is_out_of_memory(kind(text))] == []


def test_errors_that_are_told_by_their_kind() -> None:
    class ArrayMemoryError(MemoryError):
        pass

    for short in (MemoryError(), ArrayMemoryError("x"), torch.OutOfMemoryError("x"), OSError(errno.ENOMEM, "no")):
        assert is_out_of_memory(short)
    for other in (OSError(errno.ENOSPC, "No space left"), ValueError("out of memory"), VitnullError("out of memory")):
        assert not is_out_of_memory(other)
    assert not is_out_of_memory(MemoryShortError("photo.png", "out of memory"))


def test_torch_itself() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


def starved(room: int, error: Callable[[], Exception], done: list[int]) -> Callable[[int, int], None]:
    """Work that fits up to `room` items at once."""

    def run(start: int, stop: int) -> None:
        if stop - start > room:
            raise error()
        done.extend(range(start, stop))

    return run


ERRORS: list[Callable[[], Exception]] = [
    torch.OutOfMemoryError,
    MemoryError,
    *(lambda text=text: RuntimeError(text) for text in SAID),
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("room", "fits"), [(100, 8), (8, 8), (5, 4), (1, 1)])
def test_every_item_is_done_once_and_in_order(room: int, fits: int, error: Callable[[], Exception]) -> None:
    done: list[int] = []
    notices: list[str] = []
    assert in_chunks(starved(room, error, done), 21, 8, notices.append) == fits
    assert done == list(range(21))
    assert len(notices) == {8: 0, 4: 1, 1: 3}[fits]
    assert not notices or notices[0] == "out of memory with 8 images at once; going on with 4"


def test_one_item_that_does_not_fit() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        in_chunks(starved(0, torch.OutOfMemoryError, []), 3, 2)


def test_what_is_wrong_otherwise_is_not_tried_again() -> None:
    def run(start: int, stop: int) -> None:
        calls.append(stop - start)
        raise RuntimeError(OTHERWISE[0])

    calls: list[int] = []
    with pytest.raises(RuntimeError, match="required rank"):
        in_chunks(run, 8, 4)
    assert calls == [4]


@given(st.integers(0, 30), st.integers(1, 40), st.integers(1, 10), st.sets(st.integers(0, 29)))
def test_items_that_do_not_fit_are_passed_over(count: int, size: int, room: int, large: set[int]) -> None:
    done: list[int] = []
    over: list[int] = []

    def run(start: int, stop: int) -> None:
        if stop - start > room or large & set(range(start, stop)):
            raise MemoryError
        done.extend(range(start, stop))

    in_chunks(run, count, size, alone=lambda index, reason: over.append(index))
    assert over == sorted(index for index in large if index < count)
    assert done == [index for index in range(count) if index not in large]


@given(st.integers(0, 12), st.integers(0, 6), st.integers(1, 40), st.integers(1, 40))
def test_blocks_cover_a_table(rows: int, columns: int, size: int, room: int) -> None:
    """Down to one cell; and each column sees its rows in order, so that sums are the same to the last bit."""
    done: dict[int, list[int]] = {column: [] for column in range(columns)}
    largest = []

    def run(down: range, across: range) -> None:
        if len(down) * len(across) > room:
            raise MemoryError
        largest.append(len(down) * len(across))
        for column in across:
            done[column] += down

    fits = in_blocks(run, rows, columns, size)
    assert all(seen == list(range(rows)) for seen in done.values())
    assert max(largest, default=0) <= min(room, size)
    assert fits <= size


def test_blocks_are_of_many_rows_and_then_of_columns() -> None:
    blocks: list[tuple[range, range]] = []
    in_blocks(lambda *block: blocks.append(block), 5, 3, 4)
    assert blocks == [*((range(4), range(k, k + 1)) for k in range(3)), (range(4, 5), range(3))]


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
    with pytest.raises(MemoryShortError) as caught, within_memory("photo.png"):
        run(0, 2)
    assert not alive
    assert caught.value.__suppress_context__


def test_nothing_to_do() -> None:
    assert in_chunks(starved(0, MemoryError, []), 0, 8) == 8


def test_an_error_that_says_what_did_not_fit() -> None:
    said = r"^photo.png does not fit into memory \(CUDA error: out of memory\). Try"
    with pytest.raises(MemoryShortError, match=said), within_memory("photo.png"):
        raise RuntimeError(SAID[1])
    with pytest.raises(ZeroDivisionError), within_memory("photo.png"):
        1 / 0  # noqa: B018
    value: Any = None
    with within_memory("photo.png"):
        value = 1
    assert value == 1
