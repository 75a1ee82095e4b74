"""How a network first touches the image: found by watching one forward pass, not by knowing architectures."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nullspace_cli.engine.runtime.autograd import differentiating, ordinary
from nullspace_cli.engine.runtime.module_copies import copied
from nullspace_cli.engine.runtime.precision import full_precision

StemKind = Literal["patch", "overlapping", "branches", "unknown"]


@dataclass(frozen=True)
class Stem:
    """The learned layers that read the image before any other learned layer has.

    Attributes:
        kind: "patch" for one linear map over disjoint patches, "overlapping" for one convolution whose windows overlap
            (or leave gaps, or pad), "branches" for several layers that read the image side by side, "unknown" else.
        names: the layers' names in the module.
        layers: the same with what they are, for messages.
        weight: for "patch", the kernel [d, c, r_h, r_w].
        window, stride: kernel size and stride of the layer that reads the image, where it is a convolution or a patch.
    """

    kind: StemKind
    names: tuple[str, ...]
    layers: tuple[str, ...]
    weight: Float[Tensor, "d c rh rw"] | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None


@differentiating
@full_precision
def find_stem(module: nn.Module, input_size: tuple[int, int, int]) -> Stem:
    """Run the module once on a probe image of `input_size` (c, h, w) and see which layers read it first.

    A layer reads the image first if the image, but no parameter, is an ancestor of its input in the autograd graph. The
    probe's pixels hold their own indices, so that a linear layer's input shows how its patches were laid out.
    """
    device = next(module.parameters()).device
    size = input_size[0] * input_size[1] * input_size[2]
    probe = torch.arange(size, dtype=torch.float32, device=device).reshape(1, *input_size)
    probe.requires_grad_(True)
    readers: list[tuple[str, nn.Module, Tensor]] = []
    # A frozen parameter would be missing from the graph: those of the copy are not frozen.
    watched = copied(module, lambda tensor: ordinary(tensor.detach()), requires_grad=True)
    names: dict[nn.Module, str] = {
        layer: name for name, layer in watched.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    }

    def watch(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if arguments and _reads_only(arguments[0], probe):
            readers.append((names[layer], layer, arguments[0].detach()))

    for layer in names:
        layer.register_forward_pre_hook(watch)
    watched(probe)
    return _classify(readers, probe.detach())


def _reads_only(tensor: Tensor, image: Tensor) -> bool:
    """Whether `tensor` was computed from the image without any parameter."""
    if tensor is image:
        return True
    seen, stack, sees_image = set(), [tensor.grad_fn], False
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is image:
            sees_image = True
        elif leaf is not None:
            return False
        stack.extend(parent for parent, _ in node.next_functions)
    return sees_image


def _classify(readers: list[tuple[str, nn.Module, Tensor]], image: Tensor) -> Stem:
    names = tuple(name for name, _, _ in readers)
    layers = tuple(f"{name or type(layer).__name__}: {_describe(layer)}" for name, layer, _ in readers)
    if len(readers) > 1:
        return Stem("branches", names, layers)
    if not readers:
        return Stem("unknown", names, layers)
    _, layer, seen = readers[0]
    if isinstance(layer, nn.Linear):
        weight = _kernel_of_linear(layer, seen, image)
        if weight is None:
            return Stem("unknown", names, layers)
        size = (weight.shape[2], weight.shape[3])
        return Stem("patch", names, layers, weight, size, size)
    assert isinstance(layer, nn.Conv2d)  # the only other kind that is watched
    window, stride = _pair(layer.kernel_size), _pair(layer.stride)
    disjoint = (
        window == stride
        and not any(_padding(layer))
        and _pair(layer.dilation) == (1, 1)
        and layer.groups == 1
        and torch.equal(seen, image)
        and _uses_its_weight_as_is(layer)
    )
    if disjoint:
        return Stem("patch", names, layers, layer.weight.detach(), window, stride)
    return Stem("overlapping", names, layers, None, window, stride)


def _uses_its_weight_as_is(layer: nn.Conv2d) -> bool:
    """False for convolutions that, say, standardise their weight on the way: their W is not the one that is stored."""
    patch = torch.linspace(-1, 1, layer.weight[0].numel(), device=layer.weight.device, dtype=layer.weight.dtype)
    patch = patch.reshape(1, *layer.weight.shape[1:])
    return torch.allclose(layer(patch), F.conv2d(patch, layer.weight, layer.bias, layer.stride), rtol=1e-3)


def _kernel_of_linear(layer: nn.Linear, tokens: Tensor, image: Tensor) -> Tensor | None:
    """The kernel [d, c, r_h, r_w] of a linear patch projection, or None where its input is not one patch a token.

    `tokens` [1, m, n] hold pixel indices: those of a patch are the same for every token up to a shift.
    """
    _, c, h, w = image.shape
    if tokens.ndim != 3 or tokens.shape[0] * tokens.shape[1] * tokens.shape[2] != image.numel():
        return None
    indices = tokens[0].round().long()
    if not torch.equal(indices.flatten().sort().values, torch.arange(image.numel(), device=indices.device)):
        return None
    channel, row, column = indices // (h * w), indices // w % h, indices % w
    row, column = row - row.amin(1, keepdim=True), column - column.amin(1, keepdim=True)
    rh, rw = int(row.max()) + 1, int(column.max()) + 1
    place = (channel * rh + row) * rw + column
    if c * rh * rw != tokens.shape[2] or bool((place != place[0]).any()):
        return None
    weight = torch.empty_like(layer.weight)
    weight[:, place[0]] = layer.weight.detach()
    return weight.detach().unflatten(1, (c, rh, rw))


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "valid":
        return 0, 0
    return (1, 1) if isinstance(layer.padding, str) else _pair(layer.padding)


def _describe(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        window, stride = _pair(layer.kernel_size), _pair(layer.stride)
        return (
            f"convolution {layer.in_channels} -> {layer.out_channels}, window {window[0]} x {window[1]}, "
            f"stride {stride[0]} x {stride[1]}"
        )
    assert isinstance(layer, nn.Linear)
    return f"linear {layer.in_features} -> {layer.out_features}"
