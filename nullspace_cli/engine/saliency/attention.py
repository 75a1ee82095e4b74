"""Maps from a vision transformer's attention and tokens: raw attention, rollout, and GradCAM on either.

All return one map [gh, gw] for each image on its grid of patches, not normalised, as float64 on the CPU, computed in
float64. They see an image through its tokens alone: noise in the null space of the patch embedding does not move them.
Where the published method reads the row of the class token, the rows that the model's answer is read from are averaged
(`Trace.readers`). All raise `ModelError` for architectures that are not supported. In the
place of a model its `WatchedTransformer` may be given, which is else made anew by every call.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.saliency.gradients import explained
from nullspace_cli.engine.saliency.transformer import WatchedTransformer, explain_by_passes


def raw_attention(
    model: Model | WatchedTransformer, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b gh gw"]:
    """The last layer's attention from the class token to the patches, mean over heads: mean_h A_B[h, 0, :].

    The "raw attention" that Chefer et al. 2021 (arXiv 2012.09838, section 4) compare with. The class plays no part.
    """

    def explain(transformer: WatchedTransformer, images: Tensor, _: Tensor | None) -> Tensor:
        with torch.no_grad():
            trace = transformer.trace(images)
            return trace.patches(trace.read(trace.attention[-1].mean(1)))

    return explain_by_passes(model, images, classes, explain)


def rollout(
    model: Model | WatchedTransformer, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b gh gw"]:
    """Attention rollout: the class row of M_B ... M_1, M = 0.5 mean_h A + 0.5 I with its rows scaled to sum to 1.

    Abnar and Zuidema 2020 (arXiv 2005.00928, section 3): each layer mixes tokens by its attention, half and half with
    the residual connection. The class plays no part.
    """

    def explain(transformer: WatchedTransformer, images: Tensor, _: Tensor | None) -> Tensor:
        with torch.no_grad():
            trace = transformer.trace(images)
            row = trace.readers.expand(len(images), -1)
            for A in reversed(trace.attention):
                M = 0.5 * A.mean(1) + 0.5 * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
                row = torch.einsum("bn,bnm->bm", row, M / M.sum(-1, keepdim=True))
            return trace.patches(row)

    return explain_by_passes(model, images, classes, explain)


def attention_gradcam(
    model: Model | WatchedTransformer, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b gh gw"]:
    """GradCAM with heads for channels: (mean_h w_h A_B[h, 0, :])+, w_h the mean over patches of dS/dA_B[h, 0, :].

    The baseline "GradCAM" of Chefer et al. 2021 (section 4): the class token's row of the last layer's attention is the
    map of features. S is the explained scalar (`gradients.explained`).
    """

    def explain(transformer: WatchedTransformer, images: Tensor, classes: Tensor | None) -> Tensor:
        trace = transformer.trace(images)
        A = trace.attention[-1]
        (dA,) = torch.autograd.grad(explained(transformer.model, trace.answer, classes).sum(), A)
        rows, gradients = (trace.patches(trace.read(x)) for x in (A, dA))
        return (gradients.mean((2, 3), keepdim=True) * rows).mean(1).relu()

    return explain_by_passes(model, images, classes, explain)


def token_gradcam(
    model: Model | WatchedTransformer, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b gh gw"]:
    """GradCAM (Selvaraju et al. 2017, eq. 1 and 2) on tokens: (sum_k w_k T[:, k])+, w_k the mean over patches of dS/dT.

    T [n, d] are the patch tokens as the last block's attention reads them, behind its norm: the last place where patch
    tokens still reach the answer of a model with a class token. S is the explained scalar (`gradients.explained`).
    """

    def explain(transformer: WatchedTransformer, images: Tensor, classes: Tensor | None) -> Tensor:
        trace = transformer.trace(images)
        (gradients,) = torch.autograd.grad(explained(transformer.model, trace.answer, classes).sum(), trace.last_tokens)
        tokens, slopes = (trace.patches(x.mT) for x in (trace.last_tokens, gradients))
        return (slopes.mean((2, 3), keepdim=True) * tokens).sum(1).relu()

    return explain_by_passes(model, images, classes, explain)
