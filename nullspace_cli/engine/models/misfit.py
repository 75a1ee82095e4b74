"""Why a file's weights are not a network's: other classes, another image size, other patches, another architecture."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.closest_names import closest_names
from nullspace_cli.engine.models.fitting import Conversion, Differences, classifiers, nearest, stem_weight
from nullspace_cli.engine.models.weights_file import shown, some

Cause = tuple[str, str, set[str]]
"""What is the matter, the arguments of timm that would mend it, and the tensors whose differences that explains."""


def misfit(
    module: nn.Module, path: Path, held: Mapping[str, Tensor], conversion: Conversion | None = None
) -> ModelError:
    """The error for a file that has no tensors for a network, with what would mend it as far as that can be told.

    Args:
        conversion: in the place of timm's own, as in `fit`.
    """
    own = module.state_dict()
    prefix, state, wrong = nearest(module, held, conversion)
    found = (find(module, own, state, wrong) for find in (_classes, _patches, _channels, _grid, _depth))
    causes = [cause for cause in found if cause]
    explained = {name for _, _, names in causes for name in names}
    rest = Differences(wrong.missing - explained, wrong.foreign - explained, wrong.reshaped - explained)
    close = closest_names(held, type(module).__module__.rpartition(".")[2]) if rest else []
    built = (getattr(module, "pretrained_cfg", None) or {}).get("architecture")
    if others := [name for name in close if name != built]:
        causes, rest = [], wrong  # of another network's head and image there is nothing to say
    said = [what for what, _, _ in causes]
    said += [
        f"{len(names)} {what} ({some(names)})"
        for what, names in (
            ("tensors missing", rest.missing),
            ("unknown", rest.foreign),
            ("of another shape", rest.reshaped),
        )
        if names
    ]
    where = f", under {shown(prefix.rstrip('.'))}," if prefix else ""
    if others:
        hint = f"Its tensors are those of {' or '.join(others)}: give that name."
    elif rest or not all(arguments for _, arguments, _ in causes):
        hint = "Check the model and its `timm_kwargs` (img_size, num_classes, ...) against the file."
    else:
        hint = f"Add {' and '.join(dict.fromkeys(f'`{arguments}`' for _, arguments, _ in causes))}."
    return ModelError(f"{path}{where} does not fit {type(module).__name__}: {'; '.join(said)}.", hint=hint)


def _classes(
    module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: Differences
) -> Cause | None:
    """A classifier for other classes, or none."""
    heads = classifiers(module)
    ours = {name for name in own if heads and name.startswith(heads)}
    names = {name for name in (*wrong.missing, *wrong.reshaped, *wrong.foreign) if heads and name.startswith(heads)}
    if not names or not ours:
        return None
    if ours <= wrong.missing:
        return "the file has no classifier", "num_classes=0", names
    counts = {state[name].shape[0] for name in ours & state.keys() if state[name].ndim}
    if len(counts) != 1 or not names <= wrong.reshaped:
        return None
    (count,) = counts
    if count == module.num_classes:
        return None
    return f"the file's head has {count} classes, the model's {module.num_classes}", f"num_classes={count}", names


def _stem(
    module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: Differences
) -> tuple[str, Tensor, Tensor] | None:
    """The first layer, the file's and the model's, where they differ in what the image is, and not in the network."""
    name = stem_weight(module)
    if name is None or name not in wrong.reshaped or state[name].ndim != own[name].ndim or own[name].ndim != 4:
        return None
    theirs, ours = state[name], own[name]
    return (name, theirs, ours) if theirs.shape[0] == ours.shape[0] else None


def _patches(
    module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: Differences
) -> Cause | None:
    """Patches, or kernels, of another size."""
    stem = _stem(module, own, state, wrong)
    if stem is None or stem[1].shape[2:] == stem[2].shape[2:]:
        return None
    name, theirs, ours = stem
    height, width = theirs.shape[2:]
    said = f"its first layer reads {height}x{width} pixels, the model's {ours.shape[2]}x{ours.shape[3]}"
    sizes = _patch_size(module)
    arguments = f"patch_size={height}" if sizes == tuple(ours.shape[2:]) and height == width else ""
    return said, arguments, {name}


def _channels(
    module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: Differences
) -> Cause | None:
    """Images of other channels."""
    stem = _stem(module, own, state, wrong)
    if stem is None or stem[1].shape[1] == stem[2].shape[1]:
        return None
    name, theirs, ours = stem
    return f"it reads {theirs.shape[1]} channels, the model {ours.shape[1]}", f"in_chans={theirs.shape[1]}", {name}


def _grid(
    module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: Differences
) -> Cause | None:
    """Positions of a grid of another size: another image size, or the same one in other patches."""
    names = {
        name
        for name in wrong.reshaped
        if "pos" in name and own[name].ndim == 3 == state[name].ndim and own[name].shape[2] == state[name].shape[2]
    }
    ours, sizes = getattr(getattr(module, "patch_embed", None), "grid_size", None), _patch_size(module)
    if len(names) != 1 or ours is None or sizes is None:
        return None
    (name,) = names
    tokens = own[name].shape[1] - math.prod(ours)  # of classes and registers, which have positions of their own
    side = math.isqrt(max(state[name].shape[1] - tokens, 0))
    stem = stem_weight(module)
    patch = state[stem].shape[-1] if stem and stem in state and state[stem].ndim == 4 else sizes[1]
    square = side > 0 and side**2 == state[name].shape[1] - tokens
    if square and (side * patch, side * patch) == (ours[0] * sizes[0], ours[1] * sizes[1]):
        return "its grid is that of its patches", f"patch_size={patch}", {name}
    said = f"its grid has {state[name].shape[1]} positions, the model's {own[name].shape[1]}: another image size"
    return said, f"img_size={side * patch}" if square else "", {name}


def _depth(
    module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: Differences
) -> Cause | None:
    """More or fewer blocks of the same kind."""
    theirs, ours = (max(map(_block, names), default=-1) + 1 for names in (state, own))
    names = {name for name in (*wrong.missing, *wrong.foreign) if _block(name) >= min(theirs, ours) > 0}
    if not names or theirs == ours:
        return None
    return f"it has {theirs} blocks, the model {ours}", f"depth={theirs}", names


def _block(name: str) -> int:
    """The number of the block that a tensor is of, -1 if of none."""
    found = re.match(r"blocks\.(\d{1,4})\.", name)
    return int(found[1]) if found else -1


def _patch_size(module: nn.Module) -> tuple[int, int] | None:
    found = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    return tuple(found) if isinstance(found, tuple | list) and len(found) == 2 else None
