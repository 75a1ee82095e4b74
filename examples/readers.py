"""Print what different readers get of a picture and of its marked copy: `python examples/readers.py SOURCE RESULT`.

Nothing here is vitnull's: Pillow decodes and resizes, and torchvision where it is installed. So the same script runs
with another Pillow in an environment of its own: `python -m venv old && old/bin/pip install pillow==12.0.0 numpy`, then
`old/bin/python examples/readers.py SOURCE RESULT`.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from importlib import metadata, util

import numpy as np
from PIL import Image, ImageOps

Reader = Callable[[Image.Image], np.ndarray]
SEED = 0


def stored(path: str) -> Image.Image:
    """As loaders have it."""
    with Image.open(path) as image:
        return image.convert("RGB")


def upright(path: str) -> Image.Image:
    """As people see it."""
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
    if not turned.has_transparency_data:
        return turned.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned.convert("RGBA")).convert("RGB")


def centred(size: int, filter: str, crop_pct: float) -> Reader:
    """timm's and torchvision's evaluation: the shorter side to size / crop_pct, then the middle."""

    def read(image: Image.Image) -> np.ndarray:
        side = math.floor(size / crop_pct)
        width, height = image.size
        shape = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        resized = image.resize(shape, Image.Resampling[filter.upper()])
        left, top = round((shape[0] - size) / 2), round((shape[1] - size) / 2)
        return np.asarray(resized.crop((left, top, left + size, top + size)))

    return read


def random_crop(image: Image.Image) -> np.ndarray:
    """As in training: a part of the picture (8% to all of it), resized to 224."""
    rng = np.random.default_rng(SEED)
    share, ratio = rng.uniform(0.08, 1), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    width = min(image.width, round(math.sqrt(image.width * image.height * share * ratio)))
    height = min(image.height, round(math.sqrt(image.width * image.height * share / ratio)))
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    box = (int(left), int(top), int(left) + width, int(top) + height)
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box))


def of_tensors(antialias: bool) -> Reader:
    """torchvision's resize of tensors, which is not Pillow's."""

    def read(image: Image.Image) -> np.ndarray:
        import torch
        from torchvision.transforms import v2

        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        resized = v2.functional.resize(pixels, [248], v2.InterpolationMode.BICUBIC, antialias=antialias)
        return v2.functional.center_crop(resized, [224, 224]).permute(1, 2, 0).numpy()

    return read


def up_and_down(image: Image.Image) -> np.ndarray:
    """What detectors of image-scaling attacks look at: the picture scaled down and up again."""
    small = image.resize((max(1, image.width // 4), max(1, image.height // 4)), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR)).astype(int) - np.asarray(image)


def readers() -> Iterator[tuple[str, Callable[[str], Image.Image], Reader]]:
    yield "224 bicubic 0.9, the model's own", stored, centred(224, "bicubic", 0.9)
    yield "the same, turned upright on white", upright, centred(224, "bicubic", 0.9)
    yield "224 bicubic 0.875", stored, centred(224, "bicubic", 0.875)
    yield "224 bilinear 0.9", stored, centred(224, "bilinear", 0.9)
    yield "224 lanczos 0.9", stored, centred(224, "lanczos", 0.9)
    yield "384 bicubic 1.0", stored, centred(384, "bicubic", 1.0)
    yield "a random crop of training", stored, random_crop
    if util.find_spec("torchvision"):
        yield "tensors, antialias", stored, of_tensors(antialias=True)
        yield "tensors, no antialias", stored, of_tensors(antialias=False)


def main(source: str, result: str) -> None:
    print(f"Pillow {metadata.version('pillow')}\n")
    print("| reader | values changed | rms | largest |")
    print("| --- | --- | --- | --- |")
    for name, load, read in readers():
        change = read(load(result)).astype(int) - read(load(source))
        rms = math.sqrt((change**2).mean())
        print(f"| {name} | {(change != 0).mean():.2%} | {rms:.2f} | {abs(change).max()} |")
    lost = [math.sqrt((up_and_down(stored(path)) ** 2).mean()) for path in (source, result)]
    print(f"\ndown and up again, rms of what is lost: source {lost[0]:.1f}, result {lost[1]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("result")
    options = parser.parse_args()
    main(options.source, options.result)
