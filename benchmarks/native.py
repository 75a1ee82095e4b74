"""Watermarks at native size, from file to checked file: seconds for squares, time and memory of large pictures.

Nothing is compared: what else there is does not keep the model's input. No weights are read.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.measure import Figure, vitnull
from nullspace_cli.commands.options import DEFAULT_MODEL
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Placement
from nullspace_cli.engine.workflows.watermark import WatermarkFiles, WatermarkPipeline

SQUARES = {512: 2, 1024: 4, 4096: 40}
"""Sides in pixels, and the seconds that they may take."""

LARGE = (
    ("a line of text", (4096, 4096), (), "-"),
    ("a line of text", (6000, 4000), (), "<= 30 s"),
    ("tiles", (4096, 4096), ("--fit", "tile"), "-"),
    ("tiles", (8660, 5774), ("--fit", "tile"), "-"),
    ("a line of text", (20000, 1000), (), "-"),
)
"""What is drawn, size in pixels, how it is asked for, and the time that it may take."""


def rows() -> list[Figure]:
    with TemporaryDirectory() as folder:
        return [*squares(Path(folder)), *(figure for each in LARGE for figure in large(Path(folder), *each))]


def squares(folder: Path) -> list[Figure]:
    """Read, watermark, write, read back and compare, once the model's data configuration is known."""
    network = LazyModel(ModelRequest(DEFAULT_MODEL, device="cpu"))
    pipeline = WatermarkPipeline(network, Design(text_mark("vitnull"), Placement()), nullspace="resize", verify=False)
    pipeline.prepare()
    pipeline(WatermarkFiles(save_picture(folder, 480, 480), folder / "warm-up.png"))
    figures = []
    for side, bound in SQUARES.items():
        source, target = save_picture(folder, side, side), folder / f"{side}.png"
        start = time.perf_counter()
        record = pipeline(WatermarkFiles(source, target)).record
        elapsed = time.perf_counter() - start
        figures.append(
            Figure(
                f"native size, {side} x {side} px",
                f"{elapsed:.2f} s",
                f"<= {bound} s",
                f"{elapsed / side**2 * 1e6:.2f} us a pixel; input_pixels_changed {record['input_pixels_changed']:.1e}",
            )
        )
    return figures


def large(folder: Path, drawn: str, size: tuple[int, int], arguments: Sequence[str], bound: str) -> Iterator[Figure]:
    """The command in a process of its own; whether the mark can be read on such a picture is no matter."""
    width, height = size
    run = vitnull(
        "watermark", save_picture(folder, width, height), "--text", "vitnull", *arguments, "--nullspace", "resize",
        "--no-verify", "--min-legibility", 0, "--out", folder / f"{width}x{height}.png", "--device", "cpu",
    )  # fmt: skip
    what = f"vitnull watermark, {drawn}, {width} x {height} px"
    changed = run.document["images"][0]["input_pixels_changed"]
    yield Figure(f"{what}, peak memory", f"{run.memory / 2**30:.2f} GiB", "<= 3 GiB")
    yield Figure(
        f"{what}, start to end",
        f"{run.seconds:.1f} s",
        bound,
        f"{run.seconds / width / height * 1e6:.2f} us a pixel; {run.processor:.1f} s of processor time; "
        f"input_pixels_changed {changed:.1e}",
    )


def save_picture(folder: Path, width: int, height: int) -> Path:
    """Light that reaches full white and full black, colours, hard edges, and grain."""
    dice = np.random.default_rng(0)

    def smooth(rows: int, columns: int, low: float, high: float) -> np.ndarray:
        plane = Image.fromarray(dice.uniform(low, high, (rows, columns)).astype(np.float32))
        return np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))

    light = smooth(5, 7, -0.3, 1.3) + 0.3 * (smooth(20, 30, -1, 1) > 0)
    light += dice.normal(0, 0.03, light.shape)
    pixels = np.stack([(light + smooth(4, 5, -0.2, 0.2)).clip(0, 1) * 255 for _ in range(3)], 2).astype(np.uint8)
    path = folder / f"{width}x{height}.source.png"
    Image.fromarray(pixels).save(path, compress_level=1)
    return path
