"""Copies of a network that share its weights: what is watched, replaced or differentiated is the copy alone.

A network may be at work in other threads. So no hook is put on its layers, none is replaced for a moment, and no
parameter's `requires_grad` is switched.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import chain
from types import MethodType
from typing import Any

from torch import Tensor, nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def rewired(module: nn.Module, stand_ins: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The network with other layers in the place of some of its own, wherever these are used.

    Only the layers on the way down to them are copied, and without what they hold: all else is the network's own, and
    whatever becomes of it later shows in the copy too. It takes some microseconds a layer.

    Args:
        stand_ins: by the layer that each takes the place of, none of which lies within another.
    """
    made = {id(layer): stand_in for layer, stand_in in stand_ins.items()}

    def visit(layer: nn.Module) -> nn.Module:
        found = made.get(id(layer))
        if found is not None:
            return found
        made[id(layer)] = found = layer
        for name, part in layer._modules.items():
            other = part if part is None else visit(part)
            if other is not part:
                if found is layer:
                    made[id(layer)] = found = _shallow(layer)
                    vars(found)["_modules"] = copy.copy(layer._modules)
                found._modules[name] = other
        return found

    return visit(module)


def standing_in(layer: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A layer with the attributes of another, its weights among them, for which `forward` answers; it has no hooks."""
    other = _shallow(layer)
    vars(other).update({name: OrderedDict[int, Any]() for name in _HOOKS}, forward=forward)
    return other


def copied(module: nn.Module, tensor: Callable[[Tensor], Tensor], *, requires_grad: bool) -> nn.Module:
    """A copy of all layers, with tensors that `tensor` makes of the parameters and buffers.

    Args:
        requires_grad: of the copy's parameters, as far as they are floating-point numbers.
    """
    copies: dict[int, Any] = {}
    for own in chain(module.parameters(), module.buffers()):
        value = tensor(own)
        if isinstance(own, nn.Parameter):
            value = nn.Parameter(value, requires_grad=requires_grad and value.is_floating_point())
        copies[id(own)] = value
    return copy.deepcopy(module, copies)


def _shallow(layer: nn.Module) -> nn.Module:
    """A copy that holds the same objects; methods that were bound to the layer are bound to the copy."""
    other = type(layer).__new__(type(layer))
    for name, value in vars(layer).items():
        bound = isinstance(value, MethodType) and value.__self__ is layer
        vars(other)[name] = MethodType(value.__func__, other) if bound else value
    return other
