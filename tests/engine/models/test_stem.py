"""How a network first reads the image: toy modules for the mechanism, timm's models for the variety."""

import copy
from collections.abc import Callable

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


class Rescaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / 4, self.bias, self.stride)


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


class Twice(nn.Module):
    """Takes the image once more, beside what was read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.proj(x).relu()).mean((2, 3))


class Before(nn.Module):
    """Does something to the image before its layer reads it."""

    def __init__(self, before: Callable[[Tensor], Tensor], layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer = before, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.before(x)).relu()


def unfolded(x: Tensor) -> Tensor:
    """Patches of 8 x 8 as a batch."""
    return F.unfold(x, 8, stride=8).mT.reshape(-1, 3, 8, 8)


def windows_of_windows(x: Tensor) -> Tensor:
    """Two windows of 8 rows, each of tokens of 4 x 4 pixels."""
    return x.reshape(1, 3, 2, 2, 4, 6, 4).permute(0, 2, 3, 5, 1, 4, 6).reshape(2, 12, 48)


def cosines(x: Tensor) -> Tensor:
    """A discrete cosine transform of 4 x 4 blocks of one mixture of the colours; its frequencies as channels."""
    k = torch.arange(4)
    matrix = torch.cos(torch.pi / 4 * (k + 0.5) * k[:, None]).to(x)
    grey = (x * torch.tensor([0.25, 0.5, 0.125], dtype=x.dtype)[:, None, None]).sum(1) * 255 + 128
    blocks = grey.unflatten(2, (6, 4)).unflatten(1, (4, 4)).permute(0, 1, 3, 2, 4)
    return (matrix @ blocks @ matrix.mT).flatten(3).permute(0, 3, 1, 2)


def in_place(x: Tensor) -> Tensor:
    padded = x.new_zeros(1, 3, 20, 24)
    padded[:, :, 2:18] = x.flip(1)
    return padded.mul_(2).sub_(1)


def test_convolution_over_patches() -> None:
    module = nn.Sequential(nn.Conv2d(3, 7, (4, 3), (4, 3)), nn.GELU(), nn.Conv2d(7, 2, 1))
    stem = find_stem(module, SIZE)
    assert stem.kind == "patch"
    assert stem.weight is not None
    assert stem.stored_eps == torch.finfo(torch.float32).eps
    assert torch.equal(stem.weight, module.get_parameter("0.weight").double())
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
    expected = F.conv2d(x, stem.weight.float(), module.proj.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Conv2d(3, 4, 7, 2, 3), "affine"),
        (nn.Conv2d(3, 4, (3, 5), (2, 1), (1, 2), dilation=(1, 2)), "affine"),
        (nn.Conv2d(3, 6, (3, 5), 1, "same", dilation=(3, 1), groups=3), "affine"),
        (nn.Conv2d(3, 4, 4, 4, 2), "affine"),
        (nn.Conv2d(3, 4, 3, 2, 1, padding_mode="reflect"), "affine"),
        (nn.Conv2d(3, 4, 2, 4), "patch"),
        (nn.Conv2d(3, 6, 4, 4, groups=3), "patch"),
        (nn.Conv2d(3, 4, 4, 4, dilation=2), "affine"),
        (Rescaled(3, 4, 4, 4), "patch"),
        (TwoReaders(), "affine"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 4, 4)), "patch"),
        (
            Before(lambda x: F.interpolate(x, size=(12, 18), mode="bicubic", antialias=True), nn.Conv2d(3, 4, 3)),
            "affine",
        ),
        (Before(lambda x: F.pad(x, (1, 2, 0, 3)), nn.Conv2d(3, 4, 5, 2)), "affine"),
        (Before(lambda x: x[:, :, 3:, 2:-1], nn.Conv2d(3, 4, 5, 2, 1)), "affine"),
        (Before(lambda x: F.pixel_unshuffle(x, 2), nn.Conv2d(12, 4, 3, padding=1)), "affine"),
        (Before(lambda x: F.pixel_unshuffle(x, 4), nn.Conv2d(48, 4, 1)), "patch"),
        (Before(unfolded, nn.Conv2d(3, 4, 3, 2, 1)), "patch"),
        (Before(windows_of_windows, nn.Linear(48, 5)), "patch"),
        (Before(cosines, nn.Conv2d(16, 5, 1)), "patch"),
        (Before(in_place, nn.Conv2d(3, 4, 4, 2)), "affine"),
    ],
    ids=range(20),
)
def test_affine_first_layers(module: nn.Module, kind: str) -> None:
    """A plain forward pass of the layers is the judge, on images that they were not found by."""
    module = module.eval()
    for buffer in module.buffers():  # a batch norm's
        buffer.add_(1)
    stem = find_stem(module, SIZE)
    assert (stem.kind, stem.reason) == (kind, "")
    assert stem.image_map is not None
    exact, seen = copy.deepcopy(module).double(), list[Tensor]()
    for name in stem.names:
        exact.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2]))
    image, other = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for shown in (image, other):
        exact(shown)
    count = len(stem.names)
    found = stem.image_map.forward(image - other)[0]
    expected = torch.cat([(one - two).flatten() for one, two in zip(seen[:count], seen[count:], strict=True)])
    # Outputs may lie in another order, but each is one of the layer's.
    torch.testing.assert_close(found.sort().values, expected.sort().values, rtol=0, atol=1e-11)
    if stem.weight is not None:
        tokens = F.conv2d(image - other, stem.weight, stride=stem.weight.shape[2:])
        torch.testing.assert_close(tokens.flatten().sort().values, found.sort().values, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Reordered(), "proj reads it by no convolution"),
        (Twice(), "add in the network itself takes it beside"),
        (Before(lambda x: x.clamp(-1, 1), nn.Conv2d(3, 4, 3)), "clamp in the network itself is not an affine function"),
        (Before(nn.InstanceNorm2d(3, affine=True), nn.Conv2d(3, 4, 3)), "instance_norm in before is not an affine"),
        (Before(lambda x: x if x.sum() > 0 else x.flip(1), nn.Conv2d(3, 4, 3)), "bool in the network itself takes it"),
        (Before(lambda x: x.mean((2, 3)), nn.BatchNorm1d(3)), "no convolution and no linear layer reads it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_affine_first_layer(module: nn.Module, words: str) -> None:
    stem = find_stem(module.eval(), SIZE)
    assert (stem.kind, stem.image_map, stem.weight) == ("not_affine", None, None)
    assert stem.reason.startswith(words)


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
        ("tnt_s_patch16_224", {"depth": 1}, "patch"),
        ("crossvit_tiny_240", {}, "affine"),
        ("resnet10t", {}, "affine"),
        ("tresnet_m", {}, "affine"),
        ("vit_tiny_r_s16_p8_224", {"depth": 1}, "affine"),
        ("tf_efficientnet_lite0", {}, "affine"),
    ],
)
def test_timm_models(name: str, kwargs: dict[str, int], kind: str) -> None:
    module = timm.create_model(name, **kwargs).eval()
    size = 240 if "crossvit" in name else 256 if "swinv2" in name else 224
    assert find_stem(module, (3, size, size)).kind == kind
