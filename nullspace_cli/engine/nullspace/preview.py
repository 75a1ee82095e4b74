"""What can be looked at of a nullspace: an image with noise from it, and vectors of it that are smooth."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dct
from torch import Tensor

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine import metrics
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import PatchBasis
from nullspace_cli.engine.nullspace.image_noise import ImageNoise
from nullspace_cli.engine.nullspace.patch_embedding import Nullspace
from nullspace_cli.engine.nullspace.sampling import equal_norm_noise
from nullspace_cli.engine.transforms.eval_transform import from_8_bits

FILTERS = 12
"""Patches that are shown of either space."""


class Preview(NamedTuple):
    """What a picture of a nullspace shows.

    Attributes:
        pictures: an image, the same with null noise, and with random noise of equal norm; in pixel space, where noise
            may leave [0, 1].
        changes: of what the network says of each: root mean square relative to what it says of the image; None where
            that is zero.
        outputs: what that is.
        null_vectors: as of `smoothest_null_vectors`; of a nullspace of whole images there are none.
        null_power: how strong the null noise is at each frequency, 0 in the middle; mean over the channels.
    """

    pictures: Float[Tensor, "3 c h w"]
    changes: tuple[float | None, ...]
    outputs: Literal["logits", "features"]
    null_vectors: Float[Tensor, "count c rh rw"]
    null_power: Float[Tensor, "h w"]


def preview_of(model: Model, basis: PatchBasis | ImageNoise, *, seed: int = 0, std: float = 0.1) -> Preview:
    """Show the network a drawing of the demo's with noise of root mean square `std`, in [0, 1] pixel units."""
    c, h, w = model.transform.input_size
    pixels, _ = draw("val", 4 + 10 * seed, size=max(h, w))
    image = from_8_bits(pixels)[:, :h, :w]
    image = image if c == 3 else image.mean(0, keepdim=True).expand(c, h, w)
    null = basis.pixel_noise((h, w), std, seed)
    random = equal_norm_noise(null, torch.Generator().manual_seed(seed + 1))
    pictures = torch.stack([image, image + null, image + random])
    found = model.in_full_precision()(model.transform.to_normalized(pictures.float()))
    changes = tuple(metrics.relative_change(found.answer[0], answer) for answer in found.answer)
    outputs: Literal["logits", "features"] = "features" if found.logits is None else "logits"
    power = torch.fft.fftshift(torch.fft.fft2(null).abs().square().mean(0))
    if isinstance(basis, PatchBasis):
        return Preview(pictures, changes, outputs, smoothest_null_vectors(basis.nullspace, FILTERS), power)
    return Preview(pictures, changes, outputs, null.new_zeros(0, c, 1, 1), power)


def smoothest_null_vectors(nullspace: Nullspace, count: int) -> Float[Tensor, "count c rh rw"]:
    """Null vectors made of low spatial frequencies only, as few of them as leave `count` such vectors.

    A basis of the nullspace is arbitrary up to rotation; these vectors are a choice that can be looked at. The lowest
    rank + count frequencies (DCT) and the nullspace, of dimension n - rank, meet in at least `count` dimensions.
    """
    _, c, rh, rw = nullspace.row_space.shape
    n = c * rh * rw
    count = min(count, nullspace.nullity)
    vertical, horizontal = (dct(np.eye(size), norm="ortho", axis=0) for size in (rh, rw))
    frequency = (np.arange(rh)[:, None] / rh) ** 2 + (np.arange(rw)[None, :] / rw) ** 2
    order = np.argsort(np.broadcast_to(frequency, (c, rh, rw)), axis=None, kind="stable")[: nullspace.rank + count]
    channel, u, v = np.unravel_index(order, (c, rh, rw))
    low = np.zeros((len(order), c, rh, rw))
    low[np.arange(len(order)), channel] = vertical[u][:, :, None] * horizontal[v][:, None, :]
    D = torch.from_numpy(low.reshape(len(order), n))
    seen = nullspace.row_space.flatten(1) @ D.mT
    # Eigenvalues of D R^T R D^T are squared cosines to the row space: the smallest belong to null vectors.
    _, vectors = torch.linalg.eigh(seen.mT @ seen)
    return (vectors[:, :count].mT @ D).unflatten(1, (c, rh, rw))
