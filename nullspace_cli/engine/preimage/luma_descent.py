"""Whole-numbered luma coefficients of a JPEG by which its readers' 8-bit views stay what they are.

Near real-valued coefficients that keep the views, but for roundings, whole ones are looked for in three steps. The
first takes, block by block, the nearest ones in the metric of the resize, by the distance from the middle of where all
channels' values lie within their cells. The second tries many that are nearly as near, then changes of one or two
coefficients, and keeps what lessens the error of the views as they are with all roundings and clippings of decoder and
resize. The third gives the source its own blocks back where that does not help: wherever a value is off by more than
two levels, under a last few wrong ones, and where that brings the wrong ones within a bound, as long as most of the
change is left.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain, repeat

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from nullspace_cli.engine.files.jpeg_decoding import LumaDecoder
from nullspace_cli.engine.preimage.block_views import COMFORT, EDGE, SIDE, BlockView, Grid, Neighbourhood, Plane, room
from nullspace_cli.engine.preimage.closest_vectors import closest_vectors
from nullspace_cli.engine.runtime.stages import stage

Coefficients = Int[NDArray[np.int32], "n m 8 8"]
Blocks = Bool[NDArray[np.bool_], "n m"]

LARGEST = 1023
"""Of a coefficient that baseline JPEG has a code for; libjpeg ends the process at larger ones."""

LOOSE = 0.001
"""Weight of a level off the wanted pixels against one off the wanted view."""

DESCENTS = (1, 1)
"""Sweeps over all blocks; after each number of them the picture is decoded, clipped and resized anew."""

BEAM, LEAVES = 4, 32
"""Beginnings that the search for the nearest keeps, and the ends of them that are tried."""

SEEN = 0.1
"""Share of `LOOSE` from which on the view's metric counts: a coefficient that it hardly sees is as it is wanted."""

CANDIDATES = 32
"""Changes of a block that are tried, those that promise most."""

LAST, MANY = 100, 160
"""Wrong values from which on more are tried: that many."""

TOGETHER = 256
"""Blocks that are tried at a time: the numbers of more would leave the cache."""

SLACK = 1e-9
"""Of what is wrong around a block: a change that leaves it as it is is made, too, for it may open the way to others."""

FINE = 512
"""Of all changes, those that move the view least: chance ones among these are tried, too."""

JITTER = 0.1
"""Of the promise of a change: other ones are tried in the next round."""

ROUNDS = 24
"""Of trials, at most."""

GOOD, PROGRESS, PATIENCE = 0.9, 0.97, 3
"""Share of the wrong values that a round must leave at most: of the nearest, of small steps; rounds of these that may
fail to."""

FAR = 2 + EDGE
"""Levels off the wanted one, unrounded, from which on a value is to be put right at any rate."""

FEW = 150
"""Wrong values that blocks are given back for: of more, the mark would go."""

GIVEN_BACK = (0.3, 0.3, 0.1, 0.0)
"""Share of a wrong value that a block must have to be given back, time after time."""

KEPT = 0.9
"""Share of the change's energy that must be left."""

TOLERATED, SPENT = 0.01, 0.25
"""Share of a view's values that may be wrong, and of the change's energy that may go to come to that."""

AHEAD = 0.05
"""Share of what may be wrong that is aimed for at a time besides what is too much."""


