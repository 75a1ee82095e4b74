"""What a caller may get wrong: each message names the argument, what was found, and what was expected."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.models.model import Model


def found(value: object) -> str:
    """A value, short enough for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    return type(value).__name__


def wrong(name: str, value: object, expected: str) -> UsageError:
    """An argument that is not what it should be."""
    return UsageError(f"{name} is {found(value)}; expected {expected}.")


def require_model(model: object) -> None:
    """See that a model is one of ours."""
    if not isinstance(model, Model):
        raise wrong("model", model, "a Model, as load_model and wrap give it")


def require_choice(name: str, value: object, choices: Iterable[str | int]) -> None:
    """See that a setting is one of those that there are."""
    known = tuple(choices)
    if not isinstance(value, str | int | float) or value not in known:
        raise wrong(name, value, f"one of {', '.join(map(repr, known))}")


def require_number(
    name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> None:
    """See that a setting is a finite number in a range."""
    fits = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    if not fits or not (float(value) > above and least <= float(value) <= most):
        limits = [(above, f"above {above:g}"), (least, f"of at least {least:g}"), (most, f"of at most {most:g}")]
        words = " and ".join(text for limit, text in limits if math.isfinite(limit))
        raise UsageError(f"{name} is {found(value)}; expected a number {words}".rstrip() + ".")


def require_count(name: str, value: Any, *, least: int = 1) -> None:
    """See that a setting is a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise wrong(name, value, f"a whole number of at least {least}")


def seed_of(generator: torch.Generator | None) -> int:
    """What is drawn by: a number from the generator; 0 without one, so that a call repeated gives the same."""
    if generator is None:
        return 0
    require_generator(generator)
    return int(torch.randint(2**31, (), generator=generator, device=generator.device))


def require_generator(generator: object) -> None:
    """See that it is torch's."""
    if not isinstance(generator, torch.Generator):
        raise wrong("generator", generator, "a torch.Generator, or None")
