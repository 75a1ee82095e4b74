"""The exact nullspace of a model's patch embedding: found, checked through the whole network, saved and read back."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.documents.artefacts import Provenance, read_tensors, require_weights, write_tensors
from nullspace_cli.engine.documents.kinds import BASIS
from nullspace_cli.engine.errors import ArtifactError, ModelError, NoNullspaceError
from nullspace_cli.engine.models.model import LoadedModel, finite
from nullspace_cli.engine.models.stem import Stem
from nullspace_cli.engine.nullspace.patch_embedding import (
    Nullspace,
    PatchMap,
    Space,
    count_rank,
    sample_null,
    split_space,
)
from nullspace_cli.engine.runtime.precision import full_precision

ORTHONORMAL = 1e-7
"""By which rows of a file may be off: ours are orthonormal to 1e-14."""
PROBES = 16
"""Random vectors by which large matrices are checked."""
EXAMPLES = "vit_small_patch32_224, vit_tiny_patch16_224 or demo"


class PatchBasis(NamedTuple):
    """A patch embedding and its nullspace."""

    patch_map: PatchMap
    nullspace: Nullspace

    @property
    def pixel_basis(self) -> Float[Tensor, "nullity c rh rw"]:
        """Null vectors in pixel space, whichever space the nullspace was computed in; orthonormal if it was that."""
        return _scaled(self.nullspace.basis, self.nullspace.space, self.patch_map.std)

    def describe(self) -> dict[str, Any]:
        """The keys of the JSON document that describe the nullspace."""
        patch_map, nullspace = self
        sigma = nullspace.singular_values
        return {
            "kind": "patch",
            "in_chans": patch_map.in_chans,
            "patch_size": list(patch_map.patch_size),
            "patch_dim": patch_map.patch_dim,
            "embed_dim": patch_map.embed_dim,
            "rank": nullspace.rank,
            "nullity": nullspace.nullity,
            "rtol": nullspace.rtol,
            "sigma_max": float(sigma.max()),
            "sigma_min": float(sigma.min()),
            "nullity_per_channel": patch_map.nullity_per_channel(nullspace.rtol),
            "space": nullspace.space,
        }


@dataclass(frozen=True)
class Check:
    """What the network itself says: exact null noise against random noise of equal norm.

    Attributes:
        passed: None where random noise moves nothing either, so that the check says nothing.
        null_logit_mse, random_logit_mse: squared change summed over the outputs, mean over the probe images.
        residual: largest ||A v|| over the basis vectors v, relative to the largest singular value of A.
        outputs: "logits", or "features" for a model without a head.
    """

    passed: bool | None
    null_logit_mse: float
    random_logit_mse: float
    residual: float
    outputs: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@full_precision
def find_basis(
    model: LoadedModel, *, space: Space = "pixel", rtol: float | None = None, per_channel: bool = False
) -> PatchBasis:
    """The nullspace of the model's patch embedding.

    Raises:
        NoNullspaceError: the model does not start with one linear map of disjoint patches, or that map is injective.
        ModelError: that map is zero.
    """
    stem = model.stem()
    if stem.weight is None:
        raise _no_patches(model, stem)
    patch_map = PatchMap.from_weight(stem.weight, model.transform.std)
    if not bool(patch_map.weight.any()):
        raise ModelError(
            f"{model.name} reads nothing: the weights of its patch embedding are all 0. Check these: {model.weights}."
        )
    basis = PatchBasis(patch_map, patch_map.nullspace(space, rtol, per_channel=per_channel))
    if basis.nullspace.nullity == 0:
        raise _injective(model, basis, per_channel)
    return basis


def patch_map_of(model: LoadedModel) -> PatchMap | None:
    """The model's patch embedding; None where it does not start with one linear map of disjoint patches."""
    weight = model.stem().weight
    return None if weight is None else PatchMap.from_weight(weight, model.transform.std)


