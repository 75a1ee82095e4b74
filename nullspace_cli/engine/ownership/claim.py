"""A claim: a digest that binds a network, the nullspace of its first layer and all that probes are drawn by."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import NoNullspaceError, UsageError
from nullspace_cli.engine.files.hashes import hash_state
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap
from nullspace_cli.engine.ownership.randomisation import smallest_p
from nullspace_cli.engine.ownership.reading import Reading, reading_of
from nullspace_cli.engine.runtime.precision import full_precision

VISIBLE = 1e-3
"""Least power that has to be read of null noise and its mirror image, by that of white noise: what weights of 8 bits
read by their rounding alone is a tenth of it."""
DISTINCT = 6.0
"""Least distance, in standard deviations of its surrogates, of a network's own reading from its mirror image's."""
UNREAD = 1e-3
"""Most power that a network may read of its own nullspace, by that of the mirror image. What counts as zero by default
reads a thousandth of this, even of weights in half precision."""
DEFAULT_PAIRS = 50
"""Pairs of noises, the claim's and its surrogates', that a black box is shown of each image."""


@dataclass(frozen=True)
class Recipe:
    """All that the digest binds.

    Attributes:
        model: its name.
        weights_sha256: of all of its weights.
        files_sha256: of the files that they were read from, by name, as far as they were the owner's own.
        embedding_sha256: of its first layer, and of the std of its input.
        transform: its data configuration: how the images of probes are resized and cropped.
        rtol: what counts as zero of the first layer's singular values.
        seed: what probes are drawn by.
        pairs: of noises for each image: the null noise and its surrogates, each with its mirror image.
    """

    model: str
    weights_sha256: str
    files_sha256: Mapping[str, str]
    embedding_sha256: str
    transform: Mapping[str, Any]
    rtol: float
    seed: int
    pairs: int

    def digest(self) -> str:
        """sha256 of the recipe as JSON: keys sorted, no spaces; of files their sha256, whatever they are called."""
        document = {
            "schema": "vitnull/claim/1",
            **vars(self),
            "files_sha256": sorted(set(self.files_sha256.values())),
            "transform": {key: list(v) if isinstance(v, tuple) else v for key, v in self.transform.items()},
        }
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Claim:
    """A claim as its owner has it, or as a judge has it once it is revealed.

    Attributes:
        patch_map: the first layer of the owner's network.
    """

    recipe: Recipe
    patch_map: PatchMap = field(repr=False)

    @cached_property
    def digest(self) -> str:
        return self.recipe.digest()

    @cached_property
    def row_space(self) -> Float[Tensor, "rank c rh rw"]:
        """What the owner's network reads, in pixel space."""
        return self.patch_map.nullspace("pixel", self.recipe.rtol).row_space

    @cached_property
    def own(self) -> Reading:
        """How the owner's network itself reads the mirror image of its nullspace."""
        return reading_of(self.patch_map.kernel("pixel"), self.row_space)

    @property
    def smallest_p(self) -> float:
        """The least p-value that answers to probes can have: each surrogate pair counts both ways round."""
        return smallest_p(2 * self.recipe.pairs - 1)


@full_precision
def make_claim(
    model: Model, *, files_sha256: Mapping[str, str] | None = None, seed: int = 0, pairs: int = DEFAULT_PAIRS
) -> Claim:
    """The claim to a model: the same for the same weights, files, seed and number of pairs.

    Raises:
        NoNullspaceError: its patch embedding has no nullspace, or none that tells it from others.
        UsageError: there is no surrogate.
    """
    if pairs < 2:
        raise UsageError(f"pairs is {pairs}; expected at least 2, the claim's own and one of surrogates.")
    found = find_basis(model)
    patch_map = found.patch_map
    recipe = Recipe(
        model=model.name,
        weights_sha256=model.weights_sha256,
        files_sha256=dict(files_sha256 or {}),
        embedding_sha256=hash_embedding(patch_map),
        transform=model.describe()["data_config"],
        rtol=found.nullspace.rtol,
        seed=seed,
        pairs=pairs,
    )
    claim = Claim(recipe, patch_map)
    require_distinct(claim, found.describe())
    return claim


def require_distinct(claim: Claim, report: dict[str, Any] | None = None) -> None:
    """See that the nullspace tells its owner's network from others.

    Raises:
        NoNullspaceError: even the owner's network does not read the mirror image of it, or hardly tells the two apart;
            or it reads the nullspace itself, which a judge has to see.
    """
    own = claim.own
    if own.visibility >= VISIBLE and own.null > UNREAD * own.mirrored:
        raise NoNullspaceError(
            f"{claim.recipe.model} has no nullspace to claim with: of what is called so (rtol {claim.recipe.rtol:g}) "
            f"it reads {own.null / own.mirrored:.2g} of what it reads of the mirror image.",
            report,
        )
    if own.visibility < VISIBLE:
        raise NoNullspaceError(
            f"{claim.recipe.model} has no nullspace to claim with: of the mirror image of its nullspace it reads "
            f"{2 * own.visibility:.2g} of what it reads of white noise, not even {2 * VISIBLE:g}. Whatever reads "
            "the same frequencies ignores that noise, too.",
            report,
        )
    if not is_distinct(own):
        raise NoNullspaceError(
            f"{claim.recipe.model} has no nullspace to claim with: it tells null noise from its mirror image by "
            f"{-(own.score or 0.0):.1f} standard deviations of surrogates; expected at least {DISTINCT:g}.",
            report,
        )


def is_distinct(own: Reading) -> bool:
    """Whether an owner's own network tells null noise from its mirror image."""
    return own.visibility >= VISIBLE and own.score is not None and own.score <= -DISTINCT


def hash_embedding(patch_map: PatchMap) -> str:
    """sha256 of a first layer: its kernel and the std of its input, in float64."""
    return hash_state({"weight": patch_map.weight.double(), "std": torch.tensor(patch_map.std, dtype=torch.float64)})
