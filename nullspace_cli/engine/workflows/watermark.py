"""Watermarks from file to verified file, one image or many: what `vitnull watermark` and the demo run."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from nullspace_cli.engine.errors import MemoryShortError, ModelError, VitnullError
from nullspace_cli.engine.files.pictures import Picture, encode_made, encode_png, read_picture
from nullspace_cli.engine.files.writing import write_bytes
from nullspace_cli.engine.models.devices import resolve_device
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.runtime.out_of_memory import in_chunks, within_memory
from nullspace_cli.engine.runtime.process import Shared
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.model_size import ModelSize
from nullspace_cli.engine.watermark.native_size import NativeSize, NullspaceChoice
from nullspace_cli.engine.watermark.result import Rounding, Watermarked, noise_picture, save_float
from nullspace_cli.engine.watermark.verification import Verification, WatermarkedFile, figures, share_changed, verify
from nullspace_cli.engine.workflows.failed_input import Failed


@dataclass(frozen=True)
class WatermarkFiles:
    """The files of one image: what is read, and what is written (`diff` and `unrounded` where wanted)."""

    source: Path
    output: Path
    diff: Path | None = None
    unrounded: Path | None = None


T = TypeVar("T")


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


@dataclass(frozen=True)
class WatermarkPipeline:
    """What all images of a run share.

    Attributes:
        size: "native" or "model".
        nullspace: for native size; model size has the patch embedding's only.
        norm: for model size; native size has 2 only.
        tolerance: largest embedding_error of a saved file that passes verification.
        verify: whether the model is run on the file that was written, re-read from disk. None: unless the model's input
            is the same to the last bit, which is proof enough.
        force: whether existing files may be overwritten.
        group: images at model size that are solved together.
        notice: is told what the user should know besides the results.
    """

    network: LazyModel
    design: Design
    size: Literal["native", "model"] = "native"
    nullspace: NullspaceChoice = "auto"
    norm: Literal[1, 2] = 2
    rounding: Rounding = "aware"
    tolerance: float = 0.01
    verify: bool | None = None
    force: bool = False
    group: int = 8
    notice: Callable[[str], None] = lambda text: None

    @property
    def default_workers(self) -> int:
        """Two on a GPU, so that one group is decoded while another is solved; else one for each core, up to four."""
        if resolve_device(self.network.request.device).type == "cuda":
            return 2
        return min(4, os.cpu_count() or 1)

    def prepare(self) -> None:
        """Load now what will be needed, so that what is missing shows before the first image.

        Raises:
            ModelError: the model cannot be loaded.
            NoNullspaceError: it has no nullspace of the kind that was asked for.
        """
        if self.size == "model" or self.nullspace == "patch":
            _ = self.network.patches
        elif self.verify:
            _ = self.network.model
        _ = self._make

    def __call__(self, job: WatermarkFiles) -> WatermarkedFile:
        """Read, solve, write, read back, verify one image.

        Raises:
            VitnullError: the image could not be read, or a file not be written.
        """
        (done,) = self.together([job])
        if isinstance(done, Failed):
            raise done.error
        return done

    def each(self, jobs: Sequence[WatermarkFiles], workers: int) -> Iterator[WatermarkedFile | Failed]:
        """Stamp many images, in their order; one that fails does not stop the others.

        Several threads work at once, each on a group of its own: while one solves, others decode, write and verify.
        """
        size = self.group if self.size == "model" else 1
        groups = deque(jobs[start : start + size] for start in range(0, len(jobs), size))
        if len(groups) <= 1 or workers == 1:
            for group in groups:
                yield from self.together(group)
            return
        threads = max(1, torch.get_num_threads() // workers)
        running: deque[Future[list[WatermarkedFile | Failed]]] = deque()
        with _THREADS, ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            try:
                while groups or running:
                    while groups and len(running) <= workers:
                        running.append(pool.submit(self.together, groups.popleft()))
                    yield from running.popleft().result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def together(self, jobs: Sequence[WatermarkFiles]) -> list[WatermarkedFile | Failed]:
        """Stamp the images of one group."""
        started = time.monotonic()
        done: dict[WatermarkFiles, WatermarkedFile | Failed] = {}
        pictures: dict[WatermarkFiles, Picture] = {}
        for job in jobs:
            try:
                with within_memory(str(job.source)):
                    pictures[job] = read_picture(job.source)
            except VitnullError as error:
                done[job] = Failed(job.source, error)
        for (job, picture), result in zip(pictures.items(), self._solve(list(pictures.values())), strict=True):
            try:
                if isinstance(result, VitnullError):
                    raise result
                with within_memory(_sized(picture)):
                    done[job] = self._finish(job, picture, result)
            except VitnullError as error:
                done[job] = Failed(job.source, error)
        for item in done.values():
            if isinstance(item, WatermarkedFile):
                item.record["seconds"] = round((time.monotonic() - started) / len(jobs), 3)
        return [done[job] for job in jobs]

    @cached_property
    def _make(self) -> ModelSize | NativeSize:
        network, device = self.network, resolve_device(self.network.request.device)
        if self.size == "model":
            return ModelSize(
                network.model.transform, network.patches, self.design, self.norm, self.rounding, device=device
            )
        return NativeSize(
            network.transform,
            self.design,
            lambda: network.patches,
            self.nullspace,
            self.rounding,
            device,
            tolerance=self.tolerance,
        )

    def _solve(self, pictures: Sequence[Picture]) -> list[Watermarked | VitnullError]:
        """Solve a group, as many at a time as memory allows; one that cannot be solved is singled out."""
        done: list[Watermarked | VitnullError] = []

        def solve(start: int, stop: int) -> None:
            done.extend(self._solved(pictures[start:stop]))

        def alone(index: int, reason: str) -> None:
            done.append(MemoryShortError(_sized(pictures[index]), reason))

        in_chunks(solve, len(pictures), max(1, len(pictures)), self.notice, alone)
        return done

    def _solved(self, pictures: Sequence[Picture]) -> list[Watermarked | VitnullError]:
        try:
            if isinstance(self._make, ModelSize):
                return list(self._make(pictures))
            return [self._make(picture) for picture in pictures]
        except VitnullError as error:
            if len(pictures) == 1:
                return [error]
        half = len(pictures) // 2
        return self._solved(pictures[:half]) + self._solved(pictures[half:])

    def _finish(self, job: WatermarkFiles, picture: Picture, result: Watermarked) -> WatermarkedFile:
        """Write the files, and measure what was written."""
        native = self.size == "native"
        if native and picture.reduced:
            self.notice(f"{job.output} is {picture.reduced}: a PNG cannot hold what {job.source} does")
        write_bytes(job.output, encode_made(picture, result.pixels, native=native), force=self.force)
        if job.diff:
            write_bytes(job.diff, encode_png(noise_picture(result)), force=self.force)
        about = self.network.describe()
        if job.unrounded:
            save_float(
                job.unrounded,
                result,
                self.design,
                job.source,
                self.network.basis if result.nullspace == "patch" else None,
                model=about["model"],
                weights_sha256=about["weights_sha256"],
                seed=self.network.request.seed,
                force=self.force,
            )
        verdict = self._judge(picture, read_picture(job.output))
        record = {
            "source": str(job.source),
            "output": str(job.output),
            **figures(result, verdict, self.tolerance),
            "diff": str(job.diff) if job.diff else None,
            "float": str(job.unrounded) if job.unrounded else None,
            "seconds": None,
        }
        return WatermarkedFile(result, verdict, record)

    def _judge(self, source: Picture, result: Picture) -> Verification:
        changed = share_changed(self.network.transform, source, result)
        if changed == 0 and not self.verify:
            return Verification.identical(has_head=self.network.has_head)
        if self.verify is False:
            return Verification(input_pixels_changed=changed)
        try:
            return verify(self.network.model, self.network.patch_map, source, result)
        except ModelError as error:
            if self.verify:
                raise
            self.notice(f"{result.path} could not be verified by the model: {error}")
            return Verification(input_pixels_changed=changed)


def _sized(picture: Picture) -> str:
    return f"{picture.path} ({picture.width} x {picture.height} pixels)"


def summarise(records: Sequence[Mapping[str, Any]], failed: int, elapsed: float) -> dict[str, Any]:
    """The figures over all images; None where no image says anything of them.

    Args:
        elapsed: seconds from the first image to the last.
    """
    judged = [record for record in records if record["match"] is not None]
    matched = sum(record["match"] for record in judged)
    changes = [r["confidence_change"] for r in records if r["confidence_change"] is not None]
    return {
        "count": len(records),
        "failed": failed,
        "matched": matched if judged else None,
        "match_percent": 100 * matched / len(judged) if judged else None,
        "mean_confidence_change": sum(changes) / len(changes) if changes else None,
        "max_confidence_change": max(changes, default=None),
        "bit_identical": sum(record["input_pixels_changed"] == 0 for record in records),
        "images_per_second": round(len(records) / elapsed, 3) if elapsed else None,
    }
