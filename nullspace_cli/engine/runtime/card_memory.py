"""How much memory a card has left."""

import torch


def free_memory(device: torch.device) -> int:
    """Bytes of a card that can still be taken: what nobody has, and what torch keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
