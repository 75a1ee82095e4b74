"""A picture for several readers, re-read by Pillow alone: the first to the last bit, the others within a level."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.preimage.pillow_passes import Levels
from nullspace_cli.engine.preimage.problem import PreimageProblem
from nullspace_cli.engine.preimage.several_readers import Found, SeveralReaders
from nullspace_cli.engine.preimage.solver import PreimageSolver
from nullspace_cli.engine.transforms.readers import spelled_out
from nullspace_cli.engine.watermark.result import Pixels

SIDE = 320
FIRST, OTHERS = "72/bicubic/0.9", ("72/bicubic/1", "72/bilinear/0.875", "72/lanczos/0.95", "128/bicubic/squash")


def picture(kind: str) -> Pixels:
    """A drawing; one with black and white parts; or one that Pillow resizes by columns first."""
    pixels = draw("val", 3, size=SIDE)[0]
    if kind == "clipped":
        return np.clip((pixels.astype(int) - 128) * 3 + 128, 0, 255).astype(np.uint8)
    return np.concatenate([pixels, pixels[::-1], pixels])[:, : SIDE // 2] if kind == "tall" else pixels


def by_rows(pixels: Pixels, transposed: bool) -> Levels:
    return np.ascontiguousarray(pixels.transpose(1, 2, 0) if transposed else pixels.transpose(0, 2, 1))


def hatched(source: Levels) -> Levels:
    """A checkerboard of single pixels over the middle, at some distance from what it covers."""
    target = source.astype(int)
    sign = (np.indices((len(source), source.shape[2])).sum(0) % 2 * 2 - 1)[:, None]
    middle = (slice(len(source) // 5, -len(source) // 5), slice(None), slice(source.shape[2] // 5, -40))
    target[middle] = (target + 70 * sign)[middle]
    return target.clip(0, 255).astype(np.uint8)


def seen(name: str, pixels: Pixels) -> Pixels:
    """By Pillow and arithmetic alone."""
    size, filter_, crop = name.split("/")
    side, (height, width) = int(size), pixels.shape[:2]
    if crop == "squash":
        shape = (side, side)
    else:
        short = int(side / float(crop))
        shape = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = Image.fromarray(pixels).resize(shape, Image.Resampling[filter_.upper()])
    left, top = (round((length - side) / 2) for length in shape)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def solved(pixels: Pixels, **changes: object) -> tuple[Found, Levels, Levels, bool]:
    height, width = pixels.shape[:2]
    preimages = PreimageSolver(spelled_out(FIRST).operator(width, height))
    transposed = preimages.passes.transposed
    source = by_rows(pixels, transposed)
    target = hatched(source)
    find = SeveralReaders(preimages, [spelled_out(name) for name in OTHERS], (width, height), torch.device("cpu"))
    problem = replace(PreimageProblem(target, preimages.passes(source), source), **changes)  # type: ignore[arg-type]
    return find(problem, lambda levels: as_picture(levels, transposed)), source, target, transposed


def as_picture(levels: Levels, transposed: bool) -> Pixels:
    return np.ascontiguousarray(levels.transpose(2, 0, 1) if transposed else levels.transpose(0, 2, 1))


@pytest.mark.parametrize("kind", ["drawing", "clipped", "tall"])
def test_every_reader_is_given_the_same(kind: str) -> None:
    pixels = picture(kind)
    found, source, target, transposed = solved(pixels)
    result = as_picture(found.pixels, transposed)
    np.testing.assert_array_equal(seen(FIRST, result), seen(FIRST, pixels))
    for name in OTHERS:
        change = np.abs(seen(name, result).astype(int) - seen(name, pixels))
        assert change.max() <= 1
        assert (change > 0).mean() < 0.1
    made, wanted = found.pixels.astype(float) - source, target.astype(float) - source
    assert np.corrcoef(made.ravel(), wanted.ravel())[0, 1] > 0.45
    assert np.abs(found.change - made).mean() < 1


def test_what_lies_away_from_the_mark_stays() -> None:
    found, source, _, _ = solved(picture("drawing"))
    rows = (found.pixels != source).any((1, 2)).nonzero()[0]
    kernel = 2 * SIDE // 72
    assert rows.min() >= SIDE // 5 - kernel
    assert rows.max() < SIDE - SIDE // 5 + kernel


def test_bounds_hold() -> None:
    pixels = picture("drawing")
    source = by_rows(pixels, False)
    lower = np.where(np.indices(source.shape)[2] < SIDE // 2, source, 0).astype(np.uint8)
    upper = np.where(np.indices(source.shape)[2] < SIDE // 2, source, 255).astype(np.uint8)
    found, *_ = solved(pixels, lower=lower, upper=upper, target=np.clip(hatched(source), lower, upper))
    assert (found.pixels >= lower).all()
    assert (found.pixels <= upper).all()
    np.testing.assert_array_equal(seen(FIRST, as_picture(found.pixels, False)), seen(FIRST, pixels))
