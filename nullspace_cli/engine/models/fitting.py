"""Which of a file's tensors are a network's: found by fitting names and shapes, whatever they are wrapped in.

A file's tensors have dotted names, a network's too. What is sought is one prefix, of dictionaries and of wrappers alike
("state_dict.model.", "teacher.backbone."), behind which the file has all that the network has, of the same shapes: as
they stand, or after a conversion: timm's own for the architecture (other authors' names, other position grids), or the
one that is given in its place, of a library with names of its own.

Of several that fit, an average of weights over training is taken before a teacher, a teacher before the rest, and a
student last; of equals, the first in the file.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

PREFERENCE = (
    frozenset({"ema", "swa", "averaged", "average", "target"}),
    frozenset({"teacher"}),
    frozenset[str](),
    frozenset({"student", "current"}),
)
"""Words in a prefix, best first; one with none of them is of the third rank."""
OTHER_PARTS = frozenset(
    {
        *("center", "criterion", "decoder", "head", "heads", "loss", "mask", "optimizer", "pooler", "predictor"),
        *("projection", "projector", "prototypes", "queue"),
    }
)
"""Words in the names of what only training uses, and that may stand beside a network's own parts."""
CONVERSIONS = 16
"""Prefixes behind which a conversion is tried."""

Conversion = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Makes another library's tensors a network's, as far as it knows them; the others keep their names."""


@dataclass(frozen=True)
class Fit:
    """The tensors for a network, under its own names.

    Attributes:
        prefix: what precedes them in the file, "" or "state_dict.model.".
        state: what is behind the prefix and belongs to the network.
        converted: the names, in the network, of what a conversion has made: there they have another name or shape.
        left_out: what is behind the prefix and is of no use to this network.
        others: the prefixes that would have done as well.
    """

    prefix: str
    state: Mapping[str, Tensor]
    converted: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Differences:
    """What keeps tensors from being a network's: its names, and for `foreign` theirs."""

    missing: frozenset[str]
    foreign: frozenset[str]
    reshaped: frozenset[str]

    def __len__(self) -> int:
        return len(self.missing) + len(self.foreign) + len(self.reshaped)


def fit(module: nn.Module, held: Mapping[str, Tensor], conversion: Conversion | None = None) -> Fit | None:
    """The tensors of a file that are a network's; None where none fit.

    Args:
        conversion: in the place of timm's own for the architecture.
    """
    own = module.state_dict()
    fits = {}
    for prefix in prefixes(own, held):
        part = behind(prefix, held)
        if not differences(module, own, part):
            fits[prefix] = _taken(prefix, own, part, part)
    if not fits:
        for prefix in _roots(own, held):
            part = behind(prefix, held)
            converted = convert(module, part, conversion)
            if converted is not None and not differences(module, own, converted):
                fits[prefix] = _taken(prefix, own, part, converted)
    # A conversion may look for prefixes by itself: then it is the longest that was found.
    fits = {
        prefix: found for prefix, found in fits.items() if not any(p != prefix and p.startswith(prefix) for p in fits)
    }
    if not fits:
        return None
    best = min(fits, key=_rank)
    return Fit(**{**vars(fits[best]), "others": tuple(prefix for prefix in fits if prefix != best)})


def nearest(
    module: nn.Module, held: Mapping[str, Tensor], conversion: Conversion | None = None
) -> tuple[str, Mapping[str, Tensor], Differences]:
    """What comes closest to a network that nothing fits: the prefix, the tensors, and what keeps them from fitting."""
    own = module.state_dict()

    def candidates() -> Iterator[tuple[str, Mapping[str, Tensor], Differences]]:
        prefix = next(iter(prefixes(own, held)), "")
        state = behind(prefix, held)
        yield prefix, state, differences(module, own, state)
        for prefix in _roots(own, held):
            converted = convert(module, behind(prefix, held), conversion)
            if converted is not None:
                yield prefix, converted, differences(module, own, converted)

    return min(candidates(), key=lambda candidate: len(candidate[2]))


