"""What becomes of a network in other hands, for ownership.py and ownership_real.py."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from nullspace_cli import Model, wrap
from nullspace_cli.engine.ownership.claim import Claim


def eight_bits(weight: Tensor) -> Tensor:
    step = weight.abs().flatten(1).amax(1).clamp_min(1e-12).view(-1, *(1,) * (weight.ndim - 1)) / 127
    return (weight / step).round() * step


def pruned(weight: Tensor, share: float) -> Tensor:
    return weight * (weight.abs() > weight.abs().flatten().kthvalue(int(share * weight.numel())).values)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "fp16": lambda weight: weight.half().float(),
    "int8": eight_bits,
    "20% pruned": lambda weight: pruned(weight, 0.2),
    "50% pruned": lambda weight: pruned(weight, 0.5),
    "80% pruned": lambda weight: pruned(weight, 0.8),
}
"""Of the weight of a linear map."""


def weights_changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """The weights of all linear maps changed, each by itself."""
    changed = copy.deepcopy(module)
    with torch.no_grad():
        for layer in changed.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.copy_(change(layer.weight))
    return changed


def mixtures(width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    M = torch.randn(width, width, generator=generator, dtype=torch.float64)
    permuted = torch.eye(width, dtype=torch.float64)[torch.randperm(width, generator=generator)]
    return {"rotated": torch.linalg.qr(M).Q, "permuted": permuted, "mixed": M}


def mixed(module: nn.Module, M: Tensor) -> nn.Module:
    """M W as the first layer, undone right behind it: the same answers."""
    changed: Any = copy.deepcopy(module)
    layer, undo = changed.patch_embed.proj, nn.Linear(len(M), len(M), bias=False)
    with torch.no_grad():
        layer.weight.copy_((M @ layer.weight.double().flatten(1)).view_as(layer.weight))
        layer.bias.copy_(M @ layer.bias.double())
        undo.weight.copy_(torch.linalg.inv(M))
    changed.patch_embed.norm = undo
    return changed


def normalised_otherwise(model: Model) -> Model:
    """Another mean and std, which weights and bias make up for: the same answers."""
    means, stds = (torch.tensor(value) for value in (model.transform.mean, model.transform.std))
    other_means, other_stds = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.23, 0.3, 0.45])
    changed: Any = copy.deepcopy(model.module)
    layer = changed.patch_embed.proj
    with torch.no_grad():
        layer.bias.add_(torch.einsum("dchw,c->d", layer.weight, (other_means - means) / stds))
        layer.weight.mul_((other_stds / stds)[:, None, None])
    size = model.transform.input_size
    return wrap(changed, mean=other_means.tolist(), std=other_stds.tolist(), input_size=size, batch_size=256)


def resampled(module: nn.Module, size: int) -> nn.Module:
    """As many patches of another size, as timm makes them."""
    changed: Any = copy.deepcopy(module)
    embed = changed.patch_embed
    other: Any = nn.Conv2d(embed.proj.in_channels, embed.proj.out_channels, size, size)
    with torch.no_grad():
        other.weight.copy_(resample_patch_embed(embed.proj.weight, [size, size]))
        other.bias.copy_(embed.proj.bias)
    embed.img_size = tuple(size * side for side in embed.grid_size)
    embed.proj, embed.patch_size = other, (size, size)
    return changed


def noises(kernel: Tensor, claim: Claim) -> dict[str, Tensor]:
    """Noise on a first layer, of the rms of its weights: in the claim's nullspace, and white."""
    white = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = claim.row_space.flatten(1)
    null = white - ((white.flatten(1) @ rows.mT) @ rows).view_as(white)
    null = null * torch.tensor(claim.patch_map.std)[:, None, None]  # weights act on normalised pixels
    unit = kernel.double().square().mean().sqrt()
    return {
        f"{name} noise": (noise * unit / noise.square().mean().sqrt()).float()
        for name, noise in (("null", null), ("white", white))
    }


def with_kernel(module: nn.Module, kernel: Tensor) -> nn.Module:
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.get_parameter("patch_embed.proj.weight").copy_(kernel)
    return changed


def first_layer(model: Model, kernel: Tensor) -> Model:
    """A network of no more than a first layer, for whoever compares no more."""
    width, channels, size, _ = kernel.shape
    layer = nn.Conv2d(channels, width, size, size)
    with torch.no_grad():
        layer.weight.copy_(kernel)
    module = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return wrap(module, mean=model.transform.mean, std=model.transform.std, input_size=(3, 4 * size, 4 * size))
