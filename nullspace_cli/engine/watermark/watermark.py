"""Watermarks that the network cannot see (paper, section 6, eq. 7 and A.2): what is wanted, and what came of it.

`model_size` makes them as the paper does, at the size of the model's input; `native_size` at the image's own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine import metrics
from nullspace_cli.engine.documents.artefacts import Provenance, write_tensors
from nullspace_cli.engine.documents.kinds import WATERMARK
from nullspace_cli.engine.files.hashes import sha256_of_each
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.models.model import LoadedModel, finite
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.transforms.evaluation import EvalTransform
from nullspace_cli.engine.watermark.mark_style import DEFAULT_STRENGTH, GREY, MarkStyle, Period, Tint, target_image
from nullspace_cli.engine.watermark.marks import Mark, Placement

Pixels = UInt8[NDArray[np.uint8], "H W 3"]
Rounding = Literal["aware", "nearest"]

CHUNK = 256
"""Rows of an image that are measured at a time."""


class Aim(Protocol):
    """What a picture should look like, whichever picture it is: a mark on it, or another picture altogether."""

    def target(
        self, image: Float[Tensor, "c h w"], default: MarkStyle, period: Period, tint: Tint = GREY
    ) -> Float[Tensor, "c h w"]:
        """The target image for the source `image` in [0, 1]; it may leave [0, 1].

        Args:
            default, period, tint: how to draw what is drawn, where nothing else was asked for.
        """
        ...


@dataclass(frozen=True)
class Design:
    """A mark on the picture.

    Attributes:
        style: how the mark is drawn; None leaves it to the place where it goes.
        strength: of the mark; None is what suits the style there.
    """

    mark: Mark
    placement: Placement
    style: MarkStyle | None = None
    strength: float | None = None

    def target(
        self, image: Float[Tensor, "c h w"], default: MarkStyle, period: Period, tint: Tint = GREY
    ) -> Float[Tensor, "c h w"]:
        """The target image, possibly outside [0, 1].

        Args:
            default: the style that suits the place, where none was asked for.
        """
        style = self.style or default
        strength = DEFAULT_STRENGTH[style] if self.strength is None else self.strength
        return target_image(image, self.mark, replace(self.placement, strength=strength), style, period, tint)

    def describe(self) -> dict[str, Any]:
        return {**asdict(self.placement), "treatment": self.style, "strength": self.strength}


class Unrounded(NamedTuple):
    """Images [3, h, w] in [0, 1] before rounding: the exact solution, the source and the target."""

    image: Float[Tensor, "3 h w"]
    source: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]


@dataclass(frozen=True, eq=False)
class Watermarked:
    """A watermark that was made.

    Attributes:
        source: the source at the result's size, as the network is shown it.
        wanted: the target, within the range of pixels.
        pixels: the result.
        nullspace: "resize" or "patch".
        solver: the certificate: norm, status, iterations, gap, residual, bound_violation, and what was left unmarked.
        exact: makes the images before rounding.
    """

    source: Pixels
    wanted: Pixels
    pixels: Pixels
    nullspace: Literal["resize", "patch"]
    rounding: Rounding
    solver: Mapping[str, Any]
    unrounded: Callable[[], Unrounded]


@dataclass(frozen=True)
class Verification:
    """What the model says of two files, each read through its own evaluation transform; None is what nobody measured.

    Attributes:
        before, after: {"class", "label", "probability"}; None for a model without a head, or one that was not run.
        match: whether the predicted class is the same; None without a head.
        embedding_error: root mean square of the change of the patch embeddings over theirs (bias left out); None for a
            model without them.
        feature_cosine, feature_change: of the features before the head: cosine, and relative norm of the change.
        input_pixels_changed: share of the model's 8-bit input values that differ.
    """

    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    match: bool | None = None
    confidence_change: float | None = None
    logit_mse: float | None = None
    embedding_error: float | None = None
    feature_cosine: float | None = None
    feature_change: float | None = None
    input_pixels_changed: float | None = None

    @classmethod
    def identical(cls, *, has_head: bool) -> "Verification":
        """Of inputs that were seen to be equal: so is what a model computes from them, and it need not be run.

        Its class and its logits are the same, if it has any; of what it computes on the way no figure is given.
        """
        if not has_head:
            return cls(input_pixels_changed=0.0)
        return cls(match=True, confidence_change=0.0, logit_mse=0.0, input_pixels_changed=0.0)

    def holds(self, tolerance: float) -> bool | None:
        """Equal inputs; or the same class (where there are classes), and embeddings (else features) within `tolerance`.

        None where neither was measured.
        """
        if self.match is False:
            return False
        if self.input_pixels_changed == 0:
            return True
        change = self.feature_change if self.embedding_error is None else self.embedding_error
        return None if change is None else change <= tolerance


class WatermarkResult(NamedTuple):
    """One image done: the solution, what the model says of the file, and the record of the JSON document."""

    result: Watermarked
    verdict: Verification
    record: dict[str, Any]


def share_changed(transform: EvalTransform, source: Picture, result: Picture) -> float:
    """The share of the model's 8-bit input values that differ between two files."""
    before, after = (transform.input_pixels(picture.pixels) for picture in (source, result))
    return float((before != after).mean())


