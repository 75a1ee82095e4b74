"""Which operations take tensors of two devices, which wait for the card, and where a real card puts their results."""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOVES = frozenset({"to", "cpu", "cuda", "type_as"})
"""Operations that bring a tensor to another device."""

MADE_FROM_DATA = frozenset({"tensor", "as_tensor", "asarray", "new_tensor"})

WRITES = frozenset({"copy_", "__setitem__", "index_put_"})
"""Operations that write into their first argument, wherever the others are."""

FIRST_ALONE = frozenset({"expand_as", "view_as", "reshape_as", "new_zeros", "new_ones", "new_empty", "new_full"})
"""Of their other tensors these operations read the shape, or a number."""

WITH_HOST_TENSORS = frozenset({"tensor_split", "result_type", "is_set_to", "is_same_size", "promote_types", "set_"})
"""Operations that other tensors than their first may enter from the host."""

WAITS = frozenset(
    {
        *("item", "tolist", "is_nonzero", "equal", "allclose", "__contains__", "__repr__", "__format__"),
        *("__bool__", "__int__", "__float__", "__complex__", "__index__"),
        *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"),
        *("linalg_cholesky", "linalg_inv", "linalg_solve", "linalg_svd", "linalg_svdvals", "linalg_eigh", "linalg_eig"),
        *("linalg_eigvals", "linalg_eigvalsh", "linalg_lstsq", "linalg_pinv", "linalg_matrix_rank", "linalg_lu_factor"),
        *("cholesky", "inverse", "svd", "logdet"),
    }
)
"""Operations whose result, or its shape, is needed on the host; of `linalg` those that check their own success."""

ARITHMETIC = "add|sub|mul|div|truediv|floordiv|mod|pow|and|or|xor|lshift|rshift"
POINTWISE_SIGN = re.compile(f"__[ri]?({ARITHMETIC})__|__(eq|ne|lt|le|gt|ge)__")
IN_PLACE_SIGN = re.compile(f"__i({ARITHMETIC})__")
POINTWISE_TOO = frozenset(
    {
        *("masked_fill", "fill", "index_fill", "floor_divide", "isclose", "allclose", "rsub"),
        *("greater", "greater_equal", "less", "less_equal", "not_equal", "multiply", "subtract", "divide"),
    }
)


@functools.cache
def name_of(func: Callable[..., Any]) -> str:
    """The operation's name in torch; of a property "name.__get__" or "name.__set__"."""
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__", "__delete__"):
        return f"{func.__self__.__name__}.{name}"  # type: ignore[attr-defined]
    return name


@functools.cache
def is_pointwise(name: str) -> bool:
    """Whether the operation goes entry by entry: only such ones take a number (0-dim) from the host beside the card's.

    torch itself tells by a tag of the operator.
    """
    if POINTWISE_SIGN.fullmatch(name):
        return True
    plain = name.rstrip("_")
    if plain in POINTWISE_TOO:
        return True
    packet = getattr(torch.ops.aten, plain, None) if plain.isidentifier() and not name.startswith("_") else None
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )


@functools.cache
def is_in_place(name: str) -> bool:
    return IN_PLACE_SIGN.fullmatch(name) is not None or (name.endswith("_") and not name.endswith("__"))


def leaves(values: Iterable[Any]) -> list[Any]:
    """Everything within a sequence, also in lists, tuples and dictionaries there."""
    found = []
    for value in values:
        kind = type(value)
        if kind in (list, tuple) or isinstance(value, list | tuple):
            found += leaves(value)
        elif kind is dict:
            found += leaves(value.values())
        else:
            found.append(value)
    return found


def as_index(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def is_number(index: Any) -> bool:
    """A 0-dim whole number in an index is read on the host, from whichever device."""
    return isinstance(index, Tensor) and index.dim() == 0 and index.dtype != torch.bool


def selects(index: Any) -> bool:
    """Whether a part of an index picks single entries, rather than slices."""
    return not is_number(index) if isinstance(index, Tensor) else isinstance(index, list | np.ndarray)
