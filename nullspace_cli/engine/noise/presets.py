"""How noise is learned: optimiser, learning rate, length, and which images make up each step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, optim

ProtocolName = Literal["adamw", "sgd", "paper-accum"]
STEP_IMAGES = 256
"""Images in one optimiser step, in the paper's code as in CPAL 2025."""


@dataclass(frozen=True)
class Protocol:
    """An optimiser with its defaults.

    Attributes:
        lr, rounds, fraction: learning rate, passes over the images, share of the training images.
        optimizer: makes it for one noise.
        decay: by (steps done, steps in all), what the learning rate is multiplied by.
    """

    lr: float
    rounds: int
    fraction: float
    optimizer: Callable[[Tensor, float], optim.Optimizer]
    decay: Callable[[int, int], float]


def _cosine(done: int, total: int) -> float:
    return (1 + math.cos(math.pi * done / total)) / 2


def _tenths(done: int, total: int) -> float:
    """A tenth after 150, 300 and 400 rounds of 500 each, and after the same shares of any other number of rounds."""
    return 0.1 ** sum(10 * done >= share * total for share in (3, 6, 8))


PROTOCOLS: dict[ProtocolName, Protocol] = {
    # CPAL 2025 (arXiv 2403.10476). AdamW's usual weight decay would pull the noise to the trivial answer, 0.
    "adamw": Protocol(0.02, 30, 0.1, lambda noise, lr: optim.AdamW([noise], lr, weight_decay=0.0), _cosine),
    # The paper's, with the gradient of each step alone.
    "sgd": Protocol(0.01, 500, 1.0, lambda noise, lr: optim.SGD([noise], lr), _tenths),
    # The paper's as its authors ran it: the gradient is never zeroed, which is momentum 1 without damping.
    "paper-accum": Protocol(0.01, 500, 1.0, lambda noise, lr: optim.SGD([noise], lr, momentum=1.0), _tenths),
}


def chosen_images(count: int, fraction: float, seed: int) -> list[int]:
    """A random share of `count` images, in a random order; at least one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: max(1, round(fraction * count))].tolist()


def steps_of_round(count: int, size: int, seed: int, number: int) -> list[list[int]]:
    """The images of every step of a round: each of `count` images once, at most `size` in a step.

    Image i stays in lane i mod `size`, every step takes one image from each lane, and the lanes are shuffled afresh in
    each round. Processes that share the lanes so have equal parts of every step and read no image of another's, and
    the steps are the same for any number of processes.
    """
    generator = torch.Generator().manual_seed((seed << 20) + number + 1)
    rows = -(-count // size)
    keys = torch.rand(rows, size, generator=generator, dtype=torch.float64)
    image = torch.arange(rows * size).reshape(rows, size)
    keys[image >= count] = 2.0  # behind all others
    image = image.gather(0, keys.argsort(0))
    return [[i for i in step if i < count] for step in image.tolist()]


def owner(image: int, size: int, world: int) -> int:
    """The process whose image this is: lanes are dealt out in turns."""
    return image % size % world
