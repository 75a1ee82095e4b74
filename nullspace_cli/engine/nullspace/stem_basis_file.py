"""The file of a nullspace of whole images, exact or near: all that takes the place of the model."""

from pathlib import Path
from typing import Any, cast

import torch

from nullspace_cli.engine.documents.artefacts import Provenance, read_tensors, write_tensors
from nullspace_cli.engine.documents.kinds import NEAR_BASIS, STEM_BASIS
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.near_basis import NearBasis
from nullspace_cli.engine.nullspace.nullity import Nullity
from nullspace_cli.engine.nullspace.patch_embedding import Space
from nullspace_cli.engine.nullspace.stem_basis import StemBasis, in_space
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap, Resize
from nullspace_cli.engine.solvers.polyphase import norm_bound

SEEN = 1e-6
"""Share of noise that a model may read beside the rtol of its file: of exact noise, far less is left."""


def save_stem_basis(path: Path, model: Model, basis: StemBasis | NearBasis, *, force: bool = False) -> Path:
    """Write the branches' kernels and resizes, in float64, with how they lie on the image and where they come from."""
    tensors: dict[str, torch.Tensor] = {}
    branches: list[dict[str, Any]] = []
    for k, branch in enumerate(basis.image_map.branches):
        tensors[f"{k}.kernel"] = branch.kernel
        if branch.resize:
            tensors |= {f"{k}.rows": branch.resize.rows, f"{k}.cols": branch.resize.cols}
        branches.append(
            {
                "stride": list(branch.stride),
                "padding": list(branch.padding),
                "resized": list(branch.read_size(basis.image_map.input_size[1:])) if branch.resize else None,
            }
        )
    parameters = {
        "rtol": basis.rtol,
        "std": list(basis.std),
        "input_size": list(basis.image_map.input_size),
        "branches": branches,
        "layers": list(basis.layers),
        "sigma_max": basis.sigma_max,
    }
    kind = NEAR_BASIS
    if isinstance(basis, StemBasis):
        kind, about = STEM_BASIS, basis.counted.describe()
        parameters |= {name: about[name] for name in ("outputs", "rank", "nullity_proof")}
    provenance = Provenance(kind, basis.space, model.name, model.weights_sha256, model.seed, parameters)
    return write_tensors(path, tensors, provenance, force=force)


def read_stem_basis(path: Path, model: Model | None = None) -> tuple[StemBasis, Provenance]:
    """The nullspace that `save_stem_basis` wrote, and where it comes from.

    Args:
        model: who will be shown noise of it. If the file says that it was made from this model's weights, that has to
            be true.

    Raises:
        ArtifactError: the file is not such a nullspace, is damaged, or is not what it says it is.
    """
    image_map, provenance = _read_image_map(path, STEM_BASIS)
    about = provenance.parameters
    proof = about["nullity_proof"]
    counted = Nullity(image_map.inputs, about["outputs"], about["rank"], proof["method"], proof["threshold"])
    space = cast(Space, provenance.space)
    basis = StemBasis(
        image_map, counted, tuple(about["layers"]), about["rtol"], space, tuple(about["std"]), about["sigma_max"]
    )
    if model is not None and provenance.weights_sha256 == model.weights_sha256:
        _require_unseen(path, model, basis)
    return basis, provenance


def read_near_basis(path: Path, model: Model | None = None) -> tuple[NearBasis, Provenance]:
    """The near nullspace that `save_stem_basis` wrote, and where it comes from; arguments and errors are the same."""
    image_map, provenance = _read_image_map(path, NEAR_BASIS)
    about = provenance.parameters
    basis = NearBasis(
        image_map,
        tuple(about["layers"]),
        about["rtol"],
        cast(Space, provenance.space),
        tuple(about["std"]),
        about["sigma_max"],
    )
    if model is not None and provenance.weights_sha256 == model.weights_sha256:
        _require_unseen(path, model, basis)
    return basis, provenance


def _read_image_map(path: Path, kind: str) -> tuple[ImageMap, Provenance]:
    tensors, provenance = read_tensors(path, kind)
    about = provenance.parameters
    branches = []
    for k, lies in enumerate(about["branches"]):
        resize = Resize(tensors[f"{k}.rows"], tensors[f"{k}.cols"]) if lies["resized"] else None
        branches.append(Branch(tensors[f"{k}.kernel"], tuple(lies["stride"]), tuple(lies["padding"]), resize))
    image_map = ImageMap(tuple(branches), tuple(about["input_size"]))
    if min(map(min, image_map.output_sizes)) < 1:
        raise ArtifactError(f"{path} is damaged: its kernels do not fit into its images. Make it again.")
    return image_map, provenance


def _require_unseen(path: Path, model: Model, basis: StemBasis | NearBasis) -> None:
    """See that a network's first layers do not read what lies in the nullspace.

    Raises:
        ArtifactError: they do, or read other images.
    """
    own = model.stem().image_map
    if own is None or own.input_size != basis.image_map.input_size:
        read = "nothing by convolutions" if own is None else f"images of {list(own.input_size)}"
        raise ArtifactError(
            f"{path} is a nullspace of images of {list(basis.image_map.input_size)}; {model.name} reads {read}. "
            "Make it again."
        )
    noise, own = basis.draw(0)[None], in_space(own, basis.space, model.transform.std)
    seen = float(own.forward(noise).norm() / (norm_bound(own) * noise.norm()))
    if not seen <= basis.rtol + SEEN:
        raise ArtifactError(
            f"{path} is not the nullspace of {model.name}: of noise in it, the model reads {seen:.2g} of the most that "
            f"it reads of any, more than its rtol {basis.rtol:.2g}. Make it again."
        )
