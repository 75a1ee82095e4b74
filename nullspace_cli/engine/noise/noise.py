"""Noise that a network is meant not to notice: learned or exact, its file, its controls, and another model's noise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.documents.artefacts import Provenance, read_provenance, read_tensors, write_tensors
from nullspace_cli.engine.documents.kinds import BASIS, NEAR_BASIS, NOISE, STEM_BASIS
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from nullspace_cli.engine.nullspace.basis_file import read_basis
from nullspace_cli.engine.nullspace.image_noise import ImageNoise
from nullspace_cli.engine.nullspace.sampling import null_noise
from nullspace_cli.engine.nullspace.stem_basis_file import read_near_basis, read_stem_basis
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

RECORDED = 1e-9
"""By which figures of a file may differ from its record, relatively: sums of another order differ by 1e-15."""


@dataclass(frozen=True, eq=False)
class Noise:
    """One noise for all images.

    Attributes:
        delta: [1, m, d] on the patch embeddings (encoder level), or [1, c, h, w] on the normalised image (input level).
        model, weights_sha256: whose noise it is.
        std: that model's per-channel standard deviation: `delta * std` is input-level noise in [0, 1] pixels.
        limit: the sampling limit that learned noise started from; None for exact noise.
        sigma: root mean square of noise from a nullspace, in [0, 1] pixels; None for learned noise.
        source: the file it comes from.
        transform: how the images were read that learned noise was learned on; None for noise from a nullspace.
        rtol: of noise from a near nullspace, no more of it is read than this share of the most that can be read.
    """

    delta: Float[Tensor, "1 *shape"] = field(repr=False)
    level: Level
    model: str
    weights_sha256: str | None
    std: tuple[float, ...]
    limit: float | None
    sigma: float | None
    source: Path
    transform: EvalTransform | None = None
    rtol: float | None = None

    @property
    def kind(self) -> Literal["learned", "exact", "near"]:
        if self.sigma is None:
            return "learned"
        return "exact" if self.rtol is None else "near"

    @property
    def norm(self) -> float:
        """Euclidean norm of all elements, in the units of `delta`."""
        return float(self.delta.double().norm())

    def scaled(self, sigma: float) -> "Noise":
        """Noise of `sigma` 1 at another size."""
        return replace(self, delta=(self.delta.double() * sigma).to(self.delta.dtype), sigma=sigma)

    def shuffled(self, generator: torch.Generator) -> "Noise":
        """The same elements in a random order."""
        order = torch.randperm(self.delta.numel(), generator=generator)
        return replace(self, delta=self.delta.flatten()[order].reshape(self.delta.shape))

    def uniform(self, generator: torch.Generator) -> "Noise":
        """Noise from U(-a, a) in every element, with the same norm."""
        draw = 2 * torch.rand(self.delta.shape, generator=generator, dtype=torch.float64) - 1
        return replace(self, delta=(draw * (self.norm / draw.norm())).to(self.delta.dtype))

    def on(self, model: Model) -> "Noise":
        """This noise as `model` meets it: its own as it is, another model's input-level noise converted.

        Pixels are what two models share: v std_source / std_target. The mean plays no part in a difference. Where the
        input sizes differ the noise is resized as an image would be, bilinearly.

        Raises:
            ArtifactError: the noise means nothing to this model.
        """
        own = self.weights_sha256 == model.weights_sha256
        if self.level == "encoder" and not own:
            sha256 = str(self.weights_sha256)[:12]
            raise ArtifactError(
                f"{self.source} is encoder-level noise of {self.model}, sha256 {sha256}: it lives on that model's "
                f"patch embeddings and means nothing to {model.name}, sha256 {model.weights_sha256[:12]}. Noise that "
                f"was learned at input level can be transferred."
            )
        delta, shape = self.delta, injection_site(model, self.level).shape
        if self.level == "input" and not (own and tuple(delta.shape[1:]) == shape):
            c, *size = shape
            if delta.shape[1] != c:
                raise ArtifactError(f"{self.source} is noise on {delta.shape[1]} channels; {model.name} reads {c}.")
            pixels = delta.double() * torch.tensor(self.std, dtype=torch.float64)[:, None, None]
            resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)
            delta = model.transform.delta_to_normalized(resized).to(delta.dtype)
        if tuple(delta.shape[1:]) != shape:
            raise ArtifactError(
                f"{self.source} has noise of shape {list(delta.shape[1:])}; {model.name} takes {list(shape)} at "
                f"{self.level} level.",
                hint="Was the model built with other `timm_kwargs`?",
            )
        return replace(self, delta=delta)


def read_learned(path: Path) -> tuple[dict[str, Tensor], Provenance]:
    """All that `write_noise` wrote, which is what the file's record says of it.

    Raises:
        ArtifactError: the file is not such noise, is damaged, or holds another noise than the record is of.
    """
    tensors, provenance = read_tensors(path, NOISE)
    record = provenance.parameters["record"]
    found = {
        "norm_init": float(tensors["init"].double().norm()),
        "norm_final": float(tensors["noise"].double().norm()),
        "loss_first": float(tensors["losses"][0]),
    }
    for name, value in found.items():
        if not math.isclose(value, record[name], rel_tol=RECORDED):
            raise ArtifactError(
                f"{path} is damaged: its {name} is {value:.9g}; its record has {record[name]:.9g}. Make it again."
            )
    return tensors, provenance


def read_noise(path: Path) -> Noise:
    """The noise that `vitnull learn-noise` wrote.

    Raises:
        ArtifactError: as `read_learned`.
    """
    tensors, provenance = read_learned(path)
    about = provenance.parameters
    return Noise(
        tensors["noise"],
        about["level"],
        provenance.model,
        provenance.weights_sha256,
        tuple(about["std"]),
        about["limit"],
        None,
        path,
        EvalTransform.from_data_config(about["plan"]["data_config"]),
    )


def exact_noise(path: Path, model: Model, sigma: float, seed: int) -> Noise:
    """A sample from the nullspace, exact or near, that `vitnull basis` wrote, for images as `model` reads them.

    Raises:
        ArtifactError: the file is not a basis, or one for another number of channels, or for images of another size.
    """
    (channels, *size), reads = model.transform.input_size, " x ".join(map(str, model.transform.input_size))
    kind = read_provenance(path, BASIS, STEM_BASIS, NEAR_BASIS).kind
    if kind != BASIS:
        of_images: ImageNoise
        of_images, provenance = (read_stem_basis if kind == STEM_BASIS else read_near_basis)(path, model)
        if of_images.image_map.input_size != model.transform.input_size:
            own = " x ".join(map(str, of_images.image_map.input_size))
            raise ArtifactError(f"{path} is a nullspace of images of {own}; {model.name} reads {reads}.")
        pixels = of_images.pixel_noise((size[0], size[1]), sigma, seed)
    else:
        basis, provenance = read_basis(path, model)
        if basis.shape[1] != channels:
            raise ArtifactError(f"{path} is a nullspace on {basis.shape[1]} channels; {model.name} reads {channels}.")
        pixels = null_noise(basis, (size[0], size[1]), sigma, seed)
    delta = model.transform.delta_to_normalized(pixels)[None]
    near = kind == NEAR_BASIS or provenance.parameters.get("near")
    return Noise(
        delta.float(),
        "input",
        provenance.model,
        provenance.weights_sha256,
        model.transform.std,
        None,
        sigma,
        path,
        rtol=provenance.parameters["rtol"] if near else None,
    )


def write_noise(
    path: Path,
    model: Model,
    level: Level,
    delta: Float[Tensor, "1 *shape"],
    *,
    init: Float[Tensor, "1 *shape"],
    losses: Sequence[float],
    limit: float,
    plan: Mapping[str, Any],
    record: Mapping[str, Any],
    force: bool,
) -> Path:
    """Write noise that was learned for a model; `read_noise` reads it.

    Raises:
        ArtifactError: the file cannot be written, or is there already and `force` is not given.
    """
    parameters = {
        "level": level,
        "std": list(model.transform.std),
        "input_size": list(model.transform.input_size),
        "limit": limit,
        "plan": dict(plan),
        "record": dict(record),
    }
    space = "normalized" if level == "input" else "tokens"
    about = Provenance(NOISE, space, model.name, model.weights_sha256, model.seed, parameters)
    tensors = {"noise": delta, "init": init, "losses": torch.tensor(losses, dtype=torch.float64)}
    return write_tensors(path, tensors, about, force=force)