def _no_patches(model: LoadedModel, stem: Stem) -> NoNullspaceError:
    layers = "; ".join(stem.layers) or "no linear layer that reads the image"
    reason = {
        "overlapping": "reads the image through overlapping windows, so that no patch has a nullspace of its own",
        "branches": "reads the image by several layers side by side: noise in the nullspace of one moves the others",
        "unknown": "does not start with a linear map of disjoint patches",
    }[stem.kind]
    report = {
        "kind": stem.kind,
        "layers": list(stem.layers),
        "in_chans": model.transform.input_size[0],
        "patch_size": list(stem.window) if stem.window else None,
        "stride": list(stem.stride) if stem.stride else None,
        "rank": None,
        "nullity": None,
    }
    return NoNullspaceError(
        f"{model.name} has no exact patch nullspace: it {reason} ({layers}). "
        f"Use a ViT whose patches hold more numbers than its embedding, such as {EXAMPLES}.",
        report,
    )


def _injective(model: LoadedModel, basis: PatchBasis, per_channel: bool) -> NoNullspaceError:
    patch_map, nullspace = basis
    sigma = nullspace.singular_values
    near = int((sigma < 0.01 * sigma.max()).sum())
    size = patch_map.patch_dim // (patch_map.in_chans if per_channel else 1)
    hints = []
    joint = patch_map.patch_dim - patch_map.embed_dim
    if per_channel and joint > 0:
        hints.append(f"without --per-channel the nullspace has at least {joint} dimensions")
    if near:
        hints.append(f"{near} singular values lie below 1% of the largest: --rtol 0.01 gives that near nullspace")
    hints.append(f"models with room: {EXAMPLES}")
    return NoNullspaceError(
        f"{model.name} has no exact nullspace{' per channel' if per_channel else ''}: its patch embedding maps {size} "
        f"numbers to {patch_map.embed_dim} with full rank (singular values {float(sigma.max()):.3g} ... "
        f"{float(sigma.min()):.3g}, tolerance {nullspace.rtol:.2g} of the largest). "
        + "; ".join(hints).capitalize()
        + ".",
        basis.describe(),
    )


def probe_images(model: LoadedModel, count: int, seed: int) -> Float[Tensor, "count c h w"]:
    """Smooth random images in pixel space [0, 1], for models of any channel count and size."""
    c, h, w = model.transform.input_size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, c, 8, 8, generator=generator)
    return F.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=False).clamp(0, 1)


def equal_norm_noise(noise: Float[Tensor, "c h w"], generator: torch.Generator) -> Float[Tensor, "c h w"]:
    """Gaussian noise of the same norm and the same support: the control beside exact null noise."""
    control = torch.randn(noise.shape, generator=generator, dtype=noise.dtype) * (noise != 0)
    return control * (noise.norm() / control.norm())


