"""Another picture as the target: fitted to the source, its detail asked for, and how like it a result is."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from torch import Tensor

from nullspace_cli.engine import metrics
from nullspace_cli.engine.files.orientation import UPRIGHT, Orientation
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.watermark.mark_style import (
    GREY,
    LUMINANCE,
    MarkStyle,
    Period,
    Tint,
    in_unit_of,
    in_unit_range,
)
from nullspace_cli.engine.watermark.result import Pixels

Plane = Float[NDArray[np.floating[Any]], "h w"]

MODEL_DETAIL = 2.6
"""Pixels of the model's input: the standard deviation of the Gaussian that takes an image's detail away."""

NATIVE_DETAIL = 0.8
"""The same where the resize's nullspace is used, in source pixels for each resized pixel: about what a resize loses."""


@dataclass(frozen=True, eq=False)
class TargetImage:
    """The wish to look like another picture, with its detail exaggerated: an `Aim`.

    What is asked for inside the model's crop is t + (strength - 1) (t - smooth(t)), or, where light and dark are to
    stay the source's, smooth(x) + strength * (t - smooth(t)); outside, where the network reads nothing, it is t.

    How much light and dark a patch embedding leaves free is up to its weights, and the 2-norm takes what there is. They
    had better stay where nothing is free, as in the resize's nullspace, and in the 1-norm, which would have the most
    of the pixels reach them at the expense of the others: speckle all over.

    Attributes:
        pixels: the other picture, of any size, upright.
        strength: multiplies its detail.
        transform: of the model, whose crop it is.
        native: whether the result has the source's size and not the model's.
        detail_only: whether light and dark stay the source's.
    """

    pixels: Pixels
    strength: float
    transform: EvalTransform
    native: bool
    detail_only: bool

    def target(
        self,
        image: Shaped[Tensor, "c h w"],
        default: MarkStyle,
        period: Period,
        tint: Tint = GREY,
        turn: Orientation = UPRIGHT,
        phase: float = 0.0,
    ) -> Shaped[Tensor, "c h w"]:
        _, height, width = image.shape
        fitted = _in_unit_range(fit(turn.stored(self.pixels), width, height))
        colours = fitted.transpose(2, 0, 1) if len(image) == 3 else luminance(fitted)[None]
        sigma = detail_scale(self.transform, width, height, native=self.native)
        target = colours.copy()
        inside = self.transform.seen_part(width, height, native=self.native)
        for channel, plane, source in zip(target, colours, image, strict=True):
            if self.detail_only:
                x = in_unit_range(source).cpu().numpy().astype(np.float32)
                wanted = smooth(x, sigma) + self.strength * (plane - smooth(plane, sigma))
            else:
                wanted = exaggerated(plane, self.strength, sigma)
            channel[inside] = wanted[inside]
        return in_unit_of(image, torch.from_numpy(target)).to(image)


class Likeness(NamedTuple):
    """How like its target a result looks, and how like its source.

    Attributes:
        ssim_target, ssim_source: structural similarity of the luminance (Rec. 601, gamma-coded).
        psnr_target, psnr_source: dB, over all channels; None for equal images.
        detail_correlation_target, detail_correlation_source: of the luminance less a Gaussian mean.
        correlation_target, correlation_source: over all pixels and channels, so that light, dark and colour count too.
        score: the mean of what `ssim_target` and the two correlations with the target are (undefined ones count 0), by
            which results are ranked.
    """

    ssim_target: float
    ssim_source: float
    psnr_target: float | None
    psnr_source: float | None
    detail_correlation_target: float | None
    detail_correlation_source: float | None
    correlation_target: float | None
    correlation_source: float | None
    score: float


def likeness(result: Pixels, source: Pixels, target: Pixels, sigma: tuple[float, float]) -> Likeness:
    """Compare 8-bit pictures of one size.

    Args:
        sigma: of the Gaussian, in pixels, down and across; see `detail_scale`.
    """
    ssim_t, psnr_t, detail_t, whole_t = _compare(result, target, sigma)
    ssim_s, psnr_s, detail_s, whole_s = _compare(result, source, sigma)
    score = (ssim_t + (detail_t or 0.0) + (whole_t or 0.0)) / 3
    return Likeness(ssim_t, ssim_s, psnr_t, psnr_s, detail_t, detail_s, whole_t, whole_s, score)


def _compare(
    a: Pixels, b: Pixels, sigma: tuple[float, float]
) -> tuple[float, float | None, float | None, float | None]:
    """SSIM, PSNR, correlation of detail and of everything."""
    colours = [_in_unit_range(pixels) for pixels in (a, b)]
    grey = [luminance(picture) for picture in colours]
    detail = [torch.from_numpy(plane - smooth(plane, sigma)) for plane in grey]
    pictures = [torch.from_numpy(picture) for picture in colours]
    return (
        metrics.ssim(torch.from_numpy(grey[0]), torch.from_numpy(grey[1]), 1.0),
        metrics.psnr(*pictures),
        metrics.correlation(*detail),
        metrics.correlation(*pictures),
    )


def fit(pixels: Pixels, width: int, height: int) -> Pixels:
    """Another picture scaled and cropped to cover a canvas, its middle in the middle."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(ImageOps.fit(Image.fromarray(pixels), (width, height), Image.Resampling.LANCZOS))


def detail_scale(transform: EvalTransform, width: int, height: int, *, native: bool) -> tuple[float, float]:
    """The Gaussian's standard deviation, down and across, for an image of this size."""
    if not native:
        return MODEL_DETAIL, MODEL_DETAIL
    resized_width, resized_height = transform.geometry(width, height).resized
    return NATIVE_DETAIL * max(1.0, height / resized_height), NATIVE_DETAIL * max(1.0, width / resized_width)


def _in_unit_range(pixels: Pixels) -> Float32[NDArray[np.float32], "h w 3"]:
    return np.divide(pixels, 255, dtype=np.float32)


def luminance(colours: Float32[NDArray[np.float32], "h w 3"]) -> Float32[NDArray[np.float32], "h w"]:
    return colours @ np.array(LUMINANCE, np.float32)


def smooth(plane: Plane, sigma: tuple[float, float]) -> Plane:
    smoothed: Plane = gaussian_filter(plane, sigma, mode="nearest", truncate=3.0)
    return smoothed


def exaggerated(plane: Plane, strength: float, sigma: tuple[float, float]) -> Plane:
    """t + (strength - 1) (t - smooth(t)): exactly t where strength is 1."""
    return plane + (strength - 1) * (plane - smooth(plane, sigma)) if strength != 1 else plane
