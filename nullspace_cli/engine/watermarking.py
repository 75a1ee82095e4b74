"""Watermarks that the network cannot see (paper, section 6, eq. 7 and A.2), at the model's own size.

The image at *model size* is the source after the resize of the model's evaluation transform and before its crop. That
transform leaves such an image as it is, so a file of that size reaches the network pixel for pixel. Inside the crop,
each patch z is the point nearest to the target t with A z = A x and values in [0, 1]: its tokens, and with them the
whole output, are those of the source. Pixels outside the crop, which the network never reads, follow the target freely.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine import metrics
from nullspace_cli.engine.artifacts import Provenance, sha256_of, write_tensors
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.images import Picture
from nullspace_cli.engine.marks import Mark, Placement, target_image
from nullspace_cli.engine.models import LoadedModel
from nullspace_cli.engine.nullspace import PatchMap
from nullspace_cli.engine.solvers.box_l2 import project_affine_box
from nullspace_cli.engine.solvers.solution import Solution
from nullspace_cli.engine.transform import EvalTransform

KIND = "watermark"


@dataclass(frozen=True)
class PatchSpace:
    """What the solver needs of a model: how to cut an image, and the row space that must not move.

    Attributes:
        patch_map: the patch embedding's map.
        row_space: orthonormal rows [rank, n] spanning the rows of A in pixel space, float64.
    """

    patch_map: PatchMap
    row_space: Float[Tensor, "rank n"]

    def __post_init__(self) -> None:
        if self.row_space.shape[1] != self.patch_map.patch_dim:
            raise ArtifactError(
                f"The row space is of patches with {self.row_space.shape[1]} numbers, the model's patches have "
                f"{self.patch_map.patch_dim}. Make the basis again for this model."
            )


@dataclass(frozen=True)
class Watermarked:
    """A solved watermark at model size; images are [3, h, w] in pixel space [0, 1], float64.

    Attributes:
        source: the source at model size.
        target: what the mark should look like, possibly outside [0, 1].
        image: the exact solution, before any rounding.
        pixels: the solution rounded to 8 bits, [h, w, 3].
        solution: the solver's certificate over the patches.
        unmarked: patches left as in the source because the solver did not reach its tolerance there.
    """

    source: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]
    image: Float[Tensor, "3 h w"]
    pixels: NDArray[np.uint8]
    solution: Solution
    unmarked: int

    def describe_solver(self) -> dict[str, Any]:
        """The certificate over all patches; of those that are left as in the source nothing needs certifying."""
        certificate = self.solution
        return {
            "norm": 2,
            "status": certificate.status.name.lower(),
            "iterations": int(certificate.iterations.max()),
            "gap": float(certificate.gap.max()),
            "residual": float(certificate.residual.max()),
            "bound_violation": float(certificate.bound_violation.max()),
            "patches": len(certificate.value),
            "unmarked_patches": self.unmarked,
        }


def watermark(
    transform: EvalTransform,
    space: PatchSpace,
    picture: Picture,
    mark: Mark,
    placement: Placement,
    tolerance: float = 1e-9,
) -> Watermarked:
    """Solve min ||z - t||_2 subject to A z = A x, 0 <= z <= 1 on every patch of the picture at model size.

    Args:
        tolerance: largest ||A (z - x)||_2 of a patch, by an orthonormal basis of A's row space, in [0, 1] pixel units.
    """
    geometry = transform.geometry(picture.width, picture.height)
    source = _to_image(transform.resize(picture.pixels))
    target = target_image(source, mark, placement)
    crop = _Crop(geometry.top, geometry.left, geometry.crop)
    fill = torch.tensor(geometry.fill, dtype=torch.float64)[:, None, None] / 255
    cut = space.patch_map.patchify
    x, t, inside = cut(crop.take(source, fill)), cut(crop.take(target, fill)), cut(crop.inside(source))
    A = space.row_space
    # Padding is not part of the file, so it cannot change: its bounds are its own value.
    solution = project_affine_box(
        A, x, t, torch.where(inside, 0.0, x), torch.where(inside, 1.0, x), tolerance=tolerance
    )
    solved = solution.residual <= tolerance
    z = torch.where(solved[:, None], solution.value, x)
    image = target.clamp(0, 1)
    seen = space.patch_map.unpatchify(z, crop.take(image, fill))
    crop.put(image, seen)
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Watermarked(source, target, image, pixels, solution, int((~solved).sum()))


@dataclass(frozen=True)
class _Crop:
    """A crop's place on an image; a negative corner is padding."""

    top: int
    left: int
    size: tuple[int, int]

    def _slices(self, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part of the image that the crop covers: as slices of the image and as slices of the crop."""
        starts, spans = (self.top, self.left), list(zip(self.size, shape[-2:], strict=True))
        of_image = [slice(max(a, 0), min(a + c, s)) for a, (c, s) in zip(starts, spans, strict=True)]
        of_crop = [slice(s.start - a, s.stop - a) for a, s in zip(starts, of_image, strict=True)]
        return (of_image[0], of_image[1]), (of_crop[0], of_crop[1])

    def take(self, image: Float[Tensor, "3 h w"], fill: Float[Tensor, "3 1 1"]) -> Float[Tensor, "3 ch cw"]:
        of_image, of_crop = self._slices(image.shape)
        crop = fill.expand(3, *self.size).clone()
        crop[:, *of_crop] = image[:, *of_image]
        return crop

    def inside(self, image: Float[Tensor, "3 h w"]) -> Tensor:
        """Which entries of the crop are pixels of the image: bool [3, ch, cw]."""
        _, of_crop = self._slices(image.shape)
        inside = torch.zeros(3, *self.size, dtype=torch.bool)
        inside[:, *of_crop] = True
        return inside

    def put(self, image: Float[Tensor, "3 h w"], crop: Float[Tensor, "3 ch cw"]) -> None:
        of_image, of_crop = self._slices(image.shape)
        image[:, *of_image] = crop[:, *of_crop]


def _to_image(pixels: NDArray[np.uint8]) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).double() / 255


@dataclass(frozen=True)
class Verification:
    """What the model says of two files, each read through its own evaluation transform.

    Attributes:
        before, after: {"class", "label", "probability"}, or None for a model without a head.
        match: whether the predicted class is the same; None without a head.
        embedding_error: root mean square of the change of the patch embeddings over theirs (bias left out).
        feature_cosine, feature_change: of the features before the head: cosine, and relative norm of the change.
        input_pixels_changed: share of the model's 8-bit input values that differ.
    """

    before: dict[str, Any] | None
    after: dict[str, Any] | None
    match: bool | None
    confidence_change: float | None
    logit_mse: float | None
    embedding_error: float | None
    feature_cosine: float | None
    feature_change: float | None
    input_pixels_changed: float

    def holds(self, tolerance: float) -> bool:
        """Same class (where there are classes), and embeddings within `tolerance`."""
        return self.match is not False and (self.embedding_error or 0.0) <= tolerance


def verify(model: LoadedModel, patch_map: PatchMap, source: Picture, result: Picture) -> Verification:
    """Compare what the model makes of the source and of the file that was written, re-read from disk."""
    inputs = [model.transform.input_pixels(picture.pixels) for picture in (source, result)]
    batch = torch.stack([model.transform.normalize(pixels) for pixels in inputs])
    outputs = model(batch)
    W = patch_map.matrix("normalized")
    tokens = patch_map.patchify(batch.double()) @ W.mT
    before = after = match = change = mse = None
    if outputs.logits is not None:
        (old, old_p), (new, new_p) = (metrics.top1(row) for row in outputs.logits)
        before = {"class": old, "label": model.label(old), "probability": old_p}
        after = {"class": new, "label": model.label(new), "probability": new_p}
        match = old == new
        change = abs(float(torch.softmax(outputs.logits[1].double(), 0)[old]) - old_p)
        mse = float(metrics.squared_change(outputs.logits[0], outputs.logits[1]))
    return Verification(
        before=before,
        after=after,
        match=match,
        confidence_change=change,
        logit_mse=mse,
        embedding_error=metrics.relative_change(tokens[0], tokens[1]),
        feature_cosine=metrics.cosine(outputs.features[0], outputs.features[1]),
        feature_change=metrics.relative_change(outputs.features[0], outputs.features[1]),
        input_pixels_changed=float((inputs[0] != inputs[1]).mean()),
    )


def likeness(result: Watermarked) -> dict[str, float | None]:
    """How close the picture stays to its source (PSNR in dB), and how well the change shows the wanted one."""
    shown = torch.from_numpy(result.pixels.copy()).permute(2, 0, 1).double() / 255
    wanted = result.target.clamp(0, 1) - result.source
    return {
        "psnr": metrics.psnr(result.source, shown),
        "mark_correlation": metrics.correlation(shown - result.source, wanted),
    }


def noise_picture(result: Watermarked) -> NDArray[np.uint8]:
    """The watermark's noise as a picture [h, w, 3]: mid-grey is no change, the largest change is black or white."""
    noise = result.image - result.source
    scaled = 0.5 + 0.5 * noise / noise.abs().max().clamp_min(1e-12)
    return (scaled * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def save_float(
    path: Path, result: Watermarked, model: LoadedModel, source: Path, mark: Path, placement: Placement, *, force: bool
) -> Path:
    """Write the exact solution `image`, `source` and `target`, float64 [3, h, w] in pixel space, before rounding."""
    parents = {"source": sha256_of(source), "mark": sha256_of(mark)}
    parameters = {"norm": 2, **asdict(placement)}
    provenance = Provenance(KIND, "pixel", model.name, model.weights_sha256, model.seed, parameters, parents)
    tensors = {"image": result.image, "source": result.source, "target": result.target}
    return write_tensors(path, tensors, provenance, force=force)
