"""Relevance through a network's operations: the rules of Chefer, Gur and Wolf 2021 (arXiv 2012.09838, section 3).

Relevance starts at the answer and is handed down, step by step, to what each step was computed from. That is what a
backward pass does with derivatives; so the network's own forward pass is run, each of its operations is given a rule in
place of its derivative, and autograd does the book-keeping. With R the relevance of a result, and quotients of 0 by 0
taken as 0, the rules are:

- x W^T + bias: x+ * (S W+) + x- * (S W-) with S = R / (x+ W+^T + x- W-^T): alpha = 1, beta = 0, the bias is ignored.
- a b, product of matrices: S = R / (a b), R_a = a * (S b^T) / 2, R_b = b * (a^T S) / 2.
- a * b, elementwise (a gate): R / 2 each.
- a + b: a R / (a + b) and b R / (a + b), each then scaled to its share of |sum|, image by image. Learned constants take
  a share too (position embeddings), except those of one dimension, which are the biases of linear maps.
- mean m of n numbers x: x R / (n m).
- normalisation, activation, softmax, dropout, product with a constant (scale, LayerScale): R.
- selecting, reshaping, joining: to where it came from. Copies of one tensor add up.
- convolution of the image, whose pixels x lie between l and h, the image's extremes (the z^B rule of Montavon et al.
  2017): x * (S w) - l * (S w+) - h * (S w-) with S = R / (w x - w+ l - w- h), (S w) the transposed convolution.

Gates and means do not occur in the original's transformer; gates follow its rule for products, means its rule for
pooling. Rotary embeddings, x cos + rot(x) sin, are two products with constants and a
sum. Relevance needs float64: its quotients of small sums leave it off by some thousandths in float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nullspace_cli.engine.errors import ModelError


class RelevanceRules(TorchFunctionMode):
    """Within this context results are what they always are, but `torch.autograd.grad` of them carries relevance.

    What depends on the input is told by `requires_grad`; parameters must not require gradients.

    Args:
        name: the model's, for the message.

    Raises:
        ModelError: an operation on what depends on the input has no rule.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _depends([*args, *kwargs.values()]):
            return func(*args, **kwargs)
        operation = func.__name__
        if rule := RULES.get(operation):
            result = rule(func, *args, **kwargs)
        else:
            result = func(*args, **kwargs)
            if operation not in MOVES and _depends(result):
                result = NotImplemented
        if result is NotImplemented:
            raise ModelError(
                f"{self._name} computes with '{operation}', through which relevance cannot be carried: there is no "
                f"published rule for it. Use rollout, attention-gradcam or a gradient method."
            )
        return result


class _Carried(torch.autograd.Function):
    """operation(*inputs); on the way back `rule` makes the inputs' relevance of the result's."""

    @staticmethod
    def forward(ctx: Any, operation: Callable[..., Tensor], rule: Callable[..., Any], *inputs: Tensor) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(*inputs)
        return operation(*inputs)

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> Any:
        return None, None, *ctx.rule(*relevance, *ctx.saved_tensors)


class _Handed(torch.autograd.Function):
    """A value computed from x elementwise or by normalising: all of its relevance is x's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> Any:
        return *relevance, None


def _depends(value: Any) -> bool:
    """Whether a value, or anything in it, depends on the input."""
    if isinstance(value, list | tuple):
        return any(map(_depends, value))
    return isinstance(value, Tensor) and value.requires_grad


def _shares(R: Tensor, operation: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """x * d<S, z>/dx of each input x, with z = operation(*inputs) and S = R / z held fixed."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        z = operation(*leaves)
        slopes = torch.autograd.grad(z, leaves, _quotient(R, z.detach()))
    return [x * slope for x, slope in zip(inputs, slopes, strict=True)]


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, 0.0, a / b)


def _detached(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    return func(*(arg.detach() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)


def _hand_down(func: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return _Handed.apply(x, _detached(func, x, *args, **kwargs))


def _linear(_: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    def rule(R: Tensor, x: Tensor) -> tuple[Tensor]:
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        parts = x.clamp(min=0), x.clamp(max=0)
        of_positive, of_negative = _shares(R, lambda p, n: F.linear(p, positive) + F.linear(n, negative), *parts)
        return (of_positive + of_negative,)

    return _Carried.apply(lambda x: F.linear(x, weight, bias), rule, x)


def _pixels(
    func: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    if not x.is_leaf:
        return NotImplemented  # a convolution of features: its rule is another one

    def centred(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        parts = (x, weight), (low, positive), (high, negative)
        z, least, most = (func(image, kernel, None, *args, **kwargs) for image, kernel in parts)
        return z - least - most

    def rule(R: Tensor, x: Tensor) -> tuple[Tensor]:
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        of_x, of_low, of_high = _shares(R, centred, x, low.expand_as(x), high.expand_as(x))
        return (of_x + of_low + of_high,)

    return _Carried.apply(lambda x: func(x, weight, bias, *args, **kwargs), rule, x)


def _matmul(_: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    return _Carried.apply(torch.matmul, lambda R, a, b: [r / 2 for r in _shares(R, torch.matmul, a, b)], a, b)


def _multiply(func: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
    if _depends(a) and _depends(b):
        return _Carried.apply(torch.mul, lambda R, a, b: (R / 2, R / 2), *torch.broadcast_tensors(a, b))
    return _Handed.apply(a if _depends(a) else b, _detached(func, a, b))


def _divide(func: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
    return NotImplemented if _depends(b) else _hand_down(func, a, b)


def _add(func: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
    for x, constant in ((a, b), (b, a)):
        if not _depends(constant) and (not isinstance(constant, Tensor) or constant.ndim <= 1):
            return _Handed.apply(x, _detached(func, a, b))

    def rule(R: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
        parts = _shares(R, torch.add, a, b)
        sums = [_sum(part) for part in parts]
        whole = sums[0].abs() + sums[1].abs()
        return [part * _quotient(_quotient(s.abs(), whole) * _sum(R), s) for part, s in zip(parts, sums, strict=True)]

    return _Carried.apply(torch.add, rule, *torch.broadcast_tensors(a, b))


def _sum(R: Tensor) -> Tensor:
    """Over all of an image's entries."""
    return R.sum(tuple(range(1, R.ndim)), keepdim=True)


def _mean(func: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    def mean(x: Tensor) -> Tensor:
        return func(x, *args, **kwargs)

    return _Carried.apply(mean, lambda R, x: _shares(R, mean, x), x)


RULES: dict[str, Callable[..., Tensor]] = {
    "linear": _linear,
    "conv2d": _pixels,
    "mean": _mean,
    **dict.fromkeys(("matmul", "__matmul__", "bmm"), _matmul),
    **dict.fromkeys(("mul", "mul_", "__mul__", "__rmul__", "__imul__"), _multiply),
    **dict.fromkeys(("div", "__truediv__"), _divide),
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), _add),
    **dict.fromkeys(("neg", "__neg__", "softmax", "dropout", "layer_norm", "rms_norm"), _hand_down),
    **dict.fromkeys(("gelu", "relu", "silu", "sigmoid", "tanh"), _hand_down),
}
"""The rule of each operation, by its name in torch."""

MOVES = frozenset(
    {
        *("__get__", "__getitem__", "select", "chunk", "split", "unbind"),
        *("cat", "stack", "clone", "contiguous", "to", "type_as", "expand", "expand_as", "repeat_interleave"),
        *("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute"),
    }
)
"""Operations that only move numbers: their derivative hands relevance to where it came from."""
