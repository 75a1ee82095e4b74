"""The exact nullspace of a model's patch embedding."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ModelError, NoNullspaceError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.stem import Stem
from nullspace_cli.engine.nullspace.decomposition import largest_left_out
from nullspace_cli.engine.nullspace.patch_embedding import Nullspace, PatchMap, PatchSpace, Space
from nullspace_cli.engine.nullspace.patches import left_over
from nullspace_cli.engine.nullspace.sampling import null_noise
from nullspace_cli.engine.nullspace.spectrum import Spectrum, spectrum_of_patches
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

    @property
    def output_bound(self) -> float:
        """No more than this is read of any v in the nullspace: ||A v|| / ||v||; but for rounding."""
        return largest_left_out(self.nullspace.singular_values, self.nullspace.rtol)

    @property
    def near(self) -> bool:
        """Whether some of it is not null but by a tolerance of the user's."""
        return self.output_bound > self.patch_map.zero * float(self.nullspace.singular_values.max())

    @property
    def spectrum(self) -> Spectrum:
        return spectrum_of_patches(self.nullspace.singular_values, self.patch_map.patch_dim)

    def pixel_noise(self, size: tuple[int, int], std: float, seed: int) -> Float[Tensor, "c h w"]:
        """`null_noise` of it."""
        return null_noise(self.pixel_basis, size, std, seed)

    def residual(self, noise: Float[Tensor, "c h w"]) -> float:
        """The largest ||A v|| of the basis vectors, whichever of them are in the noise, relative to ||A||."""
        A = self.patch_map.matrix(self.nullspace.space)
        seen = (self.nullspace.basis.flatten(1) @ A.mT).norm(dim=1).max()
        return float(seen / self.nullspace.singular_values.max())

    def read_part(self, images: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """The part of differences of images, in the nullspace's space, that lies in the row space."""
        return PatchSpace(self.patch_map, self.nullspace.row_space.flatten(1)).read_part(images)

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
            "inputs": patch_map.patch_dim,
            "outputs": patch_map.embed_dim,
            "rank": nullspace.rank,
            "nullity": nullspace.nullity,
            "nullity_share": nullspace.nullity / patch_map.patch_dim,
            "nullity_proof": {"method": "svd", "threshold": nullspace.rtol},
            "rtol": nullspace.rtol,
            "sigma_max": float(sigma.max()),
            "sigma_min": float(sigma.min()),
            "output_bound": self.output_bound,
            "spectrum": [self.spectrum.describe()],
            "nullity_per_channel": patch_map.nullity_per_channel(nullspace.rtol),
            "space": nullspace.space,
        }


@full_precision
def find_basis(
    model: Model,
    *,
    space: Space = "pixel",
    rtol: float | None = None,
    per_channel: bool = False,
    stem: Stem | None = None,
) -> PatchBasis:
    """The nullspace of the model's patch embedding.

    Args:
        stem: the model's, if it is at hand.

    Raises:
        NoNullspaceError: the model does not start with one linear map of disjoint patches, or that map is injective.
        ModelError: that map is zero.
    """
    stem = stem or model.stem()
    patch_map = _patch_map(stem, model)
    if patch_map is None:
        raise _no_patches(model, stem)
    if not bool(patch_map.weight.any()):
        raise ModelError(
            f"{model.name} reads nothing: the weights of its patch embedding are all 0. Check these: {model.weights}."
        )
    basis = PatchBasis(patch_map, patch_map.nullspace(space, rtol, per_channel=per_channel))
    if basis.nullspace.nullity == 0:
        raise _injective(model, basis, per_channel, unread(model, stem))
    return basis


def unread(model: Model, stem: Stem) -> int:
    """How many numbers of the model's image lie in no patch: the network reads none of them."""
    if stem.weight is None:
        return 0
    c, rh, rw = stem.weight.shape[1:]
    return c * left_over(model.transform.input_size[1:], (rh, rw))


def patch_map_of(model: Model) -> PatchMap | None:
    """The model's patch embedding; None where it does not start with one linear map of disjoint patches."""
    return _patch_map(model.stem(), model)


def _patch_map(stem: Stem, model: Model) -> PatchMap | None:
    return None if stem.weight is None else PatchMap(stem.weight, model.transform.std, stem.stored_eps)


def _no_patches(model: Model, stem: Stem) -> NoNullspaceError:
    if stem.kind == "not_affine":
        return not_affine(model, stem)
    return NoNullspaceError(
        f"{model.name} has no exact patch nullspace: it reads the image through overlapping windows, or by several "
        f"layers whose patches differ, so that no patch has a nullspace of its own ({'; '.join(stem.layers)}). "
        f"Use a ViT whose patches hold more numbers than its embedding, such as {EXAMPLES}.",
        _unknown(model, stem),
    )


def not_affine(model: Model, stem: Stem) -> NoNullspaceError:
    """Of a model that does something else to the image before its first layers have read it."""
    layers = "; ".join(stem.layers) or "none"
    return NoNullspaceError(
        f"{model.name} has no exact nullspace that could be had from its first layers: {stem.reason} "
        f"(layers that read the image: {layers}).",
        _unknown(model, stem),
    )


def _unknown(model: Model, stem: Stem) -> dict[str, Any]:
    """What the JSON document says of layers whose nullspace was not looked for."""
    return {
        "kind": stem.kind,
        "layers": list(stem.layers),
        "in_chans": model.transform.input_size[0],
        "rank": None,
        "nullity": None,
    }


def _injective(model: Model, basis: PatchBasis, per_channel: bool, unread: int) -> NoNullspaceError:
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
    edges = f"; {unread} numbers of an image lie in no patch, and are free" if unread else ""
    return NoNullspaceError(
        f"{model.name} has no exact nullspace{' per channel' if per_channel else ''}: its patch embedding maps {size} "
        f"numbers to {patch_map.embed_dim} with full rank (singular values {float(sigma.max()):.3g} ... "
        f"{float(sigma.min()):.3g}, tolerance {nullspace.rtol:.2g} of the largest){edges}.",
        basis.describe(),
        hint="; ".join(hints).capitalize() + ".",
    )


def in_pixel_space(
    basis: Float[Tensor, "nullity c rh rw"], space: str, std: tuple[float, ...]
) -> Float[Tensor, "nullity c rh rw"]:
    """Null vectors in pixel space: a difference of normalised pixels becomes one of pixels by std alone."""
    return basis if space == "pixel" else basis * torch.tensor(std, dtype=basis.dtype)[:, None, None]
