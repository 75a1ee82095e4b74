"""What the model says of a watermarked file, beside its source."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine import metrics
from nullspace_cli.engine.comparison.input_change import InputChange, by_readings, inputs_of
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.files.two_readings import Reading
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.first_layer import ReadMap
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.watermark.legibility import Legibility
from nullspace_cli.engine.watermark.result import Watermarked, fidelity


@dataclass(frozen=True)
class Verification:
    """What the model says of two files, each read through its own evaluation transform; None is what nobody measured.

    Attributes:
        before, after: {"class", "label", "probability"}; None for a model without a head, or one that was not run.
        match: whether the predicted class is the same; None without a head.
        embedding_error: root mean square of the change of the patch embeddings over theirs (bias left out), or of what
            the first layers make of the whole image, where that leaves room; None for other models.
        feature_cosine, feature_change: of the features before the head: cosine, and relative norm of the change.
        reading: by which the model was given the files.
        input_pixels_changed: share of the model's 8-bit input values that differ, as timm's loader gives the files.
        input_pixels_changed_shown: the same as the files are shown.
        input_max_change: the largest change of one of these values, in levels, by the model's own reading.
    """

    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    match: bool | None = None
    confidence_change: float | None = None
    logit_mse: float | None = None
    embedding_error: float | None = None
    feature_cosine: float | None = None
    feature_change: float | None = None
    reading: Reading = "timm"
    input_pixels_changed: float | None = None
    input_pixels_changed_shown: float | None = None
    input_max_change: int | None = None

    @property
    def changed(self) -> float | None:
        """The share of the model's input values that differ by its own reading."""
        return self.input_pixels_changed if self.reading == "timm" else self.input_pixels_changed_shown

    def as_identical(self, *, has_head: bool) -> "Verification":
        """Of inputs that were seen to be equal: so is what a model computes from them, and it need not be run.

        Its class and its logits are the same, if it has any; of what it computes on the way no figure is given.
        """
        return replace(self, match=True, confidence_change=0.0, logit_mse=0.0) if has_head else self

    def holds(self, tolerance: float) -> bool | None:
        """Equal inputs; or the same class (where there are classes), and embeddings (else features) within `tolerance`.

        None where neither was measured.
        """
        if self.match is False:
            return False
        if self.changed == 0:
            return True
        change = self.feature_change if self.embedding_error is None else self.embedding_error
        return None if change is None else change <= tolerance


class WatermarkedFile(NamedTuple):
    """One image done: the solution, what the model says of the file, and the record of the JSON document."""

    result: Watermarked
    verdict: Verification
    record: dict[str, Any]


def figures(result: Watermarked, verdict: Verification, tolerance: float, seen: Legibility) -> dict[str, Any]:
    """The keys of JSON documents for a watermark that was made and judged.

    Args:
        tolerance: as of `Verification.holds`.
    """
    return {
        "size": [result.pixels.shape[1], result.pixels.shape[0]],
        **asdict(verdict),
        **fidelity(result),
        "legibility": seen._asdict(),
        "nullspace": result.nullspace,
        "rounding": result.rounding,
        "solver": dict(result.solver),
        "compared_with": result.jpeg.compared_with if result.jpeg else "source",
        "file_size_ratio": result.jpeg and result.jpeg.size_ratio,
        "blocks_changed": result.jpeg and result.jpeg.blocks_changed,
        "verified": verdict.holds(tolerance),
    }


def compare_inputs(transform: EvalTransform, source: Picture, result: Picture) -> Verification:
    """What of a model's 8-bit input differs between two files, by both readings; the model is not run."""
    return _compared(source.reading, by_readings(transform.input_pixels, source, result))


def _compared(reading: Reading, changes: Mapping[Reading, InputChange | None]) -> Verification:
    """As `compare_inputs`, of changes that have been measured."""
    loaded, shown = (change.changed if change else None for change in (changes["timm"], changes["shown"]))
    own = changes[reading]
    return Verification(
        reading=reading,
        input_pixels_changed=loaded,
        input_pixels_changed_shown=shown,
        input_max_change=own.largest if own else None,
    )


def verify(model: Model, first_layer: ReadMap | None, source: Picture, result: Picture) -> Verification:
    """Compare what the model makes of the source and of the file that was written, re-read from disk alike.

    Args:
        first_layer: as `reading_of` the model.
    """
    inputs = inputs_of(model.transform.input_pixels, source, result)
    batch = torch.stack([model.transform.normalize(pixels) for pixels in inputs])
    compared = _compared(source.reading, by_readings(model.transform.input_pixels, source, result, inputs))
    return replace(
        verify_inputs(model, first_layer, batch),
        reading=source.reading,
        input_pixels_changed=compared.input_pixels_changed,
        input_pixels_changed_shown=compared.input_pixels_changed_shown,
        input_max_change=compared.input_max_change,
    )


@full_precision
def verify_inputs(model: Model, first_layer: ReadMap | None, batch: Float[Tensor, "2 c h w"]) -> Verification:
    """Compare what the model makes of two normalised inputs, the source's first, whatever its `amp`.

    One after the other: side by side in one batch, equal inputs may meet different kernels and differ in the last bit.
    """
    precise = model.in_full_precision()
    source, result = (
        precise(image[None], f"the {name}") for name, image in zip(("source", "result"), batch, strict=True)
    )
    before = after = match = change = mse = error = None
    if first_layer:
        tokens = first_layer.forward(batch.double())
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
