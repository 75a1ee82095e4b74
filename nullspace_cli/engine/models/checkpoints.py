"""Weights files (safetensors, pth, ckpt, npz, ...) into modules: every tensor or none, and no code run from the file.

What a file claims is held against the file and the module before anything is made of it: neither a header that lies nor
an archive that unfolds without end takes memory, and weights that are no finite floating-point numbers are refused by
name.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nullspace_cli.engine.documents.artefacts import is_finite
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.fitting import Conversion, Fit, fit
from nullspace_cli.engine.models.jax_weights import load_jax_weights
from nullspace_cli.engine.models.misfit import misfit
from nullspace_cli.engine.models.weights_file import WRAPPERS, read_weights, require_file, require_usable, shown, some

logger = logging.getLogger(__name__)

ROOM, SLACK = 16, 2**30
"""A file may hold so many times what the module does (moving averages and an optimiser's state, in double precision),
and so many bytes beside (the head of another data set)."""


def load_checkpoint(
    module: nn.Module, path: Path, key: str | None = None, *, conversion: Conversion | None = None
) -> None:
    """Load a weights file into a module, every tensor of it.

    Which of the file's dictionaries, behind which prefix, is found by fitting, see `fitting`. What was taken of a file
    that holds more, and what was left out, is information of the logger; the names, debugging information.

    Args:
        key: the dictionary or prefix to take them from, "teacher" or "state_dict.net.encoder".
        conversion: of another library's names and shapes, in the place of timm's own for the architecture.

    Raises:
        ModelError: the file is missing, damaged, needs unpickling of code, or does not fit the architecture; or some of
            its weights are no finite floating-point numbers. The module is left as it was.
    """
    require_file(path)
    if path.suffix == ".npz":
        if key is not None:
            raise ModelError(f"{path} has no dictionaries to choose from.", hint="Leave out `checkpoint_key`.")
        load_jax_weights(module, path, _allowance(module), lambda state: require_finite(state, str(path)))
        return
    own = module.state_dict()
    held = read_weights(path, _allowance(module))
    chosen = held if key is None else _under(key, held, path)
    found = fit(module, chosen, conversion)
    if found is None:
        raise misfit(module, path, chosen, conversion)
    require_usable(found.state, path)
    require_floats(own, {name: value.dtype for name, value in found.state.items()}, path)
    state = {name: value.to(own[name].dtype) for name, value in found.state.items()}
    require_finite(state, str(path))
    module.load_state_dict({**own, **state})
    _tell(path, held, found)


def require_floats(own: Mapping[str, Tensor], types: Mapping[str, torch.dtype], path: Path) -> None:
    """Refuse whole numbers in place of weights, and the reverse: quantised weights, whose scale is elsewhere.

    Args:
        own: the module's tensors; those that the file has under other names are passed over.

    Raises:
        ModelError: a tensor of the file is of the other kind; it names the layers.
    """
    shared = own.keys() & types.keys()
    other = [name for name in shared if own[name].is_floating_point() != types[name].is_floating_point]
    if other:
        raise ModelError(
            f"{path} holds whole numbers in place of weights, or the reverse: {some(other)}. Expected floats."
        )


def require_finite(state: Mapping[str, Tensor], whose: str) -> None:
    """Refuse weights that are not numbers: whatever were computed from them would be none either.

    Raises:
        ModelError: some are not; it names the layers.
    """
    broken = [name for name, value in state.items() if value.is_floating_point() and not is_finite(value)]
    if broken:
        raise ModelError(
            f"The weights of {whose} are not all finite numbers: {some(broken)}. They are damaged, or too large for "
            f"single precision."
        )


def _allowance(module: nn.Module) -> int:
    held = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    return ROOM * held + SLACK


def _under(key: str, held: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file whose names begin with a key."""
    start = ".".join(part for part in key.split(".") if part and part not in WRAPPERS)
    chosen = {name: value for name, value in held.items() if f"{name}.".startswith(f"{start}.")}
    if not start or not chosen:
        tops = Counter(name.rpartition(".")[0].partition(".")[0] for name in held)
        there = ", ".join(f"{shown(top)} ({count})" for top, count in tops.most_common(8) if top)
        raise ModelError(
            f"{path} has nothing under {shown(key)!r}. It has tensors under: {there or 'no key'}.",
            hint="Choose one of these as `checkpoint_key`, or leave it out.",
        )
    return chosen


def _tell(path: Path, held: Mapping[str, Tensor], found: Fit) -> None:
    """Say what was taken of a file that is more than a network's own tensors."""
    outside = [name for name in held if not name.startswith(found.prefix)]
    left_out = [*outside, *(found.prefix + name for name in found.left_out)]
    if not found.prefix and not left_out and not found.converted:
        return
    said = [f"took {len(found.state)} tensors" + (f" under {shown(found.prefix.rstrip('.'))}" if found.prefix else "")]
    if found.others:
        others = some(prefix.rstrip(".") or "no key" for prefix in found.others)
        said.append(f"{others} would fit too (averages come first, then teachers; `checkpoint_key` chooses)")
    if found.converted:
        said.append(
            f"{len(found.converted)} converted to this architecture's names and shapes ({some(found.converted)})"
        )
    if left_out:
        said.append(f"left out {_counted(found.prefix, left_out)}")
    logger.info("%s: %s.", path, "; ".join(said))
    for what, names in (("left out", left_out), ("converted", found.converted)):
        for name in names:
            logger.debug("%s: %s: %s", path, what, shown(name))


def _counted(prefix: str, names: Iterable[str]) -> str:
    """Names, in groups by where they part from a prefix."""
    kept = prefix.rstrip(".").split(".") if prefix else []
    groups = Counter[str]()
    for name in names:
        parts = name.split(".")
        common = next((i for i, part in enumerate(parts) if i >= len(kept) or part != kept[i]), len(parts) - 1)
        groups[".".join(parts[: common + 1])] += 1
    shown_groups = [f"{shown(group)} ({count})" for group, count in groups.most_common(6)]
    return ", ".join(shown_groups) + (", ..." if len(groups) > 6 else "")
