"""How a network first reads the image: toy modules for the mechanism, timm's models for the variety."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nullspace_cli.engine.models.stem import find_stem

SIZE = (3, 16, 24)


class LinearPatches(nn.Module):
    """A linear patch projection with an unusual order of pixels."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order, self.proj, self.head = order, nn.Linear(48, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        blocks = x.reshape(b, c, h // 4, 4, w // 4, 4)
        orders = {
            "pixels first": (0, 2, 4, 3, 5, 1),
            "channels first": (0, 2, 4, 1, 3, 5),
            "columns": (0, 2, 4, 5, 3, 1),
        }
        tokens = blocks.permute(orders[self.order]).reshape(b, -1, 48)
        return self.head(self.proj(tokens)).mean(1)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.std(), self.bias, self.stride)


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(3, 4, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fine(x).mean((2, 3)) + self.coarse(F.interpolate(x, scale_factor=0.5)).mean((2, 3))


class Reordered(nn.Module):
    """Mixes pixels of different patches before its linear layer: no patch map."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.flatten(1).reshape(1, -1, 48)).mean(1)


def test_convolution_over_patches() -> None:
    module = nn.Sequential(nn.Conv2d(3, 7, (4, 3), (4, 3)), nn.GELU(), nn.Conv2d(7, 2, 1))
    stem = find_stem(module, SIZE)
    assert (stem.kind, stem.window, stem.stride) == ("patch", (4, 3), (4, 3))
    assert stem.weight is not None
    assert torch.equal(stem.weight, module.get_parameter("0.weight"))
    assert stem.layers == ("0: convolution 3 -> 7, window 4 x 3, stride 4 x 3",)


@pytest.mark.parametrize("order", ["pixels first", "channels first", "columns"])
def test_linear_projection_in_any_order_is_the_same_as_a_convolution(order: str) -> None:
    module = LinearPatches(order)
    stem = find_stem(module, SIZE)
    assert stem.kind == "patch"
    assert stem.weight is not None
    x = torch.rand(1, *SIZE)
    seen: list[Tensor] = []
    module.proj.register_forward_hook(lambda *call: seen.append(call[2]))
    module(x)
    expected = F.conv2d(x, stem.weight, module.proj.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Conv2d(3, 4, 7, 2, 3), "overlapping"),
        (nn.Conv2d(3, 4, 4, 4, 2), "overlapping"),
        (nn.Conv2d(3, 4, 2, 4), "overlapping"),
        (nn.Conv2d(3, 6, 4, 4, groups=3), "overlapping"),
        (nn.Conv2d(3, 4, 4, 4, dilation=2), "overlapping"),
        (Standardised(3, 4, 4, 4), "overlapping"),
        (TwoReaders(), "branches"),
        (Reordered(), "unknown"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 4, 4)), "unknown"),
    ],
)
def test_what_is_no_patch_embedding(module: nn.Module, kind: str) -> None:
    stem = find_stem(module.eval(), SIZE)
    assert stem.kind == kind
    assert stem.weight is None


def test_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 2, 1)).requires_grad_(False)
    find_stem(module, SIZE)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(layer._forward_pre_hooks for layer in module)


@pytest.mark.parametrize(
    ("name", "kwargs", "kind"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}, "patch"),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}, "patch"),
        ("beit_base_patch16_224", {"depth": 1}, "patch"),
        ("mixer_s32_224", {}, "patch"),
        ("naflexvit_base_patch16_gap", {"depth": 1}, "patch"),
        ("swinv2_tiny_window8_256", {}, "patch"),
        ("convnext_atto", {}, "patch"),
        ("crossvit_tiny_240", {}, "branches"),
        ("resnet10t", {}, "overlapping"),
        ("vit_tiny_r_s16_p8_224", {"depth": 1}, "overlapping"),
        ("tf_efficientnet_lite0", {}, "overlapping"),
    ],
)
def test_timm_models(name: str, kwargs: dict[str, int], kind: str) -> None:
    module = timm.create_model(name, **kwargs).eval()
    size = 240 if "crossvit" in name else 256 if "swinv2" in name else 224
    assert find_stem(module, (3, size, size)).kind == kind
