"""The document of `vitnull basis`."""

from typing import Literal

from pydantic import Field

from nullspace_cli.engine.documents.base import Count, Document, Natural, NonNegative, Share, may_lack
from nullspace_cli.engine.documents.commands.run import Pair, Run
from nullspace_cli.engine.documents.shared import Pixels


class Check(Document):
    """What the network itself says of null noise, beside random noise of equal norm."""

    passed: bool | None
    null_logit_mse: NonNegative
    random_logit_mse: NonNegative
    residual: NonNegative
    outputs: Literal["logits", "features"]


class Patches(Document):
    """A patch embedding and its nullspace."""

    kind: Literal["patch"]
    in_chans: Natural
    patch_size: Pair
    patch_dim: Natural
    embed_dim: Natural
    rank: Count
    nullity: Count
    rtol: Share
    sigma_max: NonNegative
    sigma_min: NonNegative
    nullity_per_channel: list[Count]
    space: Pixels


class Basis(Run):
    """`vitnull basis`. Of a model without an exact nullspace there are fewer keys."""

    schema_: Literal["vitnull/basis/1"] = Field(alias="schema")
    kind: Literal["patch", "overlapping", "branches", "unknown"]
    layers: list[str] = may_lack("who reads the image, where it is not one map of patches")
    stride: Pair | None = may_lack("as layers")
    in_chans: Natural
    patch_size: Pair | None
    patch_dim: Natural = may_lack("where the model has patches")
    embed_dim: Natural = may_lack("where the model has patches")
    rank: Count | None
    nullity: Count | None
    rtol: Share = may_lack("where the model has patches")
    sigma_max: NonNegative = may_lack("where the model has patches")
    sigma_min: NonNegative = may_lack("where the model has patches")
    nullity_per_channel: list[Count] = may_lack("where the model has patches")
    space: Pixels = may_lack("where the model has patches")
    check: Check | None
    basis: str | None
    preview: str | None
