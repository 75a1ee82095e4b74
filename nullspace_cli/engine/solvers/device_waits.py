"""What the solvers' loops ask of the device: on a card the host waits for each answer, and for all work before it.

One loop solves many problems side by side, so that what it asks does not grow with their number.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def finished(done: Bool[Tensor, "p *one"], step: int, every: int) -> bool:
    """Whether all problems of a loop are done; on a card asked for in every `every`-th step alone, from `step` 0 on.

    For loops that change nothing of a problem that is done: a few steps too many leave the results as they are.
    """
    return (step % every == every - 1 or not done.is_cuda) and bool(done.all())


def places(marked: Bool[Tensor, " p"]) -> Int[Tensor, " k"]:
    """The places of what is marked: asked for once, where a mask as an index asks again for every tensor."""
    return torch.nonzero(marked)[:, 0]
