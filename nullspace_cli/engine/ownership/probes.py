"""Probes for a suspect that can only be asked: images with null noise, with surrogates, and with none.

Of each image there are 2 `pairs` noises. The first pair is null noise of the claim's first layer, patch by patch, and
its mirror image, each patch mirrored in place. The others are the same two with random signs in place of the claim's,
shared by all patches and images: other draws of a claim that would look as natural. So, for networks that have nothing
of the claim's, it cannot be told which pair is the claim's.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.ownership.claim import Claim
from nullspace_cli.engine.ownership.frequencies import draw_signs, mirror, with_signs
from nullspace_cli.engine.ownership.randomisation import generator_of

MARGIN = 0.25
"""Images keep so far from black and white, and noise stays within it, so that nothing is clipped."""


@dataclass(frozen=True)
class Probe:
    """What one probe shows.

    Attributes:
        name: of its file, without ending; nobody can tell from it which noise it has.
        pair: 0 for the claim's own noise, above for surrogates; None for no noise.
        mirrored: whether it has the pair's second noise.
    """

    name: str
    pair: int | None
    mirrored: bool = False


def probes_of(claim: Claim, image: int) -> list[Probe]:
    """The probes of the image of that number."""

    def named(pair: int | None, mirrored: bool = False) -> Probe:
        text = f"{claim.digest} probe {image} {pair} {mirrored}"
        return Probe(hashlib.sha256(text.encode()).hexdigest()[:16], pair, mirrored)

    pairs = range(claim.recipe.pairs)
    return [named(None), *(named(pair, side) for pair in pairs for side in (False, True))]


def probe_images(
    claim: Claim, image: int, pixels: Float[Tensor, "c h w"]
) -> Iterator[tuple[Probe, Float[Tensor, "c h w"]]]:
    """An image in [0, 1] as each of its probes, before rounding; all noises of an image have one norm.

    What whole patches leave over at the right and at the bottom has no noise.
    """
    base = 0.5 + (1 - 2 * MARGIN) * (pixels.double() - 0.5)
    none, *noisy = probes_of(claim, image)
    yield none, base
    noises = _noises(claim, image, base)
    largest = max(float(noise.abs().max()) for noise in noises)
    for probe, noise in zip(noisy, noises, strict=True):
        yield probe, noise.mul_((MARGIN - 0.5 / 255) / largest).add_(base)  # in place: of 518 pixels they are 0.6 GB


def _noises(claim: Claim, image: int, onto: Float[Tensor, "c h w"]) -> list[Float[Tensor, "c h w"]]:
    """The noises of an image, pair by pair, in units of their own."""
    patch_map = claim.patch_map
    size = patch_map.patch_size
    rows = claim.row_space.flatten(1)
    count = (onto.shape[1] // size[0]) * (onto.shape[2] // size[1])
    white = torch.randn(count, rows.shape[1], generator=generator_of(claim.digest, "noise", image), dtype=rows.dtype)
    null = (white - (white @ rows.mT) @ rows).unflatten(1, (patch_map.in_chans, *size))
    signs = draw_signs(claim.recipe.pairs, size, generator_of(claim.digest, "pairs"))
    signs[0] = 1.0
    return [
        patch_map.unpatchify(with_signs(null, own).flatten(1), torch.zeros_like(onto))
        for row in signs
        for own in (row, row * mirror(size))
    ]
