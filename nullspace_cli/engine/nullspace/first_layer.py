"""What of an image a network's first layers read, for all that makes images for it: patch by patch, or as a whole."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.documents.artefacts import require_weights
from nullspace_cli.engine.errors import NoNullspaceError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.stem import Stem
from nullspace_cli.engine.nullspace.basis import find_basis, patch_map_of
from nullspace_cli.engine.nullspace.basis_file import load_row_space
from nullspace_cli.engine.nullspace.independent_kernels import independent_kernels
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, PatchSpace
from nullspace_cli.engine.nullspace.stem_basis import StemBasis, find_stem_basis, in_space
from nullspace_cli.engine.nullspace.stem_basis_file import read_stem_basis
from nullspace_cli.engine.solvers.image_map import ImageMap


@dataclass(frozen=True, eq=False)
class ImageSpace:
    """First layers that read images as a whole, and what of them is null; in pixel space.

    Attributes:
        image_map: A, the layers' own map: its singular values say what each direction costs.
        basis: the nullspace.
    """

    image_map: ImageMap
    basis: StemBasis

    @property
    def in_chans(self) -> int:
        return self.image_map.input_size[0]

    def read_part(self, images: Float[Tensor, "*b c h w"], tolerance: float = 1e-15) -> Float[Tensor, "*b c h w"]:
        """As of `StemBasis`."""
        return self.basis.read_part(images, tolerance)


FirstLayer = PatchSpace | ImageSpace

ReadMap = PatchMap | ImageMap
"""What first layers make of normalised images."""


def find_first_layer(model: Model, basis: Path | None = None) -> FirstLayer:
    """What must stay of a model's input.

    Args:
        basis: a file of `vitnull basis` to take the nullspace from; else it is computed.

    Raises:
        NoNullspaceError: the model has no exact nullspace.
        ModelError: its first layers read nothing.
        ArtifactError: the file is not a basis of this model.
    """
    stem = model.stem()
    return find_patches(model, stem, basis) if stem.weight is not None else _find_whole(model, stem, basis)


def find_patches(model: Model, stem: Stem | None = None, basis: Path | None = None) -> PatchSpace:
    """The same of a model that has to have patches: for native size.

    Raises:
        NoNullspaceError, ModelError, ArtifactError: as `find_first_layer`; or nothing is null patch by patch.
    """
    stem = stem or model.stem()
    if basis and (patch_map := patch_map_of(model)):
        return PatchSpace(patch_map, load_row_space(basis, model, patch_map))
    try:
        found = find_basis(model, stem=stem)
    except NoNullspaceError as error:
        if stem.kind != "affine":
            raise
        hint = 'At `size="model"` the image as a whole may have one.'
        raise NoNullspaceError(str(error), error.report, hint=hint) from error
    return PatchSpace(found.patch_map, found.nullspace.row_space.flatten(1))


def _find_whole(model: Model, stem: Stem, file: Path | None) -> ImageSpace:
    if file:
        basis, provenance = read_stem_basis(file, model)
        require_weights(file, provenance, model.name, model.weights_sha256)
        basis = basis.in_pixels()
    else:
        basis = find_stem_basis(model, stem)
    assert stem.image_map is not None  # there is a nullspace
    return ImageSpace(in_space(stem.image_map, "pixel", model.transform.std), basis)


def reading_of(model: Model) -> ReadMap | None:
    """What the first layers read of normalised images, by whose change a result is judged.

    That is a patch embedding; or whatever reads whole images and leaves room. None of other models.
    """
    stem = model.stem()
    if stem.weight is not None or stem.image_map is None:
        return patch_map_of(model)
    own = stem.image_map
    reads = any(bool(branch.kernel.any()) for branch in own.branches)
    return own if reads and independent_kernels(own, stem.stored_eps).outputs < own.inputs else None
