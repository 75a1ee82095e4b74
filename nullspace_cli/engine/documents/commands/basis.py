"""The document of `vitnull basis`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Count, Document, Natural, NonNegative, Share, may_lack
from nullspace_cli.engine.documents.commands.run import Pair, Run
from nullspace_cli.engine.documents.shared import NullityProof, Pixels


class Check(Document):
    """What the network itself says of null noise, beside random noise of equal norm."""

    passed: bool | None
    null_logit_mse: NonNegative
    random_logit_mse: NonNegative
    null_change: NonNegative = Field(
        description="norm of the change of the outputs for each unit of the noise's norm, in [0, 1] pixels"
    )
    random_change: NonNegative
    residual: NonNegative
    outputs: Literal["logits", "features"]


class LayerSpectrum(Document):
    """The singular values of a patch's matrix, or of one layer that reads whole images, its edges closed to a torus."""

    sigma_max: NonNegative
    sigma_min: NonNegative
    share_below: dict[str, Share] = Field(
        description="of all singular values, by the share of the largest that they are at most; of numbers that the "
        "outputs lack they are 0"
    )


class Patches(Document):
    """A patch embedding and its nullspace."""

    kind: Literal["patch"]
    in_chans: Natural
    patch_size: Pair
    patch_dim: Natural
    embed_dim: Natural
    inputs: Natural
    outputs: Natural
    rank: Count
    nullity: Count
    nullity_share: Share
    nullity_proof: NullityProof
    rtol: Share
    sigma_max: NonNegative
    sigma_min: NonNegative
    output_bound: NonNegative
    spectrum: list[LayerSpectrum]
    nullity_per_channel: list[Count]
    space: Pixels


class NullityEstimate(Document):
    """Hutchinson's estimate of a nullity, by projections of random signs: beside the proof, and independent of it."""

    nullity: NonNegative
    standard_error: NonNegative


class Basis(Run):
    """`vitnull basis`. Of a model without an exact nullspace there are fewer keys."""

    schema_: Literal["vitnull/basis/1"] = Field(alias="schema")
    kind: Literal["patch", "affine", "not_affine"]
    layers: list[str] = may_lack("who reads the image, where it is not one map of patches")
    in_chans: Natural
    image_size: Pair = may_lack("height and width of the images of an affine map")
    patch_size: Pair | None = may_lack("where the model has patches, null for other affine maps")
    patch_dim: Natural = may_lack("where the model has patches")
    embed_dim: Natural = may_lack("where the model has patches")
    inputs: Natural = may_lack("numbers that a patch has, or an image; of an affine map")
    outputs: Natural = may_lack("numbers that are read of a patch, or of an image; of an affine map")
    rank: Count | None
    nullity: Count | None
    nullity_share: Share = may_lack("of a patch, or of an image; where there is a nullspace")
    nullity_proof: NullityProof = may_lack("where there is a nullspace")
    nullity_estimate: NullityEstimate = may_lack("of an image with an exact nullspace, where it was checked")
    unread: Count = may_lack("numbers of the image that lie in no patch, and are free; where the model has patches")
    rtol: Share = may_lack("where the singular values were looked at")
    sigma_max: NonNegative = may_lack("as rtol")
    sigma_min: NonNegative | None = may_lack("as rtol; null where only the largest is known")
    output_bound: NonNegative = may_lack("of patches, and of a near nullspace of images")
    nullity_per_channel: list[Count] = may_lack("where the model has patches")
    spectrum: list[LayerSpectrum] = may_lack("of a patch, or of an affine map layer by layer")
    space: Pixels = may_lack("where the model has patches")
    check: Check | None
    basis: str | None
    preview: str | None
