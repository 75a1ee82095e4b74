"""How much memory a card has left, and how many samples of some work that is room for."""

from collections.abc import Callable

import torch

from nullspace_cli.engine.errors import is_out_of_memory
from nullspace_cli.engine.runtime.out_of_memory import release_memory

SHARE = 0.8
"""Of the free memory, what may be planned with: blocks leave gaps, and libraries take workspaces of their own."""

TRIALS = (1, 2, 8)
"""Samples at once in the trials. The first is for what is made once, as the libraries' handles."""


def free_memory(device: torch.device) -> int:
    """Bytes of a card that can still be taken: what nobody has, and what torch keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def samples_at_once(work: Callable[[int], object], device: torch.device, most: int) -> int:
    """How many samples a card has room for: the power of two below, so that others on the card seldom change it.

    Measured on trials, whose memory grows by as much with each sample. Torch's record of the largest use of the card's
    memory starts anew.

    Args:
        work: does it with so many samples.
        most: more than that is not asked for.
    """
    peaks: list[int] = []
    for count in TRIALS:
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            work(count)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    release_memory()
    if len(peaks) < len(TRIALS):
        return TRIALS[max(0, len(peaks) - 1)]
    each = max(1.0, (peaks[2] - peaks[1]) / (TRIALS[2] - TRIALS[1]))
    once = max(0.0, peaks[1] - TRIALS[1] * each)
    count = int((SHARE * free_memory(device) - once) / each)
    return 2 ** (max(1, min(count, most)).bit_length() - 1)
