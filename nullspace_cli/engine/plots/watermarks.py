"""Sheets of watermarked pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nullspace_cli.engine.plots.figure import save_figure
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.watermark.result import Watermarked, noise_gain, noise_picture
from nullspace_cli.engine.watermark.verification import WatermarkedFile


def draw_watermarks(path: Path, done: Sequence[WatermarkedFile], *, force: bool = False) -> Path:
    """Draw a sheet: for each image the source, the watermarked picture and the noise, with what the network says."""
    figure = Figure(figsize=(2.6 * len(done), 8.2), layout="constrained")
    axes = figure.subplots(3, len(done), squeeze=False)
    for column, (result, _, record) in zip(axes.T, done, strict=True):
        pictures = (result.source, result.pixels, noise_picture(result))
        words = [_answer(record["before"]), _answer(record["after"]), _noise(result)]
        for axis, picture, text in zip(column, pictures, words, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(text, fontsize=10)
    for axis, name in zip(axes[:, 0], ("source", "watermarked", "difference"), strict=True):
        axis.set_ylabel(name, fontsize=11)
    return save_figure(path, figure, force=force)


def draw_native(path: Path, done: WatermarkedFile, transform: EvalTransform, *, force: bool = False) -> Path:
    """Draw one watermark at native size: the source, what was wanted, the result, the noise, and what a model sees.

    All but the last show the middle of the mark, each pixel by several: scaled down, a hatch would vanish here too.
    """
    result, verdict, record = done
    changed = verdict.input_pixels_changed
    seen = "the same, bit for bit" if changed == 0 else f"{changed:.3%} differ"
    part = _middle(result.pixels != result.source, side=200)
    panels = {
        "source": result.source[part],
        "wanted": result.wanted[part],
        f"watermarked (correlation {record['mark_correlation']:.2f})": result.pixels[part],
        _noise(result): noise_picture(result)[part],
        f"what the model sees: {seen}": transform.input_pixels(result.pixels),
    }
    figure = Figure(figsize=(17, 3.8), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(title, fontsize=11)
    return save_figure(path, figure, force=force)


def _middle(marked: np.ndarray, side: int) -> tuple[slice, slice]:
    """A square of pixels around the middle of what is marked, or of everything where nothing is."""
    height, width, _ = marked.shape
    found = np.argwhere(marked.any(2)) if marked.any() else np.array([[0, 0], [height, width]])
    top, left = (int(middle) - side // 2 for middle in (found.min(0) + found.max(0)) / 2)
    top, left = max(0, min(top, height - side)), max(0, min(left, width - side))
    return slice(top, top + side), slice(left, left + side)


def _answer(answer: dict[str, Any] | None) -> str:
    return "" if answer is None else f"{answer['label'] or answer['class']} {answer['probability']:.2%}"


def _noise(result: Watermarked) -> str:
    gain = noise_gain(result)
    return f"noise × {gain:.3g}" if gain else "no noise"
