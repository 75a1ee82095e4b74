"""From files to files: claims, their probes and how suspects are held against them: what `vitnull claim` runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.documents.artefacts import Provenance, write_tensors
from nullspace_cli.engine.documents.kinds import PROBES
from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.files.png import encode
from nullspace_cli.engine.files.writing import FilesTogether
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.ownership.answers import read_answers
from nullspace_cli.engine.ownership.black_box import BlackBox, judge_answers
from nullspace_cli.engine.ownership.claim import Claim
from nullspace_cli.engine.ownership.probes import Probe, probe_images, probes_of
from nullspace_cli.engine.ownership.verdict import Finding
from nullspace_cli.engine.ownership.white_box import WhiteBox, compare
from nullspace_cli.engine.transforms.eval_transform import EvalTransform, from_8_bits, to_8_bits

ProbeFormat = Literal["png", "safetensors"]


@dataclass(frozen=True)
class Rounding:
    """What the claim's own first layer reads of null noise by what it reads of the mirror image, over all images.

    Attributes:
        before, after: of the exact images, and of those that were written; None where nothing is read.
    """

    before: float | None
    after: float | None


@dataclass(frozen=True)
class WrittenProbes:
    """Probes that were written.

    Attributes:
        images: the names of those that are shown.
        probes: how many files, or images in files, there are.
        noise_rms: in levels of 255, over all noises.
    """

    images: list[str]
    probes: int
    noise_rms: float
    rounding: Rounding


def probe_transform(claim: Claim, size: int | None) -> EvalTransform:
    """How the images of probes are resized and cropped: as for the claim's model, or to another size.

    Raises:
        UsageError: no whole patch is in an image of that size.
    """
    transform = EvalTransform.from_data_config(claim.recipe.transform)
    if size is None:
        return transform
    if size < max(claim.patch_map.patch_size):
        raise UsageError(f"size is {size}; expected at least {max(claim.patch_map.patch_size)}, the claim's patch.")
    return replace(transform, input_size=(transform.input_size[0], size, size))


def probe_files(claim: Claim, images: int, folder: Path, form: ProbeFormat) -> list[list[Path]]:
    """The files of each image's probes: one a probe, or one an image."""
    if form == "safetensors":
        return [[folder / f"{image:05d}.probes.safetensors"] for image in range(images)]
    return [[folder / f"{probe.name}.png" for probe in probes_of(claim, image)] for image in range(images)]


def write_probes(
    claim: Claim,
    images: ImageSet,
    transform: EvalTransform,
    folder: Path,
    form: ProbeFormat,
    *,
    force: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> WrittenProbes:
    """Write the probes of a claim; all of an image appear together, or none.

    Raises:
        VitnullError: an image cannot be read, or a file cannot be written.
    """
    read = torch.zeros(2, 2, dtype=torch.float64)  # of exact and of written images: null noise, its mirror image
    names, squares = [], []
    files = probe_files(claim, len(images), folder, form)
    for index, paths in enumerate(files):
        sample = images.read(index, transform)
        names.append(sample.name)
        made = dict(probe_images(claim, index, from_8_bits(sample.pixels)))
        none, null, mirrored, *_ = made.values()
        read[0] += torch.tensor([_power_read(claim, image - none) for image in (null, mirrored)])
        squares.append(float((null - none).square().mean()))
        if form == "safetensors":
            _write_tensors(paths[0], claim, sample.name, made, force=force)
            written = [image.float().double() for image in (none, null, mirrored)]
        else:
            with FilesTogether(force=force) as together:
                for path, image in zip(paths, made.values(), strict=True):
                    together.write(path, partial(_write_png, image))
            written = [from_8_bits(to_8_bits(image)) for image in (none, null, mirrored)]
        read[1] += torch.tensor([_power_read(claim, image - written[0]) for image in written[1:]])
        advance()
    ratios = [float(null / mirrored) if mirrored > 0 else None for null, mirrored in read]
    rms = 255 * (sum(squares) / len(squares)) ** 0.5
    return WrittenProbes(names, len(files) * len(made), rms, Rounding(*ratios))


def _write_png(image: Float[Tensor, "c h w"], path: Path) -> None:
    path.write_bytes(encode(to_8_bits(image)))


def _power_read(claim: Claim, noise: Float[Tensor, "c h w"]) -> float:
    """What the claim's first layer reads of a difference of images in [0, 1]."""
    patches = claim.patch_map.patchify(noise)
    return float((patches @ claim.patch_map.matrix("pixel").mT).square().sum())


def _write_tensors(
    path: Path, claim: Claim, source: str, made: dict[Probe, Float[Tensor, "c h w"]], *, force: bool
) -> None:
    ordered = sorted(made.items(), key=lambda item: item[0].name)  # by which nobody can tell which is which
    recipe = claim.recipe
    parameters = {"digest": claim.digest, "source": source, "names": [probe.name for probe, _ in ordered]}
    provenance = Provenance(PROBES, "pixel", recipe.model, recipe.weights_sha256, recipe.seed, parameters)
    write_tensors(path, {"images": torch.stack([image.float() for _, image in ordered])}, provenance, force=force)


@dataclass(frozen=True)
class Judged:
    """A suspect, or a reference, and what is said of it."""

    model: Model | None
    white: WhiteBox | None
    black: BlackBox | None
    finding: Finding

    def describe(self) -> dict[str, Any]:
        """The keys of JSON documents for a reference."""
        assert self.model is not None
        assert self.white is not None
        return {
            "model": self.model.name,
            "weights_sha256": self.model.weights_sha256,
            "verdict": self.finding.verdict,
            "reason": self.finding.reason,
            "weights": self.white.to_dict(),
        }


def judge(
    claim: Claim,
    suspect: Model | None,
    answers: Path | None,
    level: float,
    seed: int,
    references: Sequence[Model] = (),
) -> Judged:
    """Hold a suspect against a claim: by its weights, or by its answers.

    Args:
        references: whose common share principal angles leave out; for which the claim must not hold, `over_all` sees.

    Raises:
        UsageError: no answers could reach the level.
        ArtifactError: the answers are not those to the claim's probes.
    """
    if suspect is not None:
        white = compare(claim, suspect, references=references, seed=seed)
        return Judged(suspect, white, None, white.finding(level))
    assert answers is not None
    if claim.smallest_p > level:
        raise UsageError(
            f"level is {level:g}, which {claim.recipe.pairs} pairs of noises cannot reach: their least p-value is "
            f"{claim.smallest_p:g}.",
            hint="Raise `level`, or commit to more `pairs`.",
        )
    black = judge_answers(read_answers(answers, claim))
    return Judged(None, None, black, black.finding(level))


def over_all(judged: Judged, references: Sequence[Judged]) -> Finding:
    """What is said of the suspect once references have been held against the claim: it must not hold for these, too."""
    alike = [one.model.name for one in references if one.model and one.finding.verdict == "derived"]
    if judged.finding.verdict != "derived" or not alike:
        return judged.finding
    return Finding(
        "not shown",
        f"{judged.finding.reason}; but {', '.join(alike)}, given as a reference, would be derived as well: the claim "
        "tells no more of the suspect than that it has what these have in common",
    )