@dataclass(eq=False)
class LumaDescent:
    """One search.

    Attributes:
        views: of the picture's readers.
        own: the source's coefficients.
        wanted: real-valued ones.
        free: the blocks of the change that is wanted. Those next to them follow as far as their views need.
    """

    decoder: LumaDecoder
    views: Sequence[BlockView]
    own: Coefficients
    wanted: Float[NDArray[np.float64], "n m 8 8"]
    free: Blocks
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.coefficients: Coefficients = np.where(self.free[..., None, None], _codable(self.wanted), self.own)
        read = np.logical_or.reduce([view.read for view in self.views])
        self._movable: Blocks = binary_dilation(self.free, np.ones((3, 3), bool)) & read
        rows, columns = np.nonzero(self.free | self._movable)
        self._changing = rows, columns
        self._judged = [view.reads(self._movable) for view in self.views]
        self._spacing = tuple(max(sides) for sides in zip(*(view.spacing for view in self.views), strict=True))
        self._table = self.decoder.table.astype(np.float64)
        self._pixels = self.decoder(self.own)

    def __call__(self) -> Coefficients:
        """The best that was found."""
        self._see()
        for sweeps in DESCENTS:
            if not self._wrong():
                break
            stage(f"rounding the coefficients, {self._wrong()} values off")
            self._descend(sweeps)
            self._see()
        stage(f"repairing {self._wrong()} values")
        self._mend()
        self._give_back()
        self._settle()
        return self.coefficients

    def _see(self) -> None:
        at = self._changing
        self._pixels[at] = self.decoder(self.coefficients[at][:, None], at)[:, 0]
        for view in self.views:
            view.see(self._pixels)

    def _wrong(self, off: float = EDGE) -> int:
        """How many values are off by more, of those that read a block that may change."""
        return sum(
            int((np.abs(view.error()) > off).swapaxes(1, 2)[judged].sum())
            for view, judged in zip(self.views, self._judged, strict=True)
        )

    def _classes(self, mask: Blocks) -> Iterator[Grid]:
        """The blocks in groups of which no value reads two, some at a time."""
        rows, columns = np.nonzero(mask)
        down, across = self._spacing
        colour = (rows % down) * across + columns % across
        for one in np.unique(colour):
            chosen = np.flatnonzero(colour == one)
            for start in range(0, len(chosen), TOGETHER):
                some = chosen[start : start + TOGETHER]
                yield rows[some], columns[some]

    # The nearest whole numbers, all roundings apart

    def _descend(self, sweeps: int) -> None:
        """minimise ||R d - s||^2 + loose ||p - w||^2 in whole coefficients: d the change, s the views' wish."""
        fields = self._wishes()
        for _ in range(sweeps):
            for blocks in self._classes(self.free & self._movable):
                hoods = [view.around(blocks) for view in self.views]
                k = self.coefficients[blocks]
                moved = self._nearest(blocks, hoods, fields)[:, 0]
                self.coefficients[blocks] = moved
                for hood, want in zip(hoods, fields, strict=True):
                    hood.move(want, (moved - k) * self._table)

    def _wishes(self) -> list[Plane]:
        return [view.wish(self.free) for view in self.views]

    def _nearest(
        self, blocks: Grid, hoods: Sequence[Neighbourhood], fields: Sequence[Plane], count: int = 1
    ) -> Int[NDArray[np.int32], "N K 8 8"]:
        """Coefficients of each block by which, with those around it as they are, that is least; the best first."""
        k, q = self.coefficients[blocks], self._table.ravel()
        slopes = LOOSE * (k - self.wanted[blocks]) * self._table
        slopes += _total(hood.slopes(hood.of_field(want)) for hood, want in zip(hoods, fields, strict=True))
        grams = [hood.grams() for hood in hoods]
        gains = _total(np.einsum("nuu,nvv->uv", down, across) / len(k) for down, across in grams).ravel()
        seen = np.flatnonzero(gains > SEEN * LOOSE)
        order = seen[np.argsort(-(gains[seen] + LOOSE) * q[seen] ** 2)]
        u, v = np.divmod(order, SIDE)
        H = _total(down[:, u[:, None], u] * across[:, v[:, None], v] for down, across in grams)
        H += LOOSE * np.eye(len(order))
        H *= np.outer(q[order], q[order])
        found = closest_vectors(H, slopes.reshape(len(k), -1)[:, order] * q[order], BEAM, count)
        steps = np.zeros((*found.shape[:2], SIDE**2), np.int32)
        steps[..., order] = found
        return _codable(k[:, None] + steps.reshape(*found.shape[:2], SIDE, SIDE))

    # Trials, with all roundings

    def _mend(self) -> None:
        """Trials all around what is wrong, as long as that gets less: of what is nearest, then of small steps."""
        self._rounds(self._try_nearest, GOOD, 0)
        self._rounds(self._try_steps, PROGRESS, PATIENCE)

    def _rounds(self, attempt: Callable[[Blocks, int], None], progress: float, patience: int) -> None:
        fewest, idle = np.inf, 0
        for _ in range(ROUNDS):
            count = self._wrong()
            idle = 0 if count < progress * fewest else idle + 1
            fewest = min(count, fewest)
            if not count or idle > patience:
                return
            attempt(self._movable & self._under(), count)

    def _try_nearest(self, mask: Blocks, count: int) -> None:
        fields = self._wishes()
        for blocks, hoods in self._amiss(mask):
            k = self.coefficients[blocks]
            self._try(blocks, hoods, self._nearest(blocks, hoods, fields, LEAVES))
            for hood, want in zip(hoods, fields, strict=True):
                hood.move(want, (self.coefficients[blocks] - k) * self._table)

    def _try_steps(self, mask: Blocks, count: int) -> None:
        for blocks, hoods in self._amiss(mask):
            steps = self._promising(hoods, MANY if count <= LAST else CANDIDATES)
            self._try(blocks, hoods, _codable(self.coefficients[blocks][:, None] + steps))

    def _amiss(self, mask: Blocks) -> Iterator[tuple[Grid, list[Neighbourhood]]]:
        """As `_classes`, those that wrong values read by now."""
        for blocks in self._classes(mask):
            hoods = [view.around(blocks) for view in self.views]
            some = np.flatnonzero(_total(hood.cost() for hood in hoods)[:, 0] > 0)
            if len(some):
                yield (blocks[0][some], blocks[1][some]), [hood.some(some) for hood in hoods]

    def _try(self, at: Grid, hoods: Sequence[Neighbourhood], candidates: Int[NDArray[np.int32], "N K 8 8"]) -> None:
        """Change blocks where the best of the candidates lessens what is wrong: it is found in float32, and judged."""
        own = self.decoder(self.coefficients[at][:, None], at)
        pixels = self.decoder(candidates, at)
        trials = [hood.tried(pixels.astype(np.float32) - own) for hood in hoods]
        costs = _total(hood.cost(trial.shift) for hood, trial in zip(hoods, trials, strict=True))
        each, best = np.arange(len(costs)), costs.argmin(1)
        exact = [hood.tried(pixels[each, best][:, None].astype(np.float64) - own) for hood in hoods]
        before = _total(hood.cost() for hood in hoods)[:, 0]
        after = _total(hood.cost(trial.shift) for hood, trial in zip(hoods, exact, strict=True))[:, 0]
        better = np.flatnonzero(after < before + SLACK)
        self.coefficients[at[0][better], at[1][better]] = candidates[better, best[better]]
        for hood, trial in zip(hoods, exact, strict=True):
            hood.some(better).apply(trial.some(better), np.zeros(len(better), np.intp))

    def _promising(self, hoods: Sequence[Neighbourhood], tried: int) -> Int[NDArray[np.int32], "N K 8 8"]:
        """Steps of one coefficient, or of two, that bring each block's values nearest to their cells, roundings apart.

        Of two whose responses are much alike, a step of one and a step back of the other are finer than either.
        """
        slopes = _total(hood.slopes(_excess(hood.error)) for hood in hoods)
        count, q = len(slopes), self._table.ravel()
        slopes = (slopes.reshape(count, -1) * q).astype(np.float32)
        metric = _total(
            np.einsum("nuw,nvx->nuvwx", *hood.grams()).reshape(count, SIDE**2, SIDE**2) for hood in hoods
        ).astype(np.float32) * np.outer(q, q).astype(np.float32)
        own = np.einsum("nii->ni", metric)
        mixed, alone = metric[:, _FIRST, _SECOND], own[:, _FIRST] + own[:, _SECOND]
        g, h = slopes[:, _FIRST], slopes[:, _SECOND]
        curvature = np.concatenate([own, alone + 2 * mixed, alone - 2 * mixed], axis=1) / 2
        promise = np.concatenate([np.abs(slopes), np.abs(g + h), np.abs(g - h)], axis=1) - curvature
        promise += JITTER * self.rng.standard_normal(promise.shape, np.float32)
        best = np.argpartition(-promise, tried // 2, axis=1)[:, : tried // 2]
        finest = np.argpartition(curvature.mean(0), FINE)[:FINE]
        best = np.concatenate([best, self.rng.choice(finest, (count, tried // 2))], axis=1)
        steps = _MOVES[best]
        along = np.einsum("nki,ni->nk", steps, slopes)
        signs = np.where(along > 0, -1, 1)
        signs[:, tried // 2 :] = self.rng.choice([-1, 1], (count, tried // 2))
        return (steps * signs[..., None]).reshape(count, tried, SIDE, SIDE).astype(np.int32)

    # Giving back

    def _give_back(self) -> None:
        """The source's own blocks under values that are far off, until none is; then under a last few wrong ones.

        Of the latter, as long as enough of the change is left. They may change again, by as much as those around need.
        """
        self._spare_far()
        best, fewest, whole = self.coefficients.copy(), self._wrong(), self._energy(self.coefficients)
        for share in GIVEN_BACK:
            if not 0 < self._wrong() <= FEW:
                break
            self._keep_own(self._under(share=share))
            if self._energy(self.coefficients) < KEPT * whole:
                break
            self._see()
            self._mend()
            if not self._wrong(FAR) and (now := self._wrong()) < fewest:
                best, fewest = self.coefficients.copy(), now
        self.coefficients = best

    def _spare_far(self) -> None:
        """Where channels are clipped, they part: no luma serves all of them, and less of a mark parts them less.

        The last blocks that are given back stay so, so that there is an end: what reads no others is as it was.
        """
        for share in chain(GIVEN_BACK, repeat(0.0)):
            if not self._wrong(FAR):
                return
            under = self._under(FAR, share)
            self._keep_own(under)
            if not share:
                self._movable &= ~under
            self._see()
            self._mend()

    def _settle(self) -> None:
        """The source's own blocks where the change costs most for what it shows, until few enough values are wrong.

        Where that would take too much of the change, all of it stays.
        """
        allowed = TOLERATED * sum(view.wanted.size for view in self.views)
        found, whole, first = self.coefficients.copy(), self._energy(self.coefficients), self._wrong() - allowed
        excess = first
        for _ in range(ROUNDS):
            if excess <= 0:
                return
            self._keep_own(self._costly(excess + AHEAD * allowed))
            lost = 1 - self._energy(self.coefficients) / whole
            if lost > SPENT:
                break
            self._see()
            self._mend()
            self._spare_far()
            excess = self._wrong() - allowed
            if lost * first > SPENT * (first - excess):  # at this rate it would take too much
                break
        self.coefficients = found

    def _costly(self, values: float) -> Blocks:
        """The changed blocks that have to answer for so many wrong values, the fewest that can be seen."""
        energy = self._energies(self.coefficients).ravel()
        cost = np.where(energy > 0, _total(view.blame(EDGE) for view in self.views).ravel(), 0)
        worst = np.argsort(-cost / np.sqrt(energy + 1), kind="stable")
        chosen: Blocks = np.zeros(self.free.size, bool)
        chosen[worst[: np.searchsorted(cost[worst].cumsum(), values) + 1]] = True
        return chosen.reshape(self.free.shape)

    def _keep_own(self, blocks: Blocks) -> None:
        self.coefficients[blocks] = self.own[blocks]
        self.wanted = np.where(blocks[..., None, None], self.own, self.wanted)

    def _under(self, off: float = EDGE, share: float = 0.0) -> Blocks:
        """The blocks that values read that are off by more: such as have more than that share of one."""
        return np.logical_or.reduce(
            [
                view.under((np.abs(view.error()) > off).any(1) & judged, share)
                for view, judged in zip(self.views, self._judged, strict=True)
            ]
        )

    def _energy(self, coefficients: Coefficients) -> float:
        return float(self._energies(coefficients).sum())

    def _energies(self, coefficients: Coefficients) -> Float[NDArray[np.float64], "n m"]:
        energies: Float[NDArray[np.float64], "n m"] = (((coefficients - self.own) * self._table) ** 2).sum((2, 3))
        return energies


def _total(parts: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Over all readers."""
    total: NDArray[np.float64] = reduce(np.add, parts)
    return total


def _codable(coefficients: NDArray[np.generic]) -> Int[NDArray[np.int32], "..."]:
    """Within what a JPEG can hold."""
    return np.clip(np.rint(coefficients), -LARGEST, LARGEST).astype(np.int32)


_FIRST, _SECOND = np.triu_indices(SIDE**2, 1)


def _moves() -> Int[NDArray[np.int8], "moves 64"]:
    """Steps of one coefficient; of two alike; of two against each other."""
    one = np.eye(SIDE**2, dtype=np.int8)
    return np.concatenate([one, one[_FIRST] + one[_SECOND], one[_FIRST] - one[_SECOND]])


_MOVES = _moves()


def _excess(error: Float[NDArray[np.float64], "N L M c"]) -> Float[NDArray[np.float64], "N L M"]:
    """How far values lie from where all channels are comfortably within their cells."""
    low, high = room(error, 3)
    low, high = low + COMFORT, high - COMFORT
    return -np.where(low > high, (low + high) / 2, np.clip(0, low, high))
