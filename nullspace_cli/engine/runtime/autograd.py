"""Gradients whatever mode the caller is in: `torch.no_grad`, `torch.inference_mode`, or none.

A tensor that was made in inference mode can never take part in autograd. It must not get into what outlives a call (a
network's weights, or what its layers keep from one pass to the next), nor into what is differentiated.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor, or where it was made in inference mode a copy that can take part in autograd."""
    return tensor.clone() if tensor.is_inference() else tensor


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """A context whose tensors can take part in autograd later, though the caller be in inference mode.

    Gradients are followed within where they are outside.
    """
    followed = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(followed):
        yield


def differentiating(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function that uses autograd do so whatever mode its caller is in."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(False), torch.enable_grad():
            own: Any = {name: _ordinary(value) for name, value in kwargs.items()}
            return function(*map(_ordinary, args), **own)

    return run


def _ordinary(value: Any) -> Any:
    return ordinary(value) if isinstance(value, Tensor) else value