def verify(model: LoadedModel, patch_map: PatchMap | None, source: Picture, result: Picture) -> Verification:
    """Compare what the model makes of the source and of the file that was written, re-read from disk.

    Args:
        patch_map: the model's patch embedding; None where it has none.
    """
    inputs = [model.transform.input_pixels(picture.pixels) for picture in (source, result)]
    batch = torch.stack([model.transform.normalize(pixels) for pixels in inputs])
    changed = float((inputs[0] != inputs[1]).mean())
    return replace(verify_inputs(model, patch_map, batch), input_pixels_changed=changed)


@full_precision
def verify_inputs(model: LoadedModel, patch_map: PatchMap | None, batch: Float[Tensor, "2 3 h w"]) -> Verification:
    """Compare what the model makes of two normalised inputs, the source's first, whatever its `amp`.

    One after the other: side by side in one batch, equal inputs may meet different kernels and differ in the last bit.
    """
    unrounded = model.in_full_precision()
    source, result = (
        finite(unrounded(image[None]), unrounded, f"the {name}")
        for name, image in zip(("source", "result"), batch, strict=True)
    )
    before = after = match = change = mse = error = None
    if patch_map:
        tokens = patch_map.patchify(batch.double()) @ patch_map.matrix("normalized").mT
        error = metrics.relative_change(tokens[0], tokens[1])
    if source.logits is not None and result.logits is not None:
        (old, old_p), (new, new_p) = (metrics.top1(logits[0]) for logits in (source.logits, result.logits))
        before, after = model.answer(old, old_p), model.answer(new, new_p)
        match = old == new
        change = abs(float(torch.softmax(result.logits[0].double(), 0)[old]) - old_p)
        mse = float(metrics.squared_change(source.logits[0], result.logits[0]))
    return Verification(
        before=before,
        after=after,
        match=match,
        confidence_change=change,
        logit_mse=mse,
        embedding_error=error,
        feature_cosine=metrics.cosine(source.features[0], result.features[0]),
        feature_change=metrics.relative_change(source.features[0], result.features[0]),
    )


def likeness(result: Watermarked) -> dict[str, float | None]:
    """How close the picture stays to its source (PSNR in dB), and how well the change shows the wanted one."""
    count, sums = result.source.size, np.zeros(5)
    for change, wanted in _changes(result):
        sums += change.sum(), wanted.sum(), (change**2).sum(), (wanted**2).sum(), (change * wanted).sum()
    mean_change, mean_wanted, power, wanted_power, product = sums / count
    spread = (power - mean_change**2) * (wanted_power - mean_wanted**2)
    return {
        "psnr": float(10 * np.log10(255**2 / power)) if power else None,
        "mark_correlation": float((product - mean_change * mean_wanted) / spread**0.5) if spread > 0 else None,
    }


def attained(result: Watermarked) -> float:
    """How much of the wanted change was made: <z - x, t - x> / ||t - x||^2. 1 where nothing was wanted."""
    made = wished = 0.0
    for change, wanted in _changes(result):
        made, wished = made + float((change * wanted).sum()), wished + float((wanted**2).sum())
    return made / wished if wished else 1.0


def _changes(result: Watermarked) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The change that was made and the one that was wanted, in levels, some rows at a time."""
    for start in range(0, len(result.source), CHUNK):
        rows = slice(start, start + CHUNK)
        source = result.source[rows].astype(np.float64)
        yield result.pixels[rows] - source, result.wanted[rows] - source


def noise_picture(result: Watermarked) -> Pixels:
    """The watermark's noise, drawn."""
    return shown_noise(result.pixels.astype(np.int16) - result.source)


def shown_noise(noise: Shaped[NDArray[Any], "h w 3"]) -> Pixels:
    """Noise in any unit as a picture: mid-grey is no change, the largest change is black or white."""
    largest = float(np.abs(noise).max(initial=0)) or 1.0
    picture: Pixels = (128 + (noise * np.float32(127 / largest))).round().astype(np.uint8)
    return picture


def save_float(
    path: Path,
    result: Watermarked,
    design: Design,
    source: Path,
    basis: Path | None,
    *,
    model: str,
    weights_sha256: str | None,
    seed: int,
    force: bool,
) -> Path:
    """Write `image`, the exact solution before rounding, `source` and `target`: [3, h, w] in pixel space [0, 1]."""
    parents = {**sha256_of_each({"source": source, "basis": basis}), "mark": design.mark.sha256}
    parameters = {"norm": result.solver["norm"], "nullspace": result.nullspace, **design.describe()}
    provenance = Provenance(WATERMARK, "pixel", model, weights_sha256, seed, parameters, parents)
    return write_tensors(path, result.unrounded()._asdict(), provenance, force=force)
