"""Images cut into patches, and put together again."""

from jaxtyping import Float, Shaped
from torch import Tensor


def left_over(size: tuple[int, int], patch_size: tuple[int, int]) -> int:
    """Pixels of an image that lie in no patch: at the right and at the bottom, where its size is no multiple."""
    (h, w), (rh, rw) = size, patch_size
    return h * w - (h // rh * rh) * (w // rw * rw)


def patchify(image: Shaped[Tensor, "*batch c h w"], patch_size: tuple[int, int]) -> Shaped[Tensor, "*batch m n"]:
    """Cut an image into m = (h // r_h) (w // r_w) patches, row by row; a remainder is left out, as in timm."""
    rh, rw = patch_size
    *batch, c, h, w = image.shape
    gh, gw = h // rh, w // rw
    blocks = image[..., : gh * rh, : gw * rw].reshape(*batch, c, gh, rh, gw, rw)
    k = len(batch)
    order = (*range(k), k + 1, k + 3, k, k + 2, k + 4)
    return blocks.permute(order).reshape(*batch, gh * gw, c * rh * rw)


def unpatchify(
    patches: Float[Tensor, "*batch m n"], onto: Float[Tensor, "*batch c h w"], patch_size: tuple[int, int]
) -> Float[Tensor, "*batch c h w"]:
    """The inverse of `patchify`: a copy of `onto` whose whole patches are replaced."""
    rh, rw = patch_size
    *batch, c, h, w = onto.shape
    gh, gw = h // rh, w // rw
    k = len(batch)
    blocks = patches.reshape(*batch, gh, gw, c, rh, rw).permute(*range(k), k + 2, k, k + 3, k + 1, k + 4)
    image = onto.clone()
    image[..., : gh * rh, : gw * rw] = blocks.reshape(*batch, c, gh * rh, gw * rw)
    return image
