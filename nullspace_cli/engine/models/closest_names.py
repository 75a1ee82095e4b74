"""timm's names for a file of weights: which architecture has tensors of these names and shapes.

timm has some 1400 names, and building one takes a tenth of a second even without memory. Of the families whose source
has the words that the file's names are made of, one member each is built; of those that are likest, one of each size,
by the names' own words; then the variants of the sizes that fit best.
"""

import inspect
import re
import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from nullspace_cli.engine.models.fitting import splits

ENOUGH = 0.9
"""Share of tensors that agree in name and shape above which an architecture is named."""
FAMILIES, SIZES, VARIANTS = 3, 24, 6
"""The most families, sizes of two of them, and variants of the two best sizes, that are built."""

Shapes = Mapping[str, tuple[int, ...]]


def closest_names(held: Mapping[str, Tensor], family: str) -> list[str]:
    """The names of at most three architectures that have the tensors of a file, best first; none if none is close.

    Args:
        family: timm's module in which to look first, "vision_transformer".
    """
    likeness = {name: _likeness(name, held) for name in _likely_names(held, family)}
    best = max(likeness.values(), default=0.0)
    return sorted(name for name, share in likeness.items() if share == best >= ENOUGH)[:3]


def _likely_names(held: Mapping[str, Tensor], family: str) -> list[str]:
    import timm

    endings = {re.sub(r"\d+", "#", rest) for name in held for _, rest in splits(name)}
    words = {word for name in held for word in re.split(r"[.\d]+", name)}
    spoken = Counter({module: len(words & _words_of(module)) for module in timm.models.list_modules()})
    families = dict[str, float]()
    for module in dict.fromkeys([family, *(module for module, _ in spoken.most_common(FAMILIES))]):
        if names := timm.list_models(module=module):
            patterns = {re.sub(r"\d+", "#", name) for name in _shapes(min(names, key=len))}
            families[module] = len(patterns & endings) / max(1, len(patterns))
    found = list[str]()
    patches = {f"patch{value.shape[-1]}" for value in held.values() if value.ndim == 4 and value.shape[-1] > 1}
    for module in sorted(families, key=families.__getitem__, reverse=True)[:2]:
        names = sorted(timm.list_models(module=module), key=len)
        fitting = [name for name in names if patches & set(re.split(r"[_.]", name))]
        sizes = dict[str, list[str]]()
        for name in fitting or names:
            sizes.setdefault(re.split(r"_patch\d|_\d{3}", name)[0], []).append(name)
        scored = {size: _likeness(sizes[size][0], held) for size in list(sizes)[:SIZES]}
        for size in sorted(scored, key=scored.__getitem__, reverse=True)[:2]:
            found += sizes[size][:VARIANTS]
        if max(scored.values()) == 1:
            break
    return found


@cache
def _words_of(module: str) -> frozenset[str]:
    """What the parts of a family's networks are called, by its source."""
    source = inspect.getsource(sys.modules[f"timm.models.{module}"])
    return frozenset(word.rstrip("0123456789") for word in re.findall(r"(?:self\.|['\"])(\w+)", source))


def _likeness(name: str, held: Mapping[str, Tensor]) -> float:
    """The share of tensors that a file and an architecture have in common, behind the best prefix."""
    own = _shapes(name)
    votes, count = Counter[str](), Counter[str]()
    for tensor, value in held.items():
        for prefix, rest in splits(tensor):
            count[prefix] += 1
            votes[prefix] += own.get(rest) == tuple(value.shape)
    return max((votes[prefix] / max(len(own), count[prefix]) for prefix in votes if own), default=0.0)


@cache
def _shapes(name: str) -> Shapes:
    """The tensors of an architecture, built without memory; none where this timm cannot build it here."""
    import timm

    try:
        with torch.device("meta"):
            module: nn.Module = timm.create_model(name, pretrained=False)
    except Exception:  # noqa: BLE001 - timm's, of whatever kind: it needs another package, or does not build on meta
        return {}
    return {tensor: tuple(value.shape) for tensor, value in module.state_dict().items()}
