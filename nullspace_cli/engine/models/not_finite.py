"""Where in a network numbers stop being finite: found by one more pass that looks at every layer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nullspace_cli.engine.runtime.autograd import ordinary
from nullspace_cli.engine.runtime.module_copies import copied


class _Found(Exception):  # noqa: N818 - not an error
    """Ends the pass at the first layer that is to blame."""


def first_not_finite(module: nn.Module, run: Callable[[nn.Module], object]) -> str | None:
    """What in a network is the first to be not finite, in words; None where everything is.

    Each layer is looked at when it begins and when it ends, the inner ones before those around them: what a layer is
    given may be made between two layers, as a sum is.

    Args:
        run: asks the network that it is given, a copy that shares the module's weights, what the answer came of.
    """
    watched = copied(module, lambda tensor: ordinary(tensor.detach()), requires_grad=False)
    for name, layer in watched.named_modules():
        called = f"layer {name} ({type(layer).__name__})" if name else None

        def before(_: nn.Module, given: Any, called: str | None = called) -> None:
            _require_finite(given, f"what reaches its {called}" if called else "its input")

        def after(_: nn.Module, __: Any, made: Any, called: str | None = called) -> None:
            _require_finite(made, f"what its {called} makes" if called else "its answer")

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
    try:
        with torch.no_grad():
            run(watched)
    except _Found as found:
        return str(found)
    return None


def _require_finite(values: Any, what: str) -> None:
    if isinstance(values, Tensor):
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise _Found(what)
    elif isinstance(values, dict):
        _require_finite(values.values(), what)
    elif isinstance(values, Iterable) and not isinstance(values, str):
        for value in values:
            _require_finite(value, what)
