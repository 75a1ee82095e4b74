"""Rounding to the levels of a file in the metric of a linear map A, so that A z hardly moves.

Nearest rounding moves each entry by up to half a level, in every direction alike. Here the roundings q of z aim at a
small

    J(q) = ||A (q - z)||^2 + delta ||q - z||^2 = (q - z)^T H (q - z),   H = A^T A + delta I = G^T G,

with G lower triangular. J is then a sum over the entries in turn, each of which can make up for the errors of those
before it. Rounding each to the level nearest to what it should then be is Babai's nearest plane (1986), as in GPTQ
(Frantar et al. 2023). Added are:

- an order: the entries whose columns of A are short, given the columns of those that follow, come last (Wübben et al.
  2001), because nothing makes up for their errors;
- several partial roundings of each problem, the best so far (K-best decoding), which also find ways around the bounds;
- a descent: single entries go up or down one level as long as J falls.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.solvers.device_waits import finished

BLOCK = 64
"""Entries that are rounded one by one between two products with the whole factor."""


@dataclass(frozen=True)
class MetricRounding:
    """Rounds points in the metric of one A: made once by `of`, for any number of points; in the dtype of A.

    Attributes:
        gram: H = A^T A + delta I.
        order: the entries, in the order in which they are rounded.
        feedback: G in this order, its rows scaled to a unit diagonal.
        cost: the squared diagonal of G: the weight of an entry's distance from where it should be.
    """

    gram: Float[Tensor, "n n"]
    order: Int[Tensor, " n"]
    feedback: Float[Tensor, "n n"]
    cost: Float[Tensor, " n"]

    @classmethod
    def of(cls, A: Float[Tensor, "d n"], damping: float = 0.01) -> "MetricRounding":
        """Factorise H, by n^3 / 3 multiplications.

        Args:
            A: the map whose output should stay, not zero: the map itself and not a basis of its rows, for its singular
                values say what each direction costs.
            damping: delta as a multiple of A's mean squared column. A smaller one lets q stray further from z, for a
                smaller error as long as no bound stands in the way.
        """
        gram = A.mT @ A
        gram.diagonal().add_(damping * gram.diagonal().mean())
        order = _shortest_last(gram, min(A.shape))
        backwards = order.flip(0)
        G = torch.linalg.cholesky(gram[backwards][:, backwards]).mT.flip(0, 1)
        return cls(gram, order, G / G.diagonal()[:, None], G.diagonal().square())

    def round(
        self,
        z: Float[Tensor, "p n"],
        *,
        pull: Float[Tensor, "p n"] | None = None,
        lower: Float[Tensor, "..."] | float = 0.0,
        upper: Float[Tensor, "..."] | float = 1.0,
        levels: int = 255,
        width: int = 4,
        max_flips: int = 300,
    ) -> Float[Tensor, "p n"]:
        """Points q on the grid k / levels near z with a small A (q - z), which is A (q - x) for z from A z = A x.

        J(q) is at most that of nearest rounding. A z on the grid comes back as it is.

        Args:
            z: points within the bounds.
            pull: A^T e, of an error e of A q that is there already: to be made up for.
            lower, upper: bounds, broadcast to z; equal ones, on the grid or off it, fix an entry.
            levels: the largest k: 255 for 8 bits.
            width: partial roundings kept of each problem; time grows with it.
            max_flips: largest number of steps of the descent.

        Returns:
            q, inside the bounds; where no level lies between them, z.
        """
        low, high = (torch.as_tensor(bound, dtype=z.dtype, device=z.device).expand_as(z) for bound in (lower, upper))
        wanted, fixed = z * levels, low == high
        if pull is not None:
            wanted = torch.where(fixed, wanted, (z - torch.linalg.solve(self.gram, pull.mT).mT) * levels)
        low, high = (low * levels - 1e-6).ceil(), (high * levels + 1e-6).floor()  # a bound may be a level, nearly
        fixed |= low > high
        low, high = torch.where(fixed, wanted, low), torch.where(fixed, wanted, high)
        nearest = torch.minimum(torch.maximum(wanted.round(), low), high)
        decoded = self._decode(wanted, low, high, width)
        better = self._objective(decoded - wanted) < self._objective(nearest - wanted)
        k = torch.where(better[:, None], decoded, nearest)
        return torch.where(fixed, z, self._descend(k, wanted, low, high, max_flips) / levels)

    def _objective(self, error: Float[Tensor, "p n"]) -> Float[Tensor, " p"]:
        return ((error @ self.gram) * error).sum(1)

    def _decode(
        self,
        wanted: Float[Tensor, "p n"],
        low: Float[Tensor, "p n"],
        high: Float[Tensor, "p n"],
        width: int,
    ) -> Float[Tensor, "p n"]:
        """Round entry after entry, keeping the `width` partial roundings that cost least; all in levels."""
        wanted, low, high = (part[:, self.order] for part in (wanted, low, high))
        p, n = wanted.shape
        single = low == high  # no second choice
        below_high = torch.maximum(high - 1, low)
        total = wanted.new_full((p, width), torch.inf)
        total[:, 0] = 0.0  # one empty rounding; the other places are vacant
        errors = wanted.new_zeros(p, width, n)
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            within = self.feedback[start:stop, start:stop]
            # What the block's entries should be, replaced from the left by the errors as they are rounded.
            block = wanted[:, None, start:stop] - errors[:, :, :start] @ self.feedback[start:stop, :start].mT
            origin = torch.arange(width, device=wanted.device).expand(p, width)
            for i, entry in enumerate(range(start, stop)):
                centre = block[:, :, i]
                below = centre.floor().clamp(low[:, entry, None], below_high[:, entry, None])
                choices = torch.stack([below, below + 1], 1)
                costs = total[:, None] + self.cost[entry] * (choices - centre[:, None]).square()
                costs[:, 1].masked_fill_(single[:, entry, None], torch.inf)
                total, chosen = costs.flatten(1).topk(width, 1, largest=False)
                parent = chosen % width
                origin = origin.gather(1, parent)
                block = block.gather(1, parent[:, :, None].expand_as(block))
                error = choices.flatten(1).gather(1, chosen) - wanted[:, entry, None]
                block[:, :, i] = error
                block[:, :, i + 1 :] -= error[:, :, None] * within[i + 1 :, i]
            past = errors[:, :, :start]
            past.copy_(past.gather(1, origin[:, :, None].expand_as(past)))
            errors[:, :, start:stop] = block
        best = errors[torch.arange(p, device=total.device), total.argmin(1)]
        return torch.where(single, low, (wanted + best).round())[:, self.order.argsort()]

    def _descend(
        self,
        k: Float[Tensor, "p n"],
        wanted: Float[Tensor, "p n"],
        low: Float[Tensor, "p n"],
        high: Float[Tensor, "p n"],
        max_flips: int,
    ) -> Float[Tensor, "p n"]:
        """Move the one entry of each problem that lowers J most by one level, again and again."""
        k, slope = k.clone(), (k - wanted) @ self.gram  # half the gradient of J
        curvature, rows = self.gram.diagonal(), torch.arange(len(k), device=k.device)
        for flip in range(max_flips):
            step = -slope.sign()
            barred = (k + step < low) | (k + step > high)
            gain, entry = (2 * slope.abs() - curvature).masked_fill_(barred, -torch.inf).max(1)
            moving = gain > 1e-9 * curvature.max()
            if finished(~moving, flip, 16):
                break
            taken = torch.where(moving, step[rows, entry], 0.0)
            k[rows, entry] += taken
            slope += taken[:, None] * self.gram[entry]
        return k


def _shortest_last(gram: Float[Tensor, "n n"], count: int) -> Int[Tensor, " n"]:
    """Cholesky's method with the smallest pivot first, backwards; after `count` pivots what is left is nearly alike."""
    length = gram.diagonal().clone()  # squared, of what the chosen columns leave of each
    taken = torch.zeros_like(length)
    factor = gram.new_zeros(count, len(gram))
    last = []
    for k in range(count):
        pivot = (length + taken).argmin()[None]  # it stays on the device: a card need not be waited for
        last.append(pivot)
        row, column = gram.index_select(0, pivot)[0], factor[:k].index_select(1, pivot)[:, 0]
        factor[k] = (row - column @ factor[:k]) / length.index_select(0, pivot).sqrt()
        length -= factor[k].square()
        taken.index_fill_(0, pivot, torch.inf)
    rest = (length + taken).argsort(stable=True)[: len(gram) - count]
    return torch.cat([*last, rest]).flip(0)
