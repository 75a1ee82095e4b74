"""The exact nullspace of a model's patch embedding."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ModelError, NoNullspaceError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.stem import Stem
from nullspace_cli.engine.nullspace.patch_embedding import Nullspace, PatchMap, Space
from nullspace_cli.engine.runtime.precision import full_precision

EXAMPLES = "vit_small_patch32_224, vit_tiny_patch16_224 or demo"


class PatchBasis(NamedTuple):
    """A patch embedding and its nullspace."""

    patch_map: PatchMap
    nullspace: Nullspace

    @property
    def pixel_basis(self) -> Float[Tensor, "nullity c rh rw"]:
        """Null vectors in pixel space, whichever space the nullspace was computed in; orthonormal if it was that."""
        return in_pixel_space(self.nullspace.basis, self.nullspace.space, self.patch_map.std)

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


@full_precision
def find_basis(
    model: Model, *, space: Space = "pixel", rtol: float | None = None, per_channel: bool = False
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


def patch_map_of(model: Model) -> PatchMap | None:
    """The model's patch embedding; None where it does not start with one linear map of disjoint patches."""
    weight = model.stem().weight
    return None if weight is None else PatchMap.from_weight(weight, model.transform.std)


def _no_patches(model: Model, stem: Stem) -> NoNullspaceError:
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


def _injective(model: Model, basis: PatchBasis, per_channel: bool) -> NoNullspaceError:
    patch_map, nullspace = basis
    sigma = nullspace.singular_values
    near = int((sigma < 0.01 * sigma.max()).sum())
    size = patch_map.patch_dim // (patch_map.in_chans if per_channel else 1)
    hints = []
    joint = patch_map.patch_dim - patch_map.embed_dim
    if per_channel and joint > 0:
        hints.append(f"leave out `per_channel`: the joint nullspace has at least {joint} dimensions")
    if near:
        hints.append(f"{near} singular values lie below 1% of the largest: `rtol=0.01` gives that near nullspace")
    hints.append(f"models with room: {EXAMPLES}")
    return NoNullspaceError(
        f"{model.name} has no exact nullspace{' per channel' if per_channel else ''}: its patch embedding maps {size} "
        f"numbers to {patch_map.embed_dim} with full rank (singular values {float(sigma.max()):.3g} ... "
        f"{float(sigma.min()):.3g}, tolerance {nullspace.rtol:.2g} of the largest).",
        basis.describe(),
        hint="; ".join(hints).capitalize() + ".",
    )


def in_pixel_space(
    basis: Float[Tensor, "nullity c rh rw"], space: str, std: tuple[float, ...]
) -> Float[Tensor, "nullity c rh rw"]:
    """Null vectors in pixel space: a difference of normalised pixels becomes one of pixels by std alone."""
    return basis if space == "pixel" else basis * torch.tensor(std, dtype=basis.dtype)[:, None, None]
