"""How many problems a solver works on at the same time: what fits into a core's caches, or fills a card."""

import torch

from nullspace_cli.engine.runtime.card_memory import free_memory

ON_CPU = 64
SHARE = 0.25
"""Of a card's free memory: several groups of images may be at work."""


def side_by_side(device: torch.device, numbers: int) -> int:
    """How many problems at once.

    Args:
        numbers: in float64, that each of them takes.
    """
    if device.type != "cuda":
        return ON_CPU
    return max(1, int(SHARE * free_memory(device)) // (8 * numbers))
