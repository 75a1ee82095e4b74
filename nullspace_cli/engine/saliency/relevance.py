"""Relevance of attention and of pixels, propagated through a vision transformer's own forward pass.

Chefer, Gur and Wolf 2021 (arXiv 2012.09838); `attribution_rules` holds what is done at each operation. All maps are
computed in float64 and returned as float64 on the CPU, not normalised. Where the published method reads the row of the
class token, the rows that the model's answer is read from are averaged (`Trace.readers`). All raise `ModelError` where
the architecture is not supported or uses an operation that has no rule. In the place of a model its
`WatchedTransformer` may be given, which is else made anew by every call.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.runtime.autograd import differentiating
from nullspace_cli.engine.saliency.attribution_rules import RelevanceRules
from nullspace_cli.engine.saliency.gradients import explained
from nullspace_cli.engine.saliency.transformer import Trace, WatchedTransformer, explain_by_passes


def attribution(
    model: Model | WatchedTransformer,
    images: Float[Tensor, "b c h w"],
    classes: Int[Tensor, " b"] | None = None,
    *,
    start_layer: int = 0,
) -> Float[Tensor, "b gh gw"]:
    """Transformer attribution: the class row of C = (I + E_B) ... (I + E_start), E = mean_h (dS/dA * R_A)+.

    Chefer et al. 2021, eq. 13 and 14; R_A is the relevance of a layer's attention A, S the explained scalar
    (`gradients.explained`). The map is C - I: the identity, the residual connections alone, is 0 in the class row's
    patches, and would add the same number to every patch where the answer is a mean.

    Args:
        start_layer: the first layer of the product, from 0, the default of the published function; the published
            evaluation uses 1.
    """

    def explain(transformer: WatchedTransformer, images: Tensor, classes: Tensor | None) -> Tensor:
        trace = transformer.trace(images)
        gradients = torch.autograd.grad(explained(transformer.model, trace.answer, classes).sum(), trace.attention)
        _, relevances = _propagated(transformer, images, classes, lambda trace: trace.attention)
        row = torch.zeros(len(images), len(trace.readers), dtype=torch.float64, device=trace.readers.device)  # of C - I
        for dA, R in reversed(list(zip(gradients, relevances, strict=True))[start_layer:]):
            E = (dA * R).relu().mean(1)
            row = row + torch.einsum("bn,bnm->bm", trace.readers + row, E)
        return trace.patches(row)

    return explain_by_passes(model, images, classes, explain)


def partial_lrp(
    model: Model | WatchedTransformer, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b gh gw"]:
    """Partial LRP: the class row of the last layer's mean_h (R_A)+ (Voita et al. 2019; Chefer et al. 2021, section 4).

    The positive part is the published evaluation's.
    """

    def explain(transformer: WatchedTransformer, images: Tensor, classes: Tensor | None) -> Tensor:
        trace, (relevance,) = _propagated(transformer, images, classes, lambda trace: trace.attention[-1:])
        return trace.patches(trace.read(relevance.relu().mean(1)))

    return explain_by_passes(model, images, classes, explain)


def full_lrp(
    model: Model | WatchedTransformer, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b h w"]:
    """Full LRP: the relevance of each pixel, summed over its channels (Chefer et al. 2021, section 4), signed.

    It sums to 1 less the shares of class token, registers and position embeddings.
    """

    def explain(transformer: WatchedTransformer, images: Tensor, classes: Tensor | None) -> Tensor:
        _, (relevance,) = _propagated(transformer, images, classes, lambda trace: (trace.source,), to_pixels=True)
        return relevance.sum(1)

    return explain_by_passes(model, images, classes, explain)


@differentiating
def carries_relevance(model: Model, *, to_pixels: bool = False) -> bool:
    """Whether relevance can be carried to the first block, or to the pixels, by a pass of shapes without numbers."""
    shapes = replace(model, device=torch.device("meta"))
    image = torch.zeros(1, *model.transform.input_size)
    try:
        with RelevanceRules(model.name):
            WatchedTransformer(shapes).trace(image, to_pixels=to_pixels)
    except ModelError:
        return False
    return True


def _propagated(
    transformer: WatchedTransformer,
    images: Tensor,
    classes: Tensor | None,
    targets: Callable[[Trace], tuple[Tensor, ...]],
    *,
    to_pixels: bool = False,
) -> tuple[Trace, tuple[Tensor, ...]]:
    """The relevance of what `targets` picks from a forward pass."""
    with RelevanceRules(transformer.model.name):
        trace = transformer.trace(images, to_pixels=to_pixels)
    start = _start(transformer.model, trace.answer, classes)
    return trace, torch.autograd.grad(trace.answer, targets(trace), start)


def _start(model: Model, answer: Tensor, classes: Tensor | None) -> Float[Tensor, "b k"]:
    """The answer's relevance, which sums to 1: all on the class; without a head, each feature's share of ||f||^2.

    Both are shares in the explained scalar, the class's logit or ||f||^2 / 2.
    """
    answer = answer.detach()
    if not model.has_head:
        return answer.square() / answer.square().sum(1, keepdim=True)
    chosen = answer.argmax(1) if classes is None else classes.to(answer.device)
    return F.one_hot(chosen, answer.shape[1]).to(answer.dtype)
