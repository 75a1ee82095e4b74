"""What an evaluation compares: noises as the model under test meets them, and the draws of their controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from nullspace_cli.engine import metrics
from nullspace_cli.engine.documents.artefacts import read_provenance
from nullspace_cli.engine.documents.kinds import BASIS, NEAR_BASIS, NOISE, STEM_BASIS
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.noise.injection_sites import injection_site
from nullspace_cli.engine.noise.noise import Noise, exact_noise, read_noise
from nullspace_cli.engine.nullspace.basis import patch_map_of
from nullspace_cli.engine.nullspace.check import probe_images
from nullspace_cli.engine.nullspace.embedding_inverse import realise
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.runtime.random_generators import stream
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

Control = Literal["none", "shuffle", "uniform"]


@dataclass(frozen=True)
class NoiseUnderTest:
    """A noise as the model under test meets it.

    Attributes:
        transfer: whether it was made for other weights.
        residual: of encoder-level noise realised in pixels, what of it the pixels do not bring about, relative to it,
            as the model's own patch embedding shows; None for noise that was not realised.
        solver: how the realisation was found.
    """

    noise: Noise
    transfer: bool
    residual: float | None = None
    solver: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        return {
            "noise": str(self.noise.source),
            "noise_model": self.noise.model,
            "kind": self.noise.kind,
            "level": self.noise.level,
            "limit": self.noise.limit,
            "sigma": self.noise.sigma,
            "rtol": self.noise.rtol,
            "transfer": self.transfer,
            "realised": self.solver is not None,
            "residual": self.residual,
            "solver": self.solver,
        }


def read_noises_under_test(
    paths: Sequence[Path], model: Model, *, sigmas: Sequence[float] = (0.1,), seed: int = 0
) -> list[NoiseUnderTest]:
    """The noises of files as `model` meets them: learned noise, and a sample for each sigma from each basis.

    Args:
        sigmas: root mean square of noise from a nullspace, in [0, 1] pixels.

    Raises:
        ArtifactError: a file is neither a noise nor a basis, or its noise means nothing to this model.
        ModelError: encoder level, and the model has no patch tokens.
    """
    return [tested for path in paths for tested in _read(path, model, sigmas, seed)]


def _read(path: Path, model: Model, sigmas: Sequence[float], seed: int) -> Iterator[NoiseUnderTest]:
    header = read_provenance(path, NOISE, BASIS, STEM_BASIS, NEAR_BASIS)
    transfer = header.weights_sha256 != model.weights_sha256
    if header.kind != NOISE:
        drawn = exact_noise(path, model, 1.0, seed)  # once for all sizes: of whole images it takes a while
        yield from (NoiseUnderTest(drawn.scaled(sigma), transfer) for sigma in sigmas)
        return
    yield NoiseUnderTest(read_noise(path).on(model), transfer)


def with_realised(noises: Sequence[NoiseUnderTest], model: Model, bound: float) -> list[NoiseUnderTest]:
    """All noises, and after each at encoder level the pixels, within a bound, that come closest to bringing it about.

    Args:
        bound: largest absolute value of such pixels, in normalised units.

    Raises:
        ModelError: the model does not start with one linear map of disjoint patches.
    """
    if all(tested.noise.level != "encoder" for tested in noises):
        return list(noises)
    patch_map = patch_map_of(model)
    if patch_map is None:
        raise ModelError(
            f"{model.name} does not embed patches by one linear map: its noise has no pixels.",
            hint="Leave out `realise`.",
        )
    found = []
    for tested in noises:
        found.append(tested)
        if tested.noise.level == "encoder":
            found.append(_realised(tested, model, patch_map, bound))
    return found


@full_precision
def _realised(tested: NoiseUnderTest, model: Model, patch_map: PatchMap, bound: float) -> NoiseUnderTest:
    wanted = tested.noise.delta
    made = realise(patch_map, wanted, model.transform.input_size[1:], bound)
    site = injection_site(model.in_full_precision(), "encoder")
    probe = model.transform.to_normalized(probe_images(model, 1, 0)).to(model.device)
    with torch.no_grad():
        brought = site.read(probe + made.noise.to(probe)) - site.read(probe)
    solver = {**made.solver, "bound": bound, "share_at_bound": made.share_at_bound}
    pixels = replace(tested.noise, delta=made.noise.float(), level="input")
    return NoiseUnderTest(pixels, tested.transfer, metrics.relative_change(wanted, brought.cpu()), solver)


def read_otherwise(noises: Sequence[NoiseUnderTest], transform: EvalTransform) -> list[str]:
    """A sentence for each file whose noise was learned on images that were resized or cropped in another way."""
    found = {}
    for tested in noises:
        learned = tested.noise.transform
        if learned and _way(learned) != _way(transform):
            found[tested.noise.source] = (
                f"{tested.noise.source} was learned on images that were read another way ({_way(learned)}) than they "
                f"are here ({_way(transform)}): what it does here it was not learned to do."
            )
    return list(found.values())


def _way(transform: EvalTransform) -> str:
    """How images are resized and cropped; mean and std are the model's own business."""
    return f"{transform.interpolation}, crop_pct {transform.crop_pct:g}, {transform.crop_mode}"


class Case(NamedTuple):
    """One forward pass for each image: a noise itself, or one draw of a control of it."""

    tested: NoiseUnderTest
    control: Control
    trial: int
    noise: Noise

    @property
    def described(self) -> str:
        """In words, for messages."""
        source = f"the noise of {self.tested.noise.source}"
        return source if self.control == "none" else f"the control '{self.control}' of {source}"


def cases_of(noises: Sequence[NoiseUnderTest], controls: Sequence[Control], trials: int, seed: int) -> list[Case]:
    """Each noise, then the draws of its controls, which do not depend on the other noises."""
    cases = []
    for tested in noises:
        cases.append(Case(tested, "none", 0, tested.noise))
        for control in controls:
            for trial in range(trials):
                draw = stream(seed, trial)
                made = tested.noise.shuffled(draw) if control == "shuffle" else tested.noise.uniform(draw)
                cases.append(Case(tested, control, trial, made))
    return cases
