"""What a card does, on any machine with CUDA: learning noise beside its authors' loop, and watermarks, as a table.

    python -m benchmarks.card                     # photos are drawn
    python -m benchmarks.card --data imagenette2  # its training images; --rounds 499 for the whole run

500 rounds are extrapolated from the rounds that are run, after one that warms up; what is done once is measured whole.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder

from benchmarks.batches import save_drawings
from benchmarks.learning import LIMIT, LR, authors_round, save_photos, their_transform
from benchmarks.measure import Figure, seconds
from nullspace_cli.engine.data.datasets import ImageSet, open_data
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.models.compiled import compiled
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Amp, Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import injection_site
from nullspace_cli.engine.noise.presets import STEP_IMAGES
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import Plan, Trainer
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Placement
from nullspace_cli.engine.workflows.watermark import WatermarkFiles, WatermarkPipeline

PAPER_ROUNDS = 500
NONE_HERE = "card: no CUDA device here, so nothing is measured"
CARD = torch.device("cuda")
NAMES = {"none": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Sizes:
    """How much is done; the small ones show that all of it runs.

    Attributes:
        photos: that are learned from, where no data are given: as many as Imagenette has.
        side: of the matrices by which the card's rate is taken.
        rounds: that are timed.
        marks: images that are marked.
        workers: processes that decode for the authors' loop.
        kwargs: of the model.
        compile: whether learning is measured with compiled blocks, too.
    """

    photos: int = 9469
    side: int = 8192
    rounds: int = 3
    marks: int = 256
    workers: int = os.cpu_count() or 1
    kwargs: dict[str, Any] = field(default_factory=dict)
    compile: bool = True


SMALL = Sizes(photos=6, side=64, rounds=1, marks=2, workers=0, kwargs={"depth": 1, "img_size": 64}, compile=False)


def rows(name: str, sizes: Sizes, data: Path | None) -> Iterator[Figure]:
    with TemporaryDirectory() as folder:
        images = data or save_copies(Path(folder, "train"), sizes.photos)
        rate = matrix_rate(sizes.side)
        yield Figure("bf16 matrix rate", f"{rate / 1e12:.1f} TFLOP/s", besides=f"{sizes.side} x {sizes.side}")
        yield from learning(name, sizes, images, rate)
        yield from watermarks(name, sizes, Path(folder))


def matrix_rate(side: int) -> float:
    """Operations a second of a product of bfloat16 matrices: the most that a network could reach."""
    a, b = (torch.randn(side, side, device=CARD, dtype=torch.bfloat16) for _ in range(2))
    times = 20

    def multiply() -> None:
        for _ in range(times):
            torch.matmul(a, b)
        torch.cuda.synchronize()

    multiply()
    return 2 * side**3 * times / seconds(multiply)


# Learning


def learning(name: str, sizes: Sizes, folder: Path, rate: float) -> Iterator[Figure]:
    images = open_data(str(folder), "train")
    amps: tuple[Amp, ...] = ("none", "bf16")
    for amp in amps:
        model = load(name, sizes, amp)
        yield from ours(model, model, images, sizes.rounds, rate)
        if sizes.compile:
            try:
                run = compiled(model)
            except VitnullError as error:
                yield Figure(f"learn-noise, {NAMES[amp]}, compiled", "-", besides=str(error))
                continue
            yield from ours(model, run, images, sizes.rounds, rate)
    model = load(name, sizes, "none")
    theirs = ImageFolder(images.name, their_transform(model))
    loader = DataLoader(theirs, STEP_IMAGES, num_workers=sizes.workers, pin_memory=True)
    their_round(model, islice(loader, 1))
    a_round = seconds(lambda: their_round(model, loader))
    what, speed = f"the authors' loop, {PAPER_ROUNDS} rounds on {len(images)} images", len(images) / a_round
    yield Figure(what, f"{PAPER_ROUNDS * a_round:.0f} s", besides=f"{speed:.0f} images/s, float32")


def ours(model: Model, run: Model, images: ImageSet, rounds: int, rate: float) -> Iterator[Figure]:
    """Learning for a model by its passes, or by those of its compiled copy."""
    plain, count = injection_site(model, "encoder"), len(images)
    site = plain if run is model else plain.on(run)
    plan = Plan("encoder", (LIMIT,), "paper-accum", PAPER_ROUNDS, LR, 1.0, 2.0, None, STEP_IMAGES, 0, "", count, {})
    transform = model.transform.squashed()
    start = time.perf_counter()
    cache = ReferenceCache(model, site, images, range(count), transform, Store(4 * 2**30))
    once = time.perf_counter() - start
    operations = operations_of(Trainer(model, plain, cache, plan, Ranks()))
    trainer = Trainer(model, site, cache, plan, Ranks())
    steps, each = trainer.steps(), plan.steps // PAPER_ROUNDS

    def go(number: int) -> None:
        for _ in islice(steps, number * each):  # a round ends when its figures are read
            pass

    go(1)
    rounds = min(rounds, PAPER_ROUNDS - 1)
    a_round = seconds(lambda: go(rounds)) / rounds
    what = f"learn-noise, {NAMES[model.amp]}{'' if run is model else ', compiled'}"
    share, speed, whole = operations * count / a_round / rate, count / a_round, once + PAPER_ROUNDS * a_round
    yield Figure(what, f"{share:.1%} of that rate", besides=f"{speed:.0f} images/s in a round")
    of_all = f"{PAPER_ROUNDS} rounds on {count} images"
    yield Figure(f"{what}, {of_all}", f"{whole:.0f} s", besides=f"{once:.1f} s of it before them")


def operations_of(trainer: Trainer) -> float:
    """Of the products for one image, forward and back, as torch counts them in a step."""
    step = next(trainer._steps_of(0))
    with FlopCounterMode(display=False) as counter:
        trainer._step(step)
    return counter.get_total_flops() / len(step.images)


def their_round(model: Model, loader: Any) -> None:
    """The authors' loop, on the card."""
    shape = injection_site(model, "encoder").shape
    authors_round(model, loader, torch.empty(1, *shape, device=CARD).uniform_(-LIMIT, LIMIT).requires_grad_())
    torch.cuda.synchronize()


