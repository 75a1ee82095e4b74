"""What a network says of the images of a batch, without noise and with each of many, as figures."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine import metrics
from nullspace_cli.engine.data.loader import Batch
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.evaluation.noises_under_test import Case
from nullspace_cli.engine.models.model import Model, Outputs, not_finite
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from nullspace_cli.engine.runtime.out_of_memory import in_blocks

Array = NDArray[np.float64]
CLEAN = ("class", "probability")
NOISY = (*CLEAN, "match", "logit_mse", "probability_mse", "feature_mse", "feature_cosine", "confidence_change")
"""The figures of each image; NaN where undefined."""


class Answer(NamedTuple):
    """What a network says of a chunk, in double precision; logits are None without a head."""

    logits: Float64[Tensor, "b k"] | None
    probabilities: Float64[Tensor, "b k"] | None
    features: Float64[Tensor, "b f"]

    def repeated(self, times: int) -> "Answer":
        """The same chunk several times over."""
        logits, probabilities = (None if p is None else p.repeat(times, 1) for p in (self.logits, self.probabilities))
        return Answer(logits, probabilities, self.features.repeat(times, 1))

    @property
    def finite(self) -> Bool[Tensor, " b"]:
        """Of which images all of it is."""
        found = self.features.isfinite().all(1)
        return found if self.logits is None else found & self.logits.isfinite().all(1)

    @classmethod
    def of(cls, outputs: Outputs) -> "Answer":
        logits = None if outputs.logits is None else outputs.logits.double()
        return cls(logits, None if logits is None else logits.softmax(1), outputs.features.double())

    def clean(self) -> Float64[Tensor, "figures b"]:
        """The figures that CLEAN names."""
        if self.logits is None or self.probabilities is None:
            return self.features.new_full((len(CLEAN), len(self.features)), math.nan)
        index = self.logits.argmax(1)
        return torch.stack([index.double(), self.probabilities.gather(1, index[:, None])[:, 0]])

    def noisy(self, clean: "Answer") -> Float64[Tensor, "figures b"]:
        """The figures that NOISY names."""
        features = [
            metrics.squared_change(clean.features, self.features),
            metrics.cosines(clean.features, self.features),
        ]
        if self.logits is None or self.probabilities is None:
            undefined = torch.full_like(features[0], math.nan)
            return torch.stack([*[undefined] * 5, *features, undefined])
        assert clean.logits is not None
        assert clean.probabilities is not None
        before, after = clean.logits.argmax(1), self.logits.argmax(1)
        confidence = (self.probabilities - clean.probabilities).gather(1, before[:, None])[:, 0].abs()
        logits = metrics.squared_change(clean.logits, self.logits)
        probabilities = metrics.squared_change(clean.probabilities, self.probabilities)
        return torch.stack([*self.clean(), (before == after).double(), logits, probabilities, *features, confidence])


class NoisyPasses:
    """The passes of an evaluation: of each image alone, once, and of each image with each noise.

    Attributes:
        size: images, with one noise each, in one pass; fewer once memory was short.
    """

    def __init__(self, model: Model, cases: Sequence[Case], notice: Callable[[str], None]) -> None:
        self._model, self._cases, self._notice = model, cases, notice
        levels: list[Level] = list(dict.fromkeys(case.noise.level for case in cases))
        self._entries = {level: injection_site(model, level) for level in levels}
        self._deltas = [(case.noise.level, case.noise.delta.to(model.device, torch.float32)) for case in cases]
        blank = torch.zeros(1, *model.transform.input_size, device=model.device)
        self.size = model.images_at_once(lambda count: self._figures_of(blank.expand(count, -1, -1, -1)))

    @torch.no_grad()
    def __call__(
        self, batch: Batch, pixels: Tensor, left_out: Callable[[int, str], None]
    ) -> tuple[list[int], Array, Array]:
        """The rows of a batch that fit into memory, and their figures: [len(CLEAN), rows], [cases, len(NOISY), rows].

        Args:
            pixels: the batch's, on the device if that has room.
            left_out: is told of a row that does not fit, and why; or raises.

        Raises:
            ModelError: an answer is not finite.
        """
        count, cases = len(batch), len(self._cases)
        finite = torch.ones(1 + cases, count, dtype=torch.float64, device=self._model.device)
        clean = finite.new_zeros(len(CLEAN), count)
        noisy = finite.new_zeros(cases, len(NOISY), count)
        out: set[int] = set()

        @lru_cache(maxsize=1)
        def look(rows: range) -> tuple[dict[Level, Tensor], Answer]:
            values = self._read(pixels[rows.start : rows.stop])
            level, entering = next(iter(values.items()))  # without noise all entries lead to the same
            answer = Answer.of(self._entries[level].answer(entering))
            finite[0, rows.start : rows.stop] = answer.finite
            clean[:, rows.start : rows.stop] = answer.clean()
            return values, answer

        def ask(rows: range, columns: range) -> None:
            if out.issuperset(rows):
                return
            values, undisturbed = look(rows)
            for level, group in groupby(columns, lambda column: self._deltas[column][0]):
                some = list(group)
                noises = torch.stack([self._deltas[column][1] for column in some])
                answer = Answer.of(self._entries[level].answer((values[level] + noises).flatten(0, 1)))
                shape, place = (len(some), len(rows)), slice(some[0], some[-1] + 1)
                figures = answer.noisy(undisturbed.repeated(len(some))).unflatten(1, shape)
                noisy[place, :, rows.start : rows.stop] = figures.movedim(1, 0)
                finite[1:][place, rows.start : rows.stop] = answer.finite.unflatten(0, shape).to(finite)

        def alone(row: int, reason: str) -> None:
            out.add(row)
            left_out(row, reason)

        # On the CPU nothing is gained by more than one noise at a time.
        cells = self.size if self._model.device.type == "cuda" else min(self.size, count)
        fitted = in_blocks(ask, count, cases, cells, self._notice, alone)
        self.size = self.size if fitted == cells else fitted
        found = torch.cat([finite, clean, noisy.flatten(0, 1)]).cpu().numpy()  # at once
        rows = [row for row in range(count) if row not in out]
        broken = [(case, row) for case, row in np.argwhere(found[: 1 + cases] == 0).tolist() if row in rows]
        if broken:
            raise self._not_finite(batch, pixels, *broken[0])
        of_clean, of_noisy = np.split(found[1 + cases :, rows], [len(CLEAN)])
        return rows, of_clean, of_noisy.reshape(cases, len(NOISY), len(rows))

    @torch.no_grad()
    def _figures_of(self, images: Tensor) -> Tensor:
        """What one pass takes."""
        site = next(iter(self._entries.values()))
        answer = Answer.of(site.answer(site.read(images)))
        return answer.noisy(answer)

    def _read(self, pixels: Tensor) -> dict[Level, Tensor]:
        """What enters at each level for some images."""
        x = self._model.transform.normalize(pixels.to(self._model.device))
        return {level: site.read(x) for level, site in self._entries.items()}

    def _not_finite(self, batch: Batch, pixels: Tensor, case: int, row: int) -> VitnullError:
        """The error about one image, without noise (case 0) or with one."""
        values, of = self._read(pixels[row : row + 1]), batch.names[row]
        level = next(iter(values))
        entering = values[level]
        if case:
            level, delta = self._deltas[case - 1]
            entering, of = values[level] + delta, f"{of} with {self._cases[case - 1].described}"
        return not_finite(self._model, of, lambda other: self._entries[level].on(other).answer(entering))
