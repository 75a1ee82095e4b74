"""Whole data sets through a network: images decoded ahead of their use, and room for a row about each of them."""

import math
import mmap
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nullspace_cli.engine.data.datasets import ImageSet, Sample
from nullspace_cli.engine.errors import ArtifactError, MemoryShortError, VitnullError
from nullspace_cli.engine.files.paths import reason_of
from nullspace_cli.engine.runtime.out_of_memory import within_memory
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

MAX_WORKERS = 16


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images of a data set as a model sees them; `positions` are their indices in the set.

    Pixels are uint8, or float32 in [0, 1].
    """

    positions: list[int]
    names: list[str]
    labels: list[int | None]
    pixels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, start: int, stop: int) -> "Batch":
        """Some of its images."""
        rows = slice(start, stop)
        return Batch(self.positions[rows], self.names[rows], self.labels[rows], self.pixels[rows])


def batches(
    images: ImageSet,
    transform: EvalTransform,
    size: int,
    *,
    positions: Sequence[int] | None = None,
    workers: int | None = None,
    skip: Callable[[str, VitnullError], None] | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Iterator[Batch]:
    """Decode the images at `positions` (all by default) in that order, `size` at a time.

    While a batch is in use, threads decode the next one and no more: `size` + `workers` images are under way. Each
    thread holds one image of full size, the rest are the model's input. The threads end with the iterator.

    Args:
        workers: threads; by default one for each core, up to 16. The network's own threads may take turns with them.
        skip: is told the name of an image that cannot be read, and why; its batch goes without it, and one that would
            be empty is left out.
        notice: is told of what is doubtful in an image that was read, with its name.

    Raises:
        ImageError: an image cannot be read or is too elongated, and there is no `skip`.
        MemoryShortError: one is too large to be decoded, and there is no `skip`.
    """
    order = range(len(images)) if positions is None else positions
    workers = workers or min(MAX_WORKERS, os.cpu_count() or 1)

    def decode(position: int) -> Sample:
        with within_memory(images.name_of(position)):
            return images.read(position, transform)

    pool = ThreadPoolExecutor(workers)
    try:
        waiting = iter(order)
        running = deque(pool.submit(decode, position) for position in islice(waiting, size + workers))
        for start in range(0, len(order), size):
            read: list[int] = []
            samples: list[Sample] = []
            for position in order[start : start + size]:
                future = running.popleft()
                running.extend(pool.submit(decode, later) for later in islice(waiting, 1))
                try:
                    sample = future.result()
                    samples.append(sample)
                    read.append(position)
                    for text in sample.notices:
                        notice(f"{sample.name}: {text}")
                except VitnullError as error:
                    if skip is None:
                        raise
                    skip(images.name_of(position), error)
            if samples:
                yield Batch(
                    read,
                    [sample.name for sample in samples],
                    [sample.label for sample in samples],
                    np.stack([sample.pixels for sample in samples]),
                )
    finally:
        pool.shutdown(cancel_futures=True)


def left_out(batch: Batch, skip: Callable[[str, VitnullError], None] | None) -> Callable[[int, str], None]:
    """What becomes of an image that does not fit into memory by itself, for `in_chunks`: it is skipped, or an error."""

    def alone(index: int, reason: str) -> None:
        error = MemoryShortError(batch.names[index], reason)
        if skip is None:
            raise error
        skip(batch.names[index], error)

    return alone


class Store:
    """Room for arrays with a row for each image: in memory while they fit a limit, beyond it in files that are mapped.

    The files have no name, so that none is left behind however the process ends; one goes with the array that is in it.
    On Linux /tmp may itself be memory: TMPDIR or `folder` then names a disk.

    Attributes:
        limit: bytes in memory, of all arrays together.
        folder: where the files are; by default the system's folder for temporary files.
        mapped: bytes on disk so far, of all arrays together.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit, self.folder = limit, folder or Path(tempfile.gettempdir())
        self.mapped, self._left = 0, limit

    def fits(self, shape: tuple[int, ...], dtype: DTypeLike) -> bool:
        """Whether such an array would stay in memory."""
        return _bytes(shape, dtype) <= self._left

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of zeros, in memory if what is left of the limit suffices.

        Raises:
            ArtifactError: the folder cannot hold it. Once allocated, an array can be filled.
        """
        size = _bytes(shape, dtype)
        if self.fits(shape, dtype):
            self._left -= size
            return np.zeros(shape, dtype)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                _fill(file, size)
                mapping = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise ArtifactError(
                f"Cannot keep {size} bytes in {self.folder}: {reason_of(error)}.",
                hint=f"Make room there, or raise `memory` ({self.limit} bytes, of which {self._left} are left) to keep "
                f"them in memory.",
            ) from error
        self.mapped += size
        return np.frombuffer(mapping, dtype).reshape(shape)


def _bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _fill(file: BinaryIO, size: int) -> None:
    """Give an empty file all its blocks. Were they found when a page is written back, a full disk would be fatal."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    block = bytes(2**20)
    for start in range(0, size, len(block)):
        file.write(block[: size - start])
    file.flush()
