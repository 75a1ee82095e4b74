"""Weights files (safetensors, pth, npz) into modules: every tensor or none, and no code run from the file."""

import sys
from pathlib import Path

from torch import Tensor, nn

from nullspace_cli.engine.artifacts import hash_state
from nullspace_cli.engine.errors import ModelError, first_line


def require_file(path: Path) -> None:
    """Raises ModelError where there is no such weights file."""
    if not path.is_file():
        raise ModelError(f"There is no weights file {path}. Expected a .safetensors, .pth or .npz file.")


def load_checkpoint(module: nn.Module, path: Path) -> None:
    """Load a weights file into a module, every tensor of it.

    timm's own key conversion for the architecture (other authors' names, other position grids) is tried where the names
    or shapes differ. The file's classifier is dropped where the model was built without one.

    Raises:
        ModelError: the file is missing, damaged, needs unpickling of code, or does not fit the architecture.
    """
    from timm.models import load_state_dict

    require_file(path)
    if path.suffix == ".npz":
        _load_npz(module, path)
        return
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        reason = first_line(error)
        if "weights_only" in reason:  # torch's own text would have the user lower the guard
            reason = "it holds more than tensors, and would have to run code"
        raise ModelError(f"{path} is not a readable weights file ({reason}). Nothing in it was executed.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no dictionary of tensors. Expected a state dictionary.")
    state = _fitted(module, state)
    own = module.state_dict()
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or foreign or shapes:
        raise ModelError(
            f"{path} does not fit {type(module).__name__}: "
            + "; ".join(
                f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
                for what, names in (("tensors missing", missing), ("unknown", foreign), ("of another shape", shapes))
                if names
            )
            + ". Check MODEL and --model-kwargs (img_size, num_classes, ...) against the file."
        )
    module.load_state_dict(state)


def _fitted(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with timm's conversion for this architecture, where needed, and without a classifier that it lacks."""

    def differs() -> bool:
        return {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in module.state_dict().items()}

    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if differs() and convert is not None:
        try:
            state = dict(convert(dict(state), module))
        except (KeyError, RuntimeError, ValueError, AttributeError, AssertionError, TypeError):
            return state  # not a file that timm knows to convert: the caller names what does not fit
    if getattr(module, "num_classes", 0) == 0:
        heads = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    return state


def _load_npz(module: nn.Module, path: Path) -> None:
    load = getattr(module, "load_pretrained", None)
    if load is None:
        raise ModelError(f"{type(module).__name__} cannot read .npz weights; expected .safetensors or .pth.")
    before = hash_state(module.state_dict())
    try:
        load(str(path))
    except Exception as error:
        reason = first_line(error)
        raise ModelError(f"{path} does not fit {type(module).__name__} ({reason}). Expected JAX weights.") from error
    if hash_state(module.state_dict()) == before:
        raise ModelError(f"{path} held no tensor for {type(module).__name__}; the model was left as it was.")
