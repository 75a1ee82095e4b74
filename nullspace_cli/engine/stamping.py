"""Watermarks from file to verified file, one image or many: what `vitnull watermark` and the demo run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nullspace_cli.engine.artifacts import write_bytes
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.images import check_picture, encode_png, read_picture
from nullspace_cli.engine.marks import Mark, Placement
from nullspace_cli.engine.models import LoadedModel
from nullspace_cli.engine.watermarking import (
    PatchSpace,
    Verification,
    Watermarked,
    likeness,
    noise_picture,
    save_float,
    verify,
    watermark,
)


@dataclass(frozen=True)
class Job:
    """The files of one image: what is read, and what is written (`diff` and `exact` where wanted)."""

    source: Path
    output: Path
    diff: Path | None = None
    exact: Path | None = None


@dataclass(frozen=True)
class Stamp:
    """What all images of a run share.

    Attributes:
        tolerance: largest embedding_error of a saved file that passes verification.
        verify: whether the model is run on the file that was written, re-read from disk.
        force: whether existing files may be overwritten.
    """

    model: LoadedModel
    space: PatchSpace
    mark: Mark
    placement: Placement
    tolerance: float = 0.01
    verify: bool = True
    force: bool = False


class Stamped(NamedTuple):
    """One image done: the solution, what the model says of the file, and the record of the JSON document."""

    result: Watermarked
    verdict: Verification | None
    record: dict[str, Any]


def refused(sources: Sequence[Path]) -> dict[Path, str]:
    """The sources whose header alone shows that they cannot be read, with the reason. Cheap: before anything slow.

    Raises:
        VitnullError: the only source is refused, so that nothing would be left to do.
    """
    failures: dict[Path, str] = {}
    for source in sources:
        try:
            check_picture(source)
        except VitnullError as error:
            if len(sources) == 1:
                raise
            failures[source] = str(error)
    return failures


def stamp_files(
    stamp: Stamp, jobs: Sequence[Job], failures: dict[Path, str], report: Callable[[Job, str | None], None]
) -> list[dict[str, Any]]:
    """Stamp one image after another; one that fails does not stop the others.

    Args:
        failures: sources that are refused already; those that fail on the way are added.
        report: is told of every job when it ends, with the error of one that failed.

    Returns:
        The records of the images that were done.

    Raises:
        VitnullError: the only image failed.
    """
    records = []
    for job in jobs:
        if job.source not in failures:
            try:
                records.append(stamp_file(stamp, job).record)
            except VitnullError as error:
                if len(jobs) == 1:
                    raise
                failures[job.source] = str(error)
        report(job, failures.get(job.source))
    return records


def stamp_file(stamp: Stamp, job: Job) -> Stamped:
    """Read, solve, write, read back, verify.

    Raises:
        VitnullError: the image could not be read, or a file not be written.
    """
    started = time.monotonic()
    picture = read_picture(job.source)
    result = watermark(stamp.model.transform, stamp.space, picture, stamp.mark, stamp.placement)
    write_bytes(job.output, encode_png(result.pixels), force=stamp.force)
    if job.diff:
        write_bytes(job.diff, encode_png(noise_picture(result)), force=stamp.force)
    if job.exact:
        save_float(job.exact, result, stamp.model, job.source, stamp.mark.path, stamp.placement, force=stamp.force)
    verdict = verify(stamp.model, stamp.space.patch_map, picture, read_picture(job.output)) if stamp.verify else None
    height, width, _ = result.pixels.shape
    measured = asdict(verdict) if verdict else dict.fromkeys(Verification.__dataclass_fields__)
    record = {
        "source": str(job.source),
        "output": str(job.output),
        "size": [width, height],
        **measured,
        **likeness(result),
        "nullspace": "patch",
        "rounding": "nearest",
        "solver": result.describe_solver(),
        "verified": verdict.holds(stamp.tolerance) if verdict else None,
        "diff": str(job.diff) if job.diff else None,
        "float": str(job.exact) if job.exact else None,
        "seconds": round(time.monotonic() - started, 3),
    }
    return Stamped(result, verdict, record)


def summarise(records: Sequence[dict[str, Any]], failed: int) -> dict[str, Any]:
    """The figures over all images; None where no image says anything of them."""
    judged = [record for record in records if record["match"] is not None]
    matched = sum(record["match"] for record in judged)
    seconds = sum(record["seconds"] for record in records)
    return {
        "count": len(records),
        "failed": failed,
        "matched": matched if judged else None,
        "match_percent": 100 * matched / len(judged) if judged else None,
        "mean_confidence_change": sum(r["confidence_change"] for r in judged) / len(judged) if judged else None,
        "bit_identical": sum(record["input_pixels_changed"] == 0 for record in records),
        "images_per_second": round(len(records) / seconds, 3) if seconds else None,
    }
