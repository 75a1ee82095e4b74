"""What noise is learned by (paper, eq. 6)."""

import torch
from jaxtyping import Float
from torch import Tensor


def loss(answers: Float[Tensor, "*noises b k"], clean: Float[Tensor, "b k"], p: float) -> Float[Tensor, "*noises b"]:
    """|| f(x with v) - f(x) ||_p of each image, f the logits, or the features of a model without a head."""
    return torch.linalg.vector_norm(answers - clean, ord=p, dim=-1)
