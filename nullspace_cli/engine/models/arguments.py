"""What a model is asked to be, before it is built: arguments and sizes that cannot be used are refused."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from nullspace_cli.engine.documents.base import describe
from nullspace_cli.engine.documents.model_folder import MAX_SIZE
from nullspace_cli.engine.errors import ModelError

BENIGN = {"num_classes": 2**17, "img_size": 1024, "in_chans": 16, "input_size": 1024, "num_features": 2**14}
"""Up to which number an argument makes no model that does not fit; others up to 64."""
MAX_TENSORS = 10_000
"""Parameters and buffers of a model; the largest of timm have some thousand."""
SEE_KWARGS = "See `timm_kwargs`."
UNUSABLE = {
    "checkpoint_path": "Give weights as `checkpoint`.",
    "features_only": "What it answers are many maps, and no logits or features.",
    "scriptable": "Gradients of a scripted model are not its own.",
    "device": "Choose it as `device`.",
    "dtype": "Weights are taken in single precision; see `amp`.",
}


def refuse_arguments(arguments: Mapping[str, Any], model: str) -> None:
    for name, why in UNUSABLE.items():
        if arguments.get(name):
            raise ModelError(f"The argument {name} of {model} cannot be used here.", hint=why)
    for name, value in arguments.items():
        if _largest(value) > MAX_SIZE:
            raise ModelError(
                f"The argument {name} of {model} is {describe(value)}; nothing in a model is more than {MAX_SIZE}."
            )


def is_modest(arguments: Mapping[str, Any]) -> bool:
    return all(
        is_modest(value) if isinstance(value, Mapping) else _largest(value) <= BENIGN.get(name, 64)
        for name, value in arguments.items()
    )


def _largest(value: Any) -> float:
    """The largest magnitude of the numbers in a value, however it is nested."""
    if isinstance(value, Mapping):
        return max(map(_largest, value.values()), default=0)
    if isinstance(value, list | tuple | set):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int | float) else 0


@contextmanager
def within_bounds(name: str) -> Iterator[None]:
    """Refuse, while it is being built, a model that does not fit into this machine's memory.

    PyTorch calls these hooks for all modules that are built meanwhile; those of other threads are let through.

    Raises:
        ModelError: it has too many parameters.
    """
    room, builder = _memory(), threading.get_ident()
    count = held = 0

    def counted(_: nn.Module, __: str, tensor: Tensor | None) -> None:
        nonlocal count, held
        if tensor is None or threading.get_ident() != builder:
            return
        count, held = count + 1, held + tensor.numel() * tensor.element_size()
        if count > MAX_TENSORS or held > room:
            size = f"{count} tensors" if count > MAX_TENSORS else f"{held / 2**30:.0f} GiB"
            raise ModelError(
                f"{name} with these arguments has more than {size} of weights; this machine has "
                f"{room / 2**30:.0f} GiB of memory.",
                hint=SEE_KWARGS,
            )

    hooks = [register_module_parameter_registration_hook(counted), register_module_buffer_registration_hook(counted)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _memory() -> int:
    """Bytes of this machine's memory; where that cannot be asked, enough for any published model."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**36
