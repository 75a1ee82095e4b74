"""The file of a claim: a digest to publish, and only where it is revealed what a judge needs."""

from pathlib import Path
from typing import Any

import torch

from nullspace_cli.engine.documents.artefacts import Provenance, read_tensors, write_tensors
from nullspace_cli.engine.documents.kinds import CLAIM
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap
from nullspace_cli.engine.ownership.claim import Claim, Recipe, hash_embedding, require_distinct


def save_claim(path: Path, claim: Claim, *, reveal: bool = False, force: bool = False) -> Path:
    """Write a claim; with `reveal` also the `weight` of the first layer, [d, c, r_h, r_w]."""
    recipe, patch_map = claim.recipe, claim.patch_map
    parameters: dict[str, Any] = {
        "digest": claim.digest,
        "embedding_sha256": recipe.embedding_sha256,
        "data_config": recipe.transform,
        "rtol": recipe.rtol,
        "pairs": recipe.pairs,
        "revealed": reveal,
    }
    narrow = patch_map.weight.float()
    weight = narrow if torch.equal(narrow.double(), patch_map.weight) else patch_map.weight
    provenance = Provenance(
        CLAIM, "normalized", recipe.model, recipe.weights_sha256, recipe.seed, parameters, recipe.files_sha256
    )
    return write_tensors(path, {"weight": weight} if reveal else {}, provenance, force=force)


def read_claim(path: Path, digest: str | None = None) -> Claim:
    """A claim that was revealed, held against its own digest.

    Args:
        digest: the one that was published; None where nobody says.

    Raises:
        ArtifactError: the file is no claim, is not revealed, or is not what its digest was made of.
        NoNullspaceError: its nullspace tells nothing.
    """
    tensors, provenance = read_tensors(path, CLAIM)
    about = provenance.parameters
    recipe = Recipe(
        model=provenance.model,
        weights_sha256=str(provenance.weights_sha256),
        files_sha256=provenance.parents,
        embedding_sha256=about["embedding_sha256"],
        transform=about["data_config"],
        rtol=about["rtol"],
        seed=int(provenance.seed or 0),
        pairs=about["pairs"],
    )
    if recipe.digest() != about["digest"]:
        raise ArtifactError(
            f"{path} was changed: its digest is {about['digest'][:12]}..., what it says has {recipe.digest()[:12]}... "
            "Ask for the claim as it was made."
        )
    if digest is not None and digest != about["digest"]:
        raise ArtifactError(
            f"{path} is another claim: its digest is {about['digest']}; expected the published {digest}."
        )
    if "weight" not in tensors:
        raise ArtifactError(
            f"{path} holds the digest of a claim alone, and nothing to check a suspect with.",
            hint="Make it again from the same weights with `reveal=True`; its digest stays.",
        )
    patch_map = PatchMap.from_weight(tensors["weight"], tuple(about["data_config"]["std"]))
    if hash_embedding(patch_map) != recipe.embedding_sha256:
        raise ArtifactError(
            f"{path} was changed: its weight is not the one whose sha256 its digest binds. Ask for the claim as it "
            "was made."
        )
    claim = Claim(recipe, patch_map)
    require_distinct(claim)
    return claim
