"""The file of a nullspace: written, and held against what it says of itself when it is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.documents.artefacts import Provenance, read_tensors, require_weights, write_tensors
from nullspace_cli.engine.documents.kinds import BASIS
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import PatchBasis, in_pixel_space, patch_map_of
from nullspace_cli.engine.nullspace.decomposition import count_rank, split_space
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, Space

ORTHONORMAL = 1e-7
"""By which rows of a file may be off: ours are orthonormal to 1e-14."""
PROBES = 16
"""Random vectors by which large matrices are checked."""


def save_basis(
    path: Path,
    model: Model,
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
    parameters = {
        "rtol": nullspace.rtol,
        "near": basis.near,
        "per_channel": per_channel,
        "compact": compact,
        "std": list(patch_map.std),
    }
    provenance = Provenance(BASIS, nullspace.space, model.name, model.weights_sha256, model.seed, parameters)
    return write_tensors(path, tensors, provenance, force=force)


def read_basis(path: Path, model: Model | None = None) -> tuple[Float[Tensor, "nullity c rh rw"], Provenance]:
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
    return in_pixel_space(basis, provenance.space, tuple(provenance.parameters["std"])), provenance


def load_row_space(path: Path, model: Model, patch_map: PatchMap | None = None) -> Float[Tensor, "rank n"]:
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


def _off_orthonormal(parts: Sequence[Float[Tensor, "_ n"]]) -> float:
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
