"""A CUDA device made of CPU memory, so that code for a card can be run, and be seen to fail, where there is none.

Within `simulated_card()` every tensor that is asked for on "cuda" computes on the CPU but says that it is on cuda:0.
What a real card refuses is refused with the same words: tensors of two devices in one operation, `.numpy()` of a tensor
on the card, a generator of the wrong device. What moves between card and host is counted, where the host waits, and
which copies hold it up.

    python -m tests.simulated_card -m nullspace_cli basis demo --device cuda

Not simulated: the card's own kernels, their speed, memory and rounding, the types that they lack, the order in which
streams get on, several cards. Python code of torch's own counts as one operation. Autocast of the card is the CPU's,
for whatever runs within.
"""

from tests.simulated_card.patches import simulated_card
from tests.simulated_card.traffic import Counts, Traffic

__all__ = ["Counts", "Traffic", "simulated_card"]
