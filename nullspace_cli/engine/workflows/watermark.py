"""Watermarks from file to verified file, one image or many: what `vitnull watermark` and the demo run."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from nullspace_cli.engine.comparison.input_change import inputs_of
from nullspace_cli.engine.errors import ImageError, MemoryShortError, ModelError, VitnullError
from nullspace_cli.engine.files.addresses import is_address
from nullspace_cli.engine.files.containers import Encoded, is_jpeg
from nullspace_cli.engine.files.jpeg_pictures import QUALITY, JpegPicture, jpeg_of, why_no_jpeg
from nullspace_cli.engine.files.paths import exists
from nullspace_cli.engine.files.pictures import (
    Picture,
    container_of,
    encode_like,
    encode_png,
    encode_resized,
    read_picture,
    why_no_result,
    why_not,
    write_picture,
)
from nullspace_cli.engine.files.two_readings import DifferenceNotice, Reading
from nullspace_cli.engine.files.work_locks import at_work_on
from nullspace_cli.engine.files.writing import FilesTogether
from nullspace_cli.engine.models.devices import resolve_device
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.watermark import show_watermark
from nullspace_cli.engine.runtime.out_of_memory import in_chunks, within_memory
from nullspace_cli.engine.runtime.stages import stage
from nullspace_cli.engine.watermark.design import Design, TextDesign
from nullspace_cli.engine.watermark.further_readers import ForOneSize, FurtherReaders, changes
from nullspace_cli.engine.watermark.input_constraint import require_distance
from nullspace_cli.engine.watermark.jpeg_size import JpegSize
from nullspace_cli.engine.watermark.legibility import legibility
from nullspace_cli.engine.watermark.model_size import ModelSize
from nullspace_cli.engine.watermark.native_size import NativeSize, NullspaceChoice
from nullspace_cli.engine.watermark.result import Rounding, Watermarked, noise_gain, noise_picture, save_float
from nullspace_cli.engine.watermark.verification import (
    Verification,
    WatermarkedFile,
    compare_inputs,
    figures,
    verify,
)
from nullspace_cli.engine.workflows.failed_input import DoneElsewhere, Failed
from nullspace_cli.engine.workflows.in_threads import default_workers, in_groups, in_threads

T = TypeVar("T")
R = TypeVar("R")
Outcome = WatermarkedFile | Failed | DoneElsewhere


@dataclass(frozen=True)
class WatermarkFiles:
    """The files of one image: what is read, and what is written (`diff` and `unrounded` where wanted)."""

    source: Path
    output: Path
    diff: Path | None = None
    unrounded: Path | None = None

    def reading(self, source: Path) -> "WatermarkFiles":
        """The same of another file."""
        return replace(self, source=source)

    def files(self) -> list[Path]:
        """All that is written."""
        return [path for path in (self.output, self.diff, self.unrounded) if path]


@dataclass(frozen=True)
class WatermarkPipeline:
    """What all images of a run share.

    Attributes:
        size: "native" or "model".
        nullspace: for native size; model size has the first layers' only.
        norm: for model size; native size has 2 only.
        tolerance: largest embedding_error of a saved file that passes verification.
        verify: whether the model is run on the file that was written, re-read from disk. None: unless the model's input
            is the same to the last bit, which is proof enough.
        force: whether existing files may be overwritten.
        group: images at model size that are solved together; None for 8, or on a card for 32, whose patches fill it.
        notice: is told what the user should know besides the results.
        reading: how the model is given the files.
        gallery: where the pictures of a page are put; None for no page.
        quality: of a JPEG that is made of another picture.
        readers: who else is to see no mark; at native size alone.
    """

    network: LazyModel
    design: Design | TextDesign
    size: Literal["native", "model"] = "native"
    nullspace: NullspaceChoice = "auto"
    norm: Literal[1, 2] = 2
    rounding: Rounding = "aware"
    tolerance: float = 0.01
    verify: bool | None = None
    force: bool = False
    group: int | None = None
    notice: Callable[[str], None] = lambda text: None
    reading: Reading = "timm"
    gallery: Gallery | None = None
    quality: int = QUALITY
    readers: FurtherReaders = field(default_factory=FurtherReaders)

    @cached_property
    def _tell(self) -> DifferenceNotice:
        return DifferenceNotice(self.notice, self.reading)

    @property
    def default_workers(self) -> int:
        """Two on a GPU, so that one group is decoded while another is solved; else one for each core, up to four."""
        return default_workers(resolve_device(self.network.request.device))

    @cached_property
    def _on_card(self) -> bool:
        return resolve_device(self.network.request.device).type == "cuda"

    @property
    def _group(self) -> int:
        return self.group or (32 if self._on_card else 8)

    def prepare(self) -> None:
        """Load now what will be needed, so that what is missing shows before the first image.

        Raises:
            ModelError: the model cannot be loaded.
            NoNullspaceError: it has no nullspace of the kind that was asked for.
        """
        self.network.transform.require_pictures()
        if self.size == "model":
            require_distance(self.network.first_layer, self.norm)
        elif self.nullspace == "patch":
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

    def each(self, jobs: Iterable[WatermarkFiles], workers: int, *, shared: bool = False) -> Iterator[Outcome]:
        """Stamp many images, in their order; one that fails does not stop the others.

        Several threads work at once, each on a group of its own: while one solves, others decode, write and verify.

        Args:
            shared: leave to other processes what they are at work on. That comes last, once they are done with it: if
                they failed, or died, their images are done here.
        """
        groups = in_groups(jobs, self._group if self.size == "model" else 1)
        if not shared:
            for done in in_threads(self.together, groups, workers):
                yield from done
            return
        taken: list[WatermarkFiles] = []
        for found in in_threads(self._shared, groups, workers):
            taken += [item for item in found if isinstance(item, WatermarkFiles)]
            yield from (item for item in found if not isinstance(item, WatermarkFiles))
        # One by one, so that nobody waits while others wait for him.
        for found in in_threads(partial(self._shared, wait=True), [[job] for job in taken], workers):
            yield from (item for item in found if not isinstance(item, WatermarkFiles))

    def _shared(
        self, jobs: Sequence[WatermarkFiles], stop: threading.Event | None = None, *, wait: bool = False
    ) -> list[Outcome | WatermarkFiles]:
        """`together`, but for what other processes have done or are at work on; the latter are given back."""
        with ExitStack() as locks:
            mine = [
                job for job in jobs if is_address(job.output) or locks.enter_context(at_work_on(job.output, wait=wait))
            ]
            there = [job for job in mine if exists(job.output) and why_no_result(job.output) is None]
            todo = [job for job in mine if job not in there]
            done = self.together(todo, stop) if todo else []
            found: dict[WatermarkFiles, Outcome] = {job: DoneElsewhere(job.source) for job in there}
            found |= dict(zip(todo, done, strict=False))  # none are done where all is stopped
            return [found.get(job, job) for job in jobs]

    def together(
        self, jobs: Sequence[WatermarkFiles], stop: threading.Event | None = None
    ) -> list[WatermarkedFile | Failed]:
        """Stamp the images of one group.

        Args:
            stop: once it is set, nobody waits for them, and no more of them are written.
        """
        started = time.monotonic()
        done: dict[WatermarkFiles, WatermarkedFile | Failed] = {}
        pictures: dict[WatermarkFiles, tuple[Picture | JpegPicture, Design]] = {}
        for job, read in zip(jobs, self._beside(self._read, jobs, stop), strict=False):
            if isinstance(read, Failed):
                done[job] = read
            else:
                pictures[job] = read
        if stop and stop.is_set():
            return []
        results = self._solve(list(pictures.values()))
        solved = [(*item, result) for item, result in zip(pictures.items(), results, strict=True)]
        done |= zip(pictures, self._beside(self._written, solved, stop), strict=False)
        if stop and stop.is_set():
            return []
        for item in done.values():
            if isinstance(item, WatermarkedFile):
                item.record["seconds"] = round((time.monotonic() - started) / len(jobs), 3)
        return [done[job] for job in jobs]

    def _beside(self, work: Callable[[T], R], items: Sequence[T], stop: threading.Event | None) -> Iterator[R]:
        """What `work` makes of each item, until all is stopped; while a card waits for a group, on all cores."""

        def unless_stopped(item: T, _: threading.Event | None) -> list[R]:
            return [] if stop and stop.is_set() else [work(item)]

        workers = max(1, (os.cpu_count() or 1) // 2) if self._on_card else 1  # for each of two groups
        for made in in_threads(unless_stopped, items, workers):
            yield from made

    def _read(self, job: WatermarkFiles) -> tuple[Picture | JpegPicture, Design] | Failed:
        try:
            stage(f"reading {job.source}")
            with within_memory(str(job.source)):
                picture = read_picture(job.source, self.reading)
                self._require_room(job, picture)
                picture.tell(self.notice)
                self._tell(str(job.source), picture)
                self._tell_readers(picture)
                taken = self._as_jpeg(job, picture) if is_jpeg(job.output) else picture
            return taken, self.design.of(picture)
        except VitnullError as error:
            return Failed(job.source, error)

    def _written(
        self, solved: tuple[WatermarkFiles, tuple[Picture | JpegPicture, Design], Watermarked | VitnullError]
    ) -> WatermarkedFile | Failed:
        job, (taken, design), result = solved
        try:
            if isinstance(result, VitnullError):
                raise result
            picture = _picture_of(taken)
            stage(f"writing and measuring {job.output}")
            with within_memory(_sized(picture)):
                return self._finish(job, picture, design, result)
        except VitnullError as error:
            return Failed(job.source, error)

    def _require_room(self, job: WatermarkFiles, picture: Picture) -> None:
        """See before the slow work that the output's format can hold what the picture is made of.

        Raises:
            ImageError: it cannot.
        """
        jpeg, native = is_jpeg(job.output), self.size == "native"
        reason = why_no_jpeg(picture) if jpeg else why_not(picture, container_of(job.output), native=native)
        if reason:
            raise ImageError(f"Cannot write {job.output}: {reason}")

    def _as_jpeg(self, job: WatermarkFiles, picture: Picture) -> JpegPicture:
        jpeg = jpeg_of(picture, self.quality)
        if jpeg.compared_with == "plain JPEG" and picture.format == "JPEG":
            self.notice(
                f"{job.source} is a JPEG whose coefficients cannot be kept: it is encoded anew, with quality "
                f"{self.quality}, and {job.output} is compared with that"
            )
        return jpeg

    @cached_property
    def _make_jpeg(self) -> JpegSize:
        device = resolve_device(self.network.request.device)
        return JpegSize(self.network.transform, None, self.rounding, device)

    @cached_property
    def _make(self) -> ModelSize | NativeSize:
        network, device = self.network, resolve_device(self.network.request.device)
        if self.size == "model":
            return ModelSize(
                network.model.transform, network.first_layer, None, self.norm, self.rounding, device=device
            )
        return NativeSize(
            network.transform,
            None,
            lambda: network.patches,
            self.nullspace,
            self.rounding,
            device,
            tolerance=self.tolerance,
            readers=self.readers,
        )

    def _readers_of(self, picture: Picture) -> ForOneSize:
        return self.readers.of(picture.width, picture.height, self.network.transform)

    def _tell_readers(self, picture: Picture) -> None:
        said = self._readers_of(picture).notice
        if said and said not in self._said:
            self._said.add(said)
            self.notice(said)

    @cached_property
    def _said(self) -> set[str]:
        """What was said of a size of picture is not said of the next."""
        return set()

    def _solve(self, pictures: Sequence[tuple[Picture | JpegPicture, Design]]) -> list[Watermarked | VitnullError]:
        """Solve a group, as many at a time as memory allows; one that cannot be solved is singled out."""
        done: list[Watermarked | VitnullError] = []

        def solve(start: int, stop: int) -> None:
            done.extend(self._solved(pictures[start:stop]))

        def alone(index: int, reason: str) -> None:
            done.append(MemoryShortError(_sized(_picture_of(pictures[index][0])), reason))

        in_chunks(solve, len(pictures), max(1, len(pictures)), self.notice, alone)
        return done

    def _solved(self, pictures: Sequence[tuple[Picture | JpegPicture, Design]]) -> list[Watermarked | VitnullError]:
        try:
            if isinstance(self._make, ModelSize):
                taken, designs = zip(*pictures, strict=True)
                return list(self._make([_picture_of(picture) for picture in taken], list(designs)))
            return [
                self._make_jpeg(picture, design) if isinstance(picture, JpegPicture) else self._make(picture, design)
                for picture, design in pictures
            ]
        except VitnullError as error:
            if len(pictures) == 1:
                return [error]
        half = len(pictures) // 2
        return self._solved(pictures[:half]) + self._solved(pictures[half:])

    def _finish(self, job: WatermarkFiles, picture: Picture, design: Design, result: Watermarked) -> WatermarkedFile:
        """Write the files, and measure what was written."""
        native, container = self.size == "native", "JPEG" if result.jpeg else container_of(job.output)
        if native and picture.reduced:
            self.notice(f"{job.output} is {picture.reduced}: a {container} cannot hold what {job.source} does")
        seen = legibility(result)  # draws the mark on a canvas of its own: before the file and its pixels are held, too
        data, lost = result.jpeg[:2] if result.jpeg else self._encoded(job, picture, result)
        if lost:
            self.notice(f"{job.output} goes without what {job.source} has: {', '.join(lost)}")
        with FilesTogether(force=self.force) as files:
            written = write_picture(files, job.output, data, result.pixels, self.reading)
            if job.diff:
                files.write(
                    job.diff, lambda path: path.write_bytes(encode_png(picture.turn.upright(noise_picture(result))))
                )
            if job.unrounded:
                files.write(job.unrounded, lambda path: self._save_float(path, job.source, design, result))
            verdict = self._judge(picture, written)
            changed = changes(self._readers_of(picture).measured, picture, written)
        record = {
            "source": str(job.source),
            "output": str(job.output),
            "text": design.mark.text,
            **figures(result, verdict, self.tolerance, seen),
            "readers": changed,
            "diff": str(job.diff) if job.diff else None,
            "diff_gain": noise_gain(result) if job.diff else None,
            "float": str(job.unrounded) if job.unrounded else None,
            "seconds": None,
        }
        if self.gallery is not None:
            inputs = inputs_of(self.network.transform.input_pixels, picture, written)
            show_watermark(self.gallery, record, result, inputs, picture.turn)
        return WatermarkedFile(result, verdict, record)

    def _encoded(self, job: WatermarkFiles, picture: Picture, result: Watermarked) -> Encoded:
        encode = encode_like if self.size == "native" else encode_resized
        return encode(picture, result.pixels, container_of(job.output))

    def _save_float(self, path: Path, source: Path, design: Design, result: Watermarked) -> Path:
        about = self.network.describe()
        return save_float(
            path,
            result,
            design,
            source,
            None if result.nullspace == "resize" else self.network.basis,
            model=about["model"],
            weights_sha256=about["weights_sha256"],
            seed=self.network.request.seed,
        )

    def _judge(self, source: Picture, result: Picture) -> Verification:
        compared = compare_inputs(self.network.transform, source, result)
        if compared.changed == 0 and not self.verify:
            return compared.as_identical(has_head=self.network.has_head)
        if self.verify is False:
            return compared
        try:
            return verify(self.network.model, self.network.reading, source, result)
        except ModelError as error:
            if self.verify:
                raise
            self.notice(f"{result.path} could not be verified by the model: {error}")
            return compared


def _picture_of(source: Picture | JpegPicture) -> Picture:
    """What a result is compared with."""
    return source.picture if isinstance(source, JpegPicture) else source


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
