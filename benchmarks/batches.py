"""Many images in one run: several workers against one; on a GPU, how many images a second."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from benchmarks.measure import Figure, Row, vitnull
from nullspace_cli.demo.drawing import draw

DRAWINGS = 8
ON_GPU = 256


def rows() -> list[Row | Figure]:
    with TemporaryDirectory() as folder:
        found: list[Row | Figure] = [at_native_size(Path(folder))]
        if torch.cuda.is_available():
            found.append(at_model_size(Path(folder)))
        else:
            print("batches: no CUDA device here, so nothing is measured on one")
        return found


def at_native_size(folder: Path) -> Row:
    drawings = save_drawings(folder / "512", DRAWINGS, 512)
    alone, together = (
        images_per_second(drawings, folder / name, "--no-verify", "--device", "cpu", *workers)
        for name, workers in (("alone", ("--workers", 1)), ("together", ()))
    )
    print(f"batches: {alone:.2f} images a second with one worker, {together:.2f} with as many as by default")
    return Row(f"one of {DRAWINGS} drawings of 512 px at native size", 1 / together, "--workers 1", 1 / alone)


def at_model_size(folder: Path) -> Figure:
    drawings = save_drawings(folder / "224", ON_GPU, 224)
    speed = images_per_second(drawings, folder / "cuda", "--size", "model", "--no-pretrained", "--device", "cuda")
    return Figure(f"ViT-S/32 (random weights) at model size, {ON_GPU} drawings, CUDA", f"{speed:.1f} images/s")


def images_per_second(images: Path, results: Path, *options: object) -> float:
    """From the first image to the last; start-up and the model's loading are left out."""
    run = vitnull("watermark", images, "--text", "vitnull", "--out-dir", results, *options)
    return run.document["summary"]["images_per_second"]


def save_drawings(folder: Path, count: int, size: int) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(draw("val", index, size=size)[0]).save(folder / f"{index}.png")
    return folder
