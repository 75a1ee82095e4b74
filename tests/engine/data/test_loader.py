"""Batches decoded ahead in threads, and arrays that may lie on disk."""

import errno
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nullspace_cli.engine.data.datasets import ImageSet, Sample, open_data
from nullspace_cli.engine.data.drawings import Drawings
from nullspace_cli.engine.data.loader import Store, batches
from nullspace_cli.engine.errors import ArtifactError, ImageError, VitnullError
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

TRANSFORM = EvalTransform((3, 8, 6), (0.5,) * 3, (0.5,) * 3, "bilinear")


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Eleven images of two classes, of different sizes."""
    rng = np.random.default_rng(0)
    for i in range(11):
        path = tmp_path / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + i, 12, 3), dtype=np.uint8)).save(path)
    return open_data(str(tmp_path))


def spoil(images: ImageSet, position: int) -> str:
    Path(images.name_of(position)).write_text("not an image")
    return images.name_of(position)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("workers", [1, 3, None])
@pytest.mark.parametrize("size", [1, 4, 11, 50])
@pytest.mark.parametrize("positions", [None, [7, 2, 2, 10, 0, 5], []])
def test_batches_are_what_a_plain_loop_gives(
    images: ImageSet, size: int, workers: int | None, positions: list[int] | None
) -> None:
    order = list(range(11)) if positions is None else positions
    found = list(batches(images, TRANSFORM, size, positions=positions, workers=workers))
    assert [batch.positions for batch in found] == [order[i : i + size] for i in range(0, len(order), size)]
    for batch in found:
        samples = [images[position] for position in batch.positions]
        assert batch.names == [sample.name for sample in samples]
        assert batch.labels == [sample.label for sample in samples]
        assert batch.pixels.dtype == np.uint8
        assert np.array_equal(batch.pixels, np.stack([TRANSFORM.input_pixels(sample.pixels) for sample in samples]))


class Slow(ImageSet):
    """A data set that counts what was asked of it, and gives the first image last."""

    def __init__(self, count: int) -> None:
        super().__init__(Drawings("val"), chosen=range(count))
        self.asked: list[int] = []
        self.others = threading.Semaphore(0)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        self.asked.append(index)
        if index == 0:
            assert self.others.acquire(timeout=10)
        else:
            self.others.release()
        return Sample(str(index), np.full((8, 6, 3), index, np.uint8), None)


def test_images_that_are_decoded_in_another_order_come_in_theirs() -> None:
    (batch,) = batches(Slow(6), TRANSFORM, 6, workers=2)
    assert batch.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_batch_is_decoded_ahead_and_no_more() -> None:
    images = Slow(100)
    each = batches(images, TRANSFORM, 10, workers=3)
    assert images.asked == []
    for consumed in (10, 20, 30):
        next(each)
        deadline = time.monotonic() + 10
        while len(images.asked) < consumed + 10 + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(images.asked) == consumed + 10 + 3
    each.close()  # type: ignore[attr-defined]
    assert len(images.asked) == 43


def test_an_unreadable_image_is_raised_with_its_name(images: ImageSet) -> None:
    name = spoil(images, 6)
    each = batches(images, TRANSFORM, 3, workers=2)
    assert [next(each).positions, next(each).positions] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ImageError) as caught:
        next(each)
    assert name in str(caught.value)


def test_an_unreadable_image_is_skipped_when_someone_is_told(images: ImageSet) -> None:
    names = [spoil(images, position) for position in (1, 3, 4, 5)]
    told: list[tuple[str, VitnullError]] = []
    found = list(batches(images, TRANSFORM, 3, workers=2, skip=lambda *what: told.append(what)))
    assert [batch.positions for batch in found] == [[0, 2], [6, 7, 8], [9, 10]]
    assert [batch.pixels.shape[0] for batch in found] == [2, 3, 2]
    assert [name for name, _ in told] == names
    assert all(isinstance(error, ImageError) for _, error in told)


def test_an_image_that_the_transform_refuses_is_named(images: ImageSet) -> None:
    name = images.name_of(4)
    Image.fromarray(np.zeros((9000, 1, 3), np.uint8)).save(name)
    with pytest.raises(ImageError, match="too elongated") as caught:
        list(batches(images, EvalTransform((3, 224, 224), (0.5,) * 3, (0.5,) * 3, "bilinear"), 4))
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_threads_end_with_an_exception_of_the_consumer(images: ImageSet, error: type[BaseException]) -> None:
    def consume() -> None:
        for _ in batches(images, TRANSFORM, 2, workers=2):
            raise error

    with pytest.raises(error):
        consume()


# Store


def rows_are_kept(array: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    values = (9 * rng.random(array.shape)).astype(array.dtype)
    assert not array.any()
    for rows in ([2, 0], [1, 3, 4]):
        array[rows] = values[rows]
    assert np.array_equal(array, values)


def test_arrays_stay_in_memory_up_to_the_limit(tmp_path: Path) -> None:
    store = Store(limit=5 * 7 * 4 + 10, folder=tmp_path)
    rows_are_kept(store.allocate((5, 7), np.float32))
    assert store.mapped == 0
    assert not store.fits((5, 3), np.float16)
    rows_are_kept(store.allocate((5, 3), np.float16))
    assert store.mapped == 5 * 3 * 2
    assert store.fits((5, 2), np.int8)
    rows_are_kept(store.allocate((5, 2), np.int8))  # what is left of the limit
    assert store.mapped == 5 * 3 * 2
    assert store.allocate((0, 3), np.float64).shape == (0, 3)


def test_a_mapped_file_has_no_name(tmp_path: Path) -> None:
    store = Store(limit=0, folder=tmp_path)
    first, second = store.allocate((3, 2**20), np.uint8), store.allocate((5,), np.int64)
    assert store.mapped == 3 * 2**20 + 40
    first[2], second[:] = 7, 8
    assert (first[2].tolist(), second.tolist()) == ([7] * 2**20, [8] * 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("native", [True, False])
def test_a_mapped_file_has_all_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """Whether the system can give them at once, or they have to be written."""
    if native and not hasattr(os, "posix_fallocate"):
        pytest.skip("this system has no posix_fallocate")
    if not native:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    found: list[os.stat_result] = []

    def looked_at(descriptor: int, size: int) -> mmap.mmap:
        found.append(os.fstat(descriptor))
        assert list(tmp_path.iterdir()) == []  # nor has it a name
        return mapped(descriptor, size)

    mapped = mmap.mmap
    monkeypatch.setattr(mmap, "mmap", looked_at)
    size = 3 * 2**20 + 5
    rows_are_kept(Store(limit=0, folder=tmp_path).allocate((5, size), np.uint8)[:, :3])
    assert found[0].st_size == 5 * size
    assert found[0].st_blocks * 512 >= 5 * size


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_error_before_anything_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    store = Store(limit=100, folder=tmp_path)
    store.allocate((10,), np.int8)
    with pytest.raises(ArtifactError) as caught:
        store.allocate((25, 1000), np.float32)
    message = str(caught.value)
    assert message.startswith(f"Cannot keep 100000 bytes in {tmp_path}: {os.strerror(number)}.")
    assert "raise `memory`" in message
    assert "(100 bytes, of which 90 are left)" in message
    assert list(tmp_path.iterdir()) == []
    assert store.mapped == 0


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Cannot keep 8 bytes in"):
        Store(limit=7, folder=tmp_path / "none").allocate((8,), np.int8)


def test_nothing_is_left_of_a_process_that_is_killed(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from nullspace_cli.engine.data.loader import Store
array = Store(0, Path(sys.argv[1])).allocate((4, 4096), "float32")
array[2] = 1
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr
    assert list(tmp_path.iterdir()) == []
