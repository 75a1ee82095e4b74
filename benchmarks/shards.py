"""A data set in tar files: two processes, and two threads, against one of each."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from benchmarks.measure import Row
from nullspace_cli.demo.drawing import draw

SHARDS = 2
EACH = 12
SIDE = 640
BOUND = "<= 0.556"
"""1.8 times as fast."""


def rows() -> list[Row]:
    """On images of VITNULL_REAL's, where it names a folder with some; else on drawings."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        what = write_shards(folder)
        one = seconds_of(folder, "one", [()])
        threads = seconds_of(folder, "threads", [()], workers=2)
        processes = seconds_of(folder, "processes", [("--shard", f"{number}/2") for number in (1, 2)])
    images = SHARDS * EACH
    rates = ", ".join(f"{images / seconds:.3f}" for seconds in (one, threads, processes))
    print(f"shards: {rates} images a second by one thread, by 2, by 2 processes")
    reference = "one process, one thread,"
    return [
        Row(f"{images} {what} in {SHARDS} tar files, 2 processes", processes, reference, one, BOUND),
        Row(f"{images} {what} in {SHARDS} tar files, --workers 2", threads, reference, one),
    ]


def write_shards(folder: Path) -> str:
    """Two tar files as WebDataset has them; what the images are."""
    real = os.environ.get("VITNULL_REAL")
    found = sorted(path for path in Path(real).rglob("*.jpg"))[: SHARDS * EACH] if real else []
    photos = len(found) == SHARDS * EACH
    (folder / "in").mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / "in" / f"{shard}.tar", "w") as archive:
            for number in range(shard * EACH, (shard + 1) * EACH):
                image = Image.open(found[number]) if photos else Image.fromarray(draw("val", number, size=SIDE)[0])
                with image, io.BytesIO() as file:
                    image.convert("RGB").resize((SIDE, SIDE)).save(file, "JPEG", quality=92)
                    add(archive, f"{number:04d}.jpg", file.getvalue())
                add(archive, f"{number:04d}.cls", str(number % 10).encode())
    return f"{'photos' if photos else 'drawings'} of {SIDE} px"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def seconds_of(folder: Path, name: str, parts: list[tuple[str, ...]], workers: int = 1) -> float:
    """From the first image to the last, of the slowest process; start-up is left out. Each thread has one core."""
    command = [sys.executable, "-m", "nullspace_cli", "watermark", str(folder / "in"), "--text", "vitnull", "--json"]
    options = ["--no-verify", "--min-legibility", "0", "--device", "cpu", "--workers", str(workers)]
    started = [
        subprocess.Popen(  # noqa: S603 - our own arguments
            [*command, *options, "--out-dir", str(folder / name), *part],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
        )
        for part in parts
    ]
    summaries: list[dict[str, Any]] = [json.loads(process.communicate()[0])["summary"] for process in started]
    assert sum(summary["count"] for summary in summaries) == SHARDS * EACH
    return max(summary["count"] / summary["images_per_second"] for summary in summaries)