def control_noises(
    patch_map: PatchMap,
    row_space: Float[Tensor, "rank n"],
    noise: Float[Tensor, "c h w"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"]]:
    """What null noise is held against: Gaussian noise, and the part of it in the row space, each of the noise's norm.

    Args:
        row_space: orthonormal rows that span what the patch embedding reads, in the space of `noise`.
        generator: not one of the seed that the noise itself was drawn from.
    """
    random = equal_norm_noise(noise, generator)
    seen = patch_map.patchify(random) @ row_space.mT @ row_space
    within = patch_map.unpatchify(seen, torch.zeros_like(random))
    return random, within * (noise.norm() / within.norm())


def null_noise(
    basis: Float[Tensor, "nullity c rh rw"], size: tuple[int, int], std: float, seed: int
) -> Float[Tensor, "c h w"]:
    """A sample of exact null noise over a model's whole input, in pixel units of root mean square `std`.

    Args:
        basis: null vectors in pixel space, as of `PatchBasis.pixel_basis` or `read_basis`.
    """
    noise = sample_null(basis, size, torch.Generator().manual_seed(seed))
    return noise * (std / noise.square().mean().sqrt())


@full_precision
def check_basis(model: LoadedModel, basis: PatchBasis, *, seed: int = 0, std: float = 0.1, images: int = 4) -> Check:
    """Run the network on probe images, on the same with exact null noise, and with random noise of equal norm.

    In full precision whatever the model's `amp`: half precision alone would move the output by more than the bound.

    Args:
        std: root mean square of the noise, in [0, 1] pixel units.
    """
    x = probe_images(model, images, seed)
    null = null_noise(basis.pixel_basis, model.transform.input_size[1:], std, seed)
    random = equal_norm_noise(null, torch.Generator().manual_seed(seed + 1))
    batch = torch.cat([x, x + null.float(), x + random.float()])
    outputs = finite(model.in_full_precision()(model.transform.to_normalized(batch)), model, "probe images")
    values = outputs.answer.double()
    clean, with_null, with_random = values.chunk(3)
    null_mse, random_mse = (float((other - clean).square().sum(1).mean()) for other in (with_null, with_random))
    informative = random_mse > 1e-9 * float(clean.square().sum(1).mean()) and random_mse > 1e-30
    A = basis.patch_map.matrix(basis.nullspace.space)
    residual = (basis.nullspace.basis.flatten(1) @ A.mT).norm(dim=1).max() / basis.nullspace.singular_values.max()
    return Check(
        passed=null_mse <= 1e-6 * random_mse if informative else None,
        null_logit_mse=null_mse,
        random_logit_mse=random_mse,
        residual=float(residual),
        outputs="features" if outputs.logits is None else "logits",
    )


def save_basis(
    path: Path,
    model: LoadedModel,
    basis: PatchBasis,
    *,
    per_channel: bool = False,
    compact: bool = False,
    force: bool = False,
) -> Path:
    """Write `row_space`, `singular_values` and, unless `compact`, `basis`, in float64, with their provenance."""
    patch_map, nullspace = basis
    tensors = {"row_space": nullspace.row_space, "singular_values": nullspace.singular_values}
    if not compact:
        tensors["basis"] = nullspace.basis
    parameters = {"rtol": nullspace.rtol, "per_channel": per_channel, "compact": compact, "std": list(patch_map.std)}
    provenance = Provenance(BASIS, nullspace.space, model.name, model.weights_sha256, model.seed, parameters)
    return write_tensors(path, tensors, provenance, force=force)


def read_basis(path: Path, model: LoadedModel | None = None) -> tuple[Float[Tensor, "nullity c rh rw"], Provenance]:
    """The null vectors that `save_basis` wrote, in pixel space, and where they come from.

    Args:
        model: who will be shown noise of them. If the file says that it was made from this model's weights, that has to
            be true.

    Raises:
        ArtifactError: the file is not a basis, is damaged, or is not what it says it is.
    """
    tensors, provenance = _read(path, ("row_space", "basis"))
    rows, basis = tensors["row_space"], tensors.get("basis")
    if basis is None:  # it was written compact
        basis = split_space(rows.flatten(1), 1e-6)[1].unflatten(1, rows.shape[1:])
    if model is not None and provenance.weights_sha256 == model.weights_sha256:
        _require_row_space(path, patch_map_of(model), rows, provenance)
    return _scaled(basis, provenance.space, tuple(provenance.parameters["std"])), provenance


def load_row_space(path: Path, model: LoadedModel, patch_map: PatchMap | None = None) -> Float[Tensor, "rank n"]:
    """The row space that `save_basis` wrote for this very model, in pixel space, flattened to orthonormal rows.

    Args:
        patch_map: the model's patch embedding, if it is at hand.

    Raises:
        ArtifactError: the file is not a basis, was made from other weights, is damaged, or is not what it says it is.
    """
    tensors, provenance = _read(path, ("row_space",))
    require_weights(path, provenance, model.name, model.weights_sha256)
    rows = tensors["row_space"]
    _require_row_space(path, patch_map or patch_map_of(model), rows, provenance)
    if provenance.space == "pixel":
        return rows.flatten(1)
    # A = W diag(1/std): its rows are those of W, divided.
    std = torch.tensor(provenance.parameters["std"], dtype=rows.dtype)[:, None, None]
    return torch.linalg.qr((rows / std).flatten(1).mT).Q.mT.contiguous()


def _read(path: Path, names: tuple[str, ...]) -> tuple[dict[str, Tensor], Provenance]:
    """The named tensors of a basis, which are what the file says of them: a whole space, in orthonormal rows."""
    tensors, provenance = read_tensors(path, BASIS, (*names, "singular_values"))
    rows, sigma, rtol = tensors["row_space"].flatten(1), tensors["singular_values"], provenance.parameters["rtol"]
    rank, n = rows.shape
    if rank >= n:
        raise ArtifactError(f"{path} has {rank} rows of {n} numbers, which leave no nullspace. Make it again.")
    counted = [count_rank(part, rtol) for part in sigma.reshape(-1, sigma.shape[-1])] if sigma.numel() else []
    if sum(counted) != rank:
        raise ArtifactError(
            f"{path} has {rank} rows and {sum(counted)} singular values above its rtol {rtol:.3g}. Make it again."
        )
    basis = tensors.get("basis")
    if basis is not None and rank + len(basis) != n:
        raise ArtifactError(
            f"{path} has {rank} rows and {len(basis)} null vectors; expected {n} together. Make it again."
        )
    off = _off_orthonormal([rows] if basis is None else [rows, basis.flatten(1)])
    if off > ORTHONORMAL:
        raise ArtifactError(f"{path} is damaged: its rows are not orthonormal (off by {off:.2g}). Make it again.")
    return tensors, provenance


def _off_orthonormal(parts: Sequence[Float[Tensor, "k n"]]) -> float:
    """How far R R^T is from the identity, R the rows of all parts: its effect on random vectors, relative to them.

    k rows take k n operations, not the k^2 n of the whole product: with 3072 rows the difference is a second. What
    chance overlooks is far below what the rows are used for.
    """
    generator = torch.Generator().manual_seed(0)
    probes = [torch.randn(len(part), PROBES, generator=generator, dtype=part.dtype) for part in parts]
    image = torch.stack([part.mT @ probe for part, probe in zip(parts, probes, strict=True)]).sum(0)
    back = torch.cat([part @ image for part in parts])
    probe = torch.cat(probes)
    return float((back - probe).norm() / probe.norm())


def _require_row_space(
    path: Path, patch_map: PatchMap | None, rows: Float[Tensor, "rank c rh rw"], provenance: Provenance
) -> None:
    """See that a network reads nothing beside these rows, up to the tolerance that they were found with.

    Raises:
        ArtifactError: it reads more, or other patches.
    """
    if patch_map is None or rows.shape[1:] != patch_map.weight.shape[1:]:
        read = "no patches" if patch_map is None else f"patches of {list(patch_map.weight.shape[1:])}"
        raise ArtifactError(
            f"{path} is a basis of patches of {list(rows.shape[1:])}; {provenance.model} reads {read}. Make it again."
        )
    A, R = patch_map.matrix(cast(Space, provenance.space)), rows.flatten(1)
    probe = torch.randn(A.shape[1], PROBES, generator=torch.Generator().manual_seed(0), dtype=A.dtype)
    beside = probe - R.mT @ (R @ probe)
    largest = torch.linalg.eigvalsh(A @ A.mT if len(A) <= A.shape[1] else A.mT @ A)[-1].clamp_min(0).sqrt()
    seen = float((A @ beside).norm() / (largest * beside.norm()))
    if not seen <= provenance.parameters["rtol"] + ORTHONORMAL:
        raise ArtifactError(
            f"{path} is not the whole row space of {provenance.model}: of what lies beside it, the model reads "
            f"{seen:.2g}, more than its rtol {provenance.parameters['rtol']:.2g}. Make it again."
        )


def _scaled(
    basis: Float[Tensor, "nullity c rh rw"], space: str, std: tuple[float, ...]
) -> Float[Tensor, "nullity c rh rw"]:
    """Null vectors in pixel space: a difference of normalised pixels becomes one of pixels by std alone."""
    return basis if space == "pixel" else basis * torch.tensor(std, dtype=basis.dtype)[:, None, None]
