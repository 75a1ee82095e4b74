"""Vision transformers as the token methods see them: a private copy in float64, and what its attention did."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.transformers_twin import CLASS_AND_MEAN
from nullspace_cli.engine.runtime.autograd import differentiating, ordinary
from nullspace_cli.engine.runtime.module_copies import copied
from nullspace_cli.engine.runtime.out_of_memory import in_chunks

SUPPORTED = (
    "vision transformers with self-attention over all tokens that are read by their class token or the mean of their "
    "patch tokens: timm's VisionTransformer (ViT, DeiT also distilled, DINOv2, registers, SigLIP gap), Beit and Eva"
)
ATTENTION_NUMBERS = 2**26
"""How many attention probabilities one pass may hold: half a GiB in float64, and several times that with its graph."""


@dataclass(frozen=True)
class Trace:
    """What one forward pass did, still in its autograd graph. Tokens: the prefix (class, registers), then the patches.

    Attributes:
        source: what gradients reach: the images [b, 3, h, w], or the tokens [b, n, d] that enter the first block.
        attention: of each block, from the first, the probabilities [b, heads, n, n] that multiply the values.
        last_tokens: what the last block's attention reads, behind its norm [b, n, d].
        answer: logits, or the features of a model without a head [b, k].
        readers: how much of each token goes into the answer [n]: 1 for the class token; 1/2 each for the class and the
            distillation token; 1 / (number of patches) for each patch under global average pooling; half of either for
            the class token and the mean of all patches.
        grid: rows and columns of patches; their tokens come last.
    """

    source: Tensor
    attention: tuple[Float[Tensor, "b heads n n"], ...]
    last_tokens: Float[Tensor, "b n d"]
    answer: Float[Tensor, "b k"]
    readers: Float[Tensor, " n"]
    grid: tuple[int, int]

    def patches(self, values: Float[Tensor, "... n"]) -> Float[Tensor, "... gh gw"]:
        """One number for each token as a map of patches; the prefix is dropped."""
        gh, gw = self.grid
        return values[..., -gh * gw :].unflatten(-1, self.grid)

    def read(self, matrices: Float[Tensor, "... n m"]) -> Float[Tensor, "... m"]:
        """The rows that the answer is read from, averaged: of a class-token model the row of the class token."""
        return torch.einsum("n,...nm->...m", self.readers, matrices)


class WatchedTransformer:
    """A vision transformer that shows its attention, computed in float64.

    It is a copy, on `model.device`: the model itself, which other threads may be using, is neither hooked nor switched
    nor cast.

    Raises:
        ModelError: the architecture has no square self-attention that can be watched, or its answer is read by other
            means than the class token or a mean.
    """

    def __init__(self, model: Model) -> None:
        if reason := obstacle(model):
            raise _unsupported(model, reason)
        self.model = model
        self._module = _float64_copy(model.module, model.device)
        for block in self._blocks:
            block.attn.fused_attn = False  # a fused kernel never holds the probabilities

    def trace(self, images: Float[Tensor, "b c h w"], *, to_pixels: bool = False) -> Trace:
        """Run the copy on normalised images and keep what its attention did.

        Args:
            to_pixels: let gradients reach the images; else they end at the first block, which spares the stem.

        Raises:
            ModelError: the attention is not over all tokens.
        """
        pixels = images.detach().to(self.model.device, torch.float64, copy=True).requires_grad_(to_pixels)
        entered, last, attention = [], [], []

        def enter(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            tokens = args[0] if to_pixels else args[0].detach().requires_grad_()
            entered.append(tokens)
            return tokens, *args[1:]

        with ExitStack() as hooks:
            hooks.enter_context(self._blocks[0].register_forward_pre_hook(enter))
            hooks.enter_context(self._blocks[-1].attn.register_forward_pre_hook(lambda _, args: last.append(args[0])))
            for block in self._blocks:
                drop = block.attn.attn_drop
                hooks.enter_context(drop.register_forward_hook(lambda _, __, output: attention.append(output)))
            answer = self._module(pixels)

        trace = Trace(
            source=pixels if to_pixels else entered[0],
            attention=tuple(attention),
            last_tokens=last[0],
            answer=answer,
            readers=self._readers(entered[0].shape[1], pixels),
            grid=self._grid(images),
        )
        self._require_square(trace)
        return trace

    def pass_size(self, images: Float[Tensor, "b c h w"]) -> int:
        """How many of these images to look at in one pass: `batch_size`, or fewer where memory demands it."""
        gh, gw = self._grid(images)
        tokens = gh * gw + self._prefix
        numbers = sum(block.attn.num_heads for block in self._blocks) * tokens**2
        return max(1, min(self.model.batch_size, ATTENTION_NUMBERS // numbers))

    @property
    def _blocks(self) -> Any:
        return self._module.blocks

    @property
    def _prefix(self) -> int:
        return int(self._module.num_prefix_tokens)  # type: ignore[arg-type]

    def _grid(self, images: Tensor) -> tuple[int, int]:
        embed: Any = self._module.patch_embed
        gh, gw = embed.dynamic_feat_size(tuple(images.shape[-2:]))
        return int(gh), int(gw)

    def _readers(self, tokens: int, like: Tensor) -> Float[Tensor, " n"]:
        readers = torch.zeros(tokens, dtype=like.dtype, device=like.device)
        if self._module.global_pool == "token":
            readers[: 2 if hasattr(self._module, "dist_token") else 1] = 1
        elif self._module.global_pool == CLASS_AND_MEAN:
            readers[0], readers[self._prefix :] = 1, 1 / (tokens - self._prefix)
        else:
            readers[0 if getattr(self._module, "pool_include_prefix", False) else self._prefix :] = 1
        return readers / readers.sum()

    def _require_square(self, trace: Trace) -> None:
        n = self._prefix + trace.grid[0] * trace.grid[1]
        expected = [(len(trace.answer), block.attn.num_heads, n, n) for block in self._blocks]
        if [tuple(A.shape) for A in trace.attention] != expected:
            raise _unsupported(self.model, "has attention that is not one square matrix over all tokens for each head")


def obstacle(model: Model) -> str | None:
    """What keeps the token methods from explaining a model, as a clause for a message; None where nothing does."""
    module = model.module
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or len(blocks) == 0:
        return "has no single sequence of transformer blocks"
    for block in blocks:
        attention = getattr(block, "attn", None)
        if not all(hasattr(attention, name) for name in ("attn_drop", "fused_attn", "num_heads")):
            return f"has blocks ({type(block).__name__}) without plain self-attention"
        if hasattr(attention, "lambda_init"):
            return "attends by the difference of two attention maps"
    embed = getattr(module, "patch_embed", None)
    if not (hasattr(module, "num_prefix_tokens") and hasattr(embed, "dynamic_feat_size")):
        return "has no grid of patch tokens"
    pooling = getattr(module, "global_pool", None)
    if pooling not in ("token", "avg", CLASS_AND_MEAN):
        return f"reads its answer by {pooling!r} pooling" if pooling else "answers with all of its tokens"
    return None


@differentiating
def explain_by_passes(
    model: Model | WatchedTransformer,
    images: Float[Tensor, "b c h w"],
    classes: Int[Tensor, " b"] | None,
    explain: Callable[[WatchedTransformer, Tensor, Tensor | None], Float[Tensor, "p gh gw"]],
) -> Float[Tensor, "b gh gw"]:
    """The maps that `explain` makes of each pass's images and classes, as float64 on the CPU.

    Raises:
        ModelError: the model is not supported.
    """
    maps = []
    transformer = model if isinstance(model, WatchedTransformer) else WatchedTransformer(model)

    def look(start: int, stop: int) -> None:
        part = slice(start, stop)
        chosen = None if classes is None else classes[part]
        maps.append(explain(transformer, images[part], chosen).detach().cpu())

    in_chunks(look, len(images), transformer.pass_size(images))
    return torch.cat(maps)


def _float64_copy(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy in double precision, in evaluation mode. No copy in the original precision is made on the way."""

    def widened(tensor: Tensor) -> Tensor:
        return ordinary(tensor.detach().to(device, torch.float64 if tensor.is_floating_point() else tensor.dtype))

    return copied(module, widened, requires_grad=False).eval()


def _unsupported(model: Model, reason: str) -> ModelError:
    return ModelError(
        f"{model.name} ({type(model.module).__name__}) {reason}: attention maps and relevance are not defined for it. "
        f"Supported are {SUPPORTED}. For any other model use a gradient method, or gradcam where there is a map of "
        f"features."
    )