def behind(prefix: str, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in held.items() if name.startswith(prefix)}


def differences(module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Differences:
    """What is missing, what is foreign, and what is of another shape.

    The number of batches that a normalisation has seen is no part of what it computes: old files lack it.
    """
    missing = {name for name in own.keys() - state.keys() if not name.endswith("num_batches_tracked")}
    foreign = {name for name in state.keys() - own.keys() if not _is_other_part(module, name)}
    reshaped = {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    return Differences(frozenset(missing), frozenset(foreign), frozenset(reshaped))


def classifiers(module: nn.Module) -> tuple[str, ...]:
    """The prefixes of a network's classifier, or of those (a distilled one has two)."""
    heads = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
    return tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))


def stem_weight(module: nn.Module) -> str | None:
    """The name of the weights that meet the image first, as timm has it."""
    first = (getattr(module, "pretrained_cfg", None) or {}).get("first_conv")
    name = f"{first}.weight"
    return name if isinstance(first, str) and name in module.state_dict() else None


def convert(
    module: nn.Module, part: Mapping[str, Tensor], conversion: Conversion | None = None
) -> Mapping[str, Tensor] | None:
    """What a conversion makes of tensors, by default timm's own for the architecture.

    None where timm has none, or the file is none that it knows. A first layer of another patch size, which timm
    resamples, is none that it may make: it would be nobody's network.
    """
    if conversion is not None:
        return conversion(part)
    rules = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    stem = stem_weight(module)
    if rules is None or (stem and module.state_dict()[stem].numel() not in {value.numel() for value in part.values()}):
        return None
    try:
        return dict(rules(dict(part), module))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - timm's, of whatever kind
        return None


def prefixes(own: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
    """The prefixes behind which names and shapes of the network occur, those with most first."""
    votes = Counter[str]()
    for name, value in held.items():
        for prefix, rest in splits(name):
            if rest in own and own[rest].shape == value.shape:
                votes[prefix] += 1
    return [prefix for prefix, _ in votes.most_common()]


def splits(name: str) -> Iterator[tuple[str, str]]:
    """The ways to take a dotted name as a prefix and the rest: ("", "a.b"), ("a.", "b")."""
    start = 0
    while True:
        yield name[:start], name[start:]
        start = name.find(".", start) + 1
        if start == 0:
            return


def _roots(own: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
    """Prefixes behind which there is enough to be the network under other names; the likely ones first."""
    count = Counter(prefix for name in held for prefix, _ in splits(name))
    likely = {prefix: -i for i, prefix in enumerate(prefixes(own, held))}
    enough = [prefix for prefix in count if count[prefix] >= len(own) / 3]
    return sorted(enough, key=lambda prefix: (-likely.get(prefix, -len(held)), len(prefix)))[:CONVERSIONS]


def _taken(prefix: str, own: Mapping[str, Tensor], part: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Fit:
    changed = [name for name in state if name not in part or part[name].shape != state[name].shape]
    return Fit(
        prefix,
        {name: value for name, value in state.items() if name in own},
        converted=tuple(name for name in changed if name in own),
        left_out=tuple(name for name in (part if not changed else state) if name not in own),
    )


def _is_other_part(module: nn.Module, name: str) -> bool:
    """Whether a tensor is of something that the network can do without: the head it was built without, or a part that
    only training uses and that the network has no place for."""
    if getattr(module, "num_classes", None) == 0 and name.startswith(classifiers(module)):
        return True
    top = name.partition(".")[0]
    return not hasattr(module, top) and bool(OTHER_PARTS & set(_words(top)))


def _rank(prefix: str) -> int:
    words = set(_words(prefix))
    return next((rank for rank, wanted in enumerate(PREFERENCE) if words & wanted), PREFERENCE.index(frozenset()))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())
