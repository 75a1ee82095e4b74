"""Where a model is run."""

import torch

from nullspace_cli.engine.errors import ModelError, UsageError


def best_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_device(name: str) -> torch.device:
    """ "auto" is the best device; anything asked for by name must exist."""
    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"Unknown device '{name}': expected auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"The device {name} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices here."
        )
    return device