# Watermarks


def watermarks(name: str, sizes: Sizes, folder: Path) -> Iterator[Figure]:
    network = LazyModel(ModelRequest(name, pretrained=False, kwargs=sizes.kwargs, device="cuda"))
    design = Design(text_mark("vitnull"), Placement())
    small, large = (save_drawings(folder / f"{side}", sizes.marks, side) for side in (224, 512))
    cases: list[tuple[str, Path, Literal["native", "model"], Literal[1, 2]]] = [
        ("512 px at native size", large, "native", 2),
        ("model size, p = 2", small, "model", 2),
        ("model size, p = 1", small, "model", 1),
    ]
    for what, sources, size, norm in cases:
        pipeline = WatermarkPipeline(network, design, size, norm=norm, force=True)
        pipeline.prepare()
        jobs = [WatermarkFiles(path, folder / path.name) for path in sorted(sources.iterdir())]
        elapsed = seconds(stamped(pipeline, jobs))
        yield Figure(f"watermark, {what}", f"{len(jobs) / elapsed:.1f} images/s", besides=f"{len(jobs)} images")


def stamped(pipeline: WatermarkPipeline, jobs: Sequence[WatermarkFiles]) -> Callable[[], object]:
    pipeline(jobs[0])  # it prepares what all need
    return lambda: list(pipeline.each(jobs, pipeline.default_workers))


# What is run on what


def load(name: str, sizes: Sizes, amp: Amp) -> Model:
    return load_model(ModelRequest(name, pretrained=False, kwargs=sizes.kwargs, device="cuda", amp=amp))


def save_copies(folder: Path, count: int) -> Path:
    """So many JPEG files, of which only some are drawn: they take as long to decode."""
    folder.mkdir()
    drawn = sorted((save_photos(folder) / "photos").iterdir())
    for number in range(len(drawn), count):
        os.link(drawn[number % len(drawn)], folder / "photos" / f"{number}.jpg")
    for path in drawn[count:]:
        path.unlink()
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="vit_small_patch32_224", help="by timm's name; its weights are random")
    parser.add_argument("--data", type=Path, help="a folder of class folders, or with train/")
    parser.add_argument("--rounds", type=int, help="that are timed")
    parser.add_argument("--small", action="store_true", help="next to nothing, to see that it runs")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(NONE_HERE)
        return
    sizes = SMALL if given.small else Sizes()
    if given.rounds:
        sizes = replace(sizes, rounds=given.rounds)
    print(f"{given.model} (random weights), {torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| what | measured | besides |\n| --- | --- | --- |")
    for figure in rows(given.model, sizes, given.data):
        print(f"| {figure.what} | {figure.measured} | {figure.besides} |", flush=True)


if __name__ == "__main__":
    main()
