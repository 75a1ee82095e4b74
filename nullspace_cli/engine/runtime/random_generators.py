"""Random numbers by a seed and by what they are for, so that two draws of one seed have nothing in common."""

import numpy as np
import torch


def stream(seed: int, purpose: int) -> torch.Generator:
    """A generator on the CPU whose numbers are independent of those of every other seed or purpose.

    Generators made by `manual_seed` of one seed give one sequence of numbers: noise and its control would be alike.

    Args:
        seed: the user's.
        purpose: a number that tells the draws of one seed apart.
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, purpose)).generate_state(1)[0]))
