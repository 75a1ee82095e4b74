"""How stable predictions are under noise (paper, sections 4 and 5): many noises and their controls, in one pass.

Definitions, x an image, v a noise, f the logits, p the softmax probabilities, h the features before the head:

    match              f(x) and f(x + v) have the same largest entry
    logit_mse          sum over the classes of (f(x + v) - f(x))^2; probability_mse of p, feature_mse of h likewise
    feature_cosine     cosine of the angle between h(x) and h(x + v)
    confidence_change  |p(x + v) - p(x)| at the class that is largest in f(x)

all as means over the images. Of a model without a head there are those of the features alone.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nullspace_cli.engine import metrics
from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import batches, left_out
from nullspace_cli.engine.errors import DataError, VitnullError
from nullspace_cli.engine.evaluation.noises_under_test import Case, Control, read_otherwise
from nullspace_cli.engine.evaluation.noisy_passes import CLEAN, NOISY, Array, NoisyPasses
from nullspace_cli.engine.models.classes import GroundTruth, ground_truth
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.runtime.uploads import uploaded


class _Part(NamedTuple):
    """What one process found."""

    positions: list[int]
    names: list[str]
    labels: list[int | None]
    clean: Array
    noisy: Array
    skipped: list[str]
    features_only: bool


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Figures of every image under every noise.

    Attributes:
        names, labels: of the images, in the order of the data set; the label is an index of `folders`.
        truth: the model's class of each folder.
        clean: [len(CLEAN), images].
        noisy: [cases, len(NOISY), images].
        skipped: names of images that could not be read.
        outputs: "logits", or "features" for a model without a head.
    """

    model: Model
    cases: list[Case]
    names: list[str]
    labels: list[int | None]
    folders: tuple[str, ...] | None
    truth: GroundTruth
    clean: Array
    noisy: Array
    skipped: list[str]
    outputs: str

    def __repr__(self) -> str:
        return f"<Evaluation of {self.model.name}: {len(self.names)} images, {len(self.cases)} noises and controls>"

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """The true class of each image, where known."""
        if self.truth.classes is None:
            return None
        return np.array([self.truth.classes[label] for label in self.labels if label is not None])

    @property
    def accuracy(self) -> float | None:
        """Percentage of the images that are classified correctly without noise."""
        return None if self.classes is None else _mean(100.0 * (self.clean[0] == self.classes))

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON document that say what was found."""
        return {
            "images": len(self.names),
            "outputs": self.outputs,
            "accuracy": self.accuracy,
            "ground_truth": self.truth.note,
            "results": self.results(),
            "skipped": self.skipped,
        }

    def results(self) -> list[dict[str, Any]]:
        """A record for each noise and control, averaged over its trials.

        The interval of the match is Wilson's for as many observations as there are images, however many the trials:
        they share the images, so that it is too wide rather than too narrow.
        """
        groups: dict[tuple[int, Control], list[int]] = {}
        for i, case in enumerate(self.cases):
            groups.setdefault((id(case.tested), case.control), []).append(i)
        return [self._result(numbers) for numbers in groups.values()]

    def _result(self, numbers: list[int]) -> dict[str, Any]:
        case = self.cases[numbers[0]]
        figures = dict(zip(NOISY, self.noisy[numbers].swapaxes(0, 1), strict=True))  # each [trials, images]
        match, logit_mse, cosines = _mean(figures["match"]), _mean(figures["logit_mse"]), figures["feature_cosine"]
        low, high = (None, None) if match is None else metrics.wilson(match, len(self.names))
        accuracy = None if self.classes is None else _mean(100.0 * (figures["class"] == self.classes))
        return {
            **case.tested.describe(),
            "control": case.control,
            "trials": len(numbers),
            "match_percent": None if match is None else 100 * match,
            "match_ci95": None if low is None or high is None else [100 * low, 100 * high],
            "match_trials": None if match is None else [100 * float(row.mean()) for row in figures["match"]],
            "logit_mse": logit_mse,
            "logit_mse_per_class": None if logit_mse is None else logit_mse / self.model.num_classes,
            "probability_mse": _mean(figures["probability_mse"]),
            "feature_mse": _mean(figures["feature_mse"]),
            "feature_cosine": _mean(cosines[~np.isnan(cosines)]),  # undefined where all features are 0
            "confidence_change": _mean(figures["confidence_change"]),
            "noise_norm": case.noise.norm,
            "accuracy": None if accuracy is None else {"clean": self.accuracy, "noisy": accuracy},
        }

    def per_image(self) -> Iterator[dict[str, Any]]:
        """A record for each image and noise, each draw of the controls among them."""
        classes = self.classes
        described = [case.tested.describe() for case in self.cases]
        for i, (name, label) in enumerate(zip(self.names, self.labels, strict=True)):
            truth = None if classes is None else int(classes[i])
            before = self._answer(self.clean[:, i])
            for case, about, row in zip(self.cases, described, self.noisy[:, :, i], strict=True):
                after, figures = self._answer(row), dict(zip(NOISY, row, strict=True))
                correct = None
                if truth is not None and before and after:
                    correct = {"before": before["class"] == truth, "after": after["class"] == truth}
                yield {
                    "image": name,
                    "label": None if self.folders is None or label is None else self.folders[label],
                    **{key: about[key] for key in ("noise", "level", "limit", "sigma", "realised")},
                    "control": case.control,
                    "trial": case.trial,
                    "before": before,
                    "after": after,
                    "match": bool(figures["match"]) if before else None,
                    "logit_mse": _finite(figures["logit_mse"]),
                    "feature_cosine": _finite(figures["feature_cosine"]),
                    "correct": correct,
                }

    def _answer(self, figures: Array) -> dict[str, Any] | None:
        if self.outputs == "features":
            return None
        return self.model.answer(int(figures[0]), _finite(figures[1]))


def spread(count: int, total: int, seed: int) -> list[int]:
    """`count` of `total` positions, one from each of as many equal stretches, drawn by the seed; at most all.

    Not every n-th: a data set may repeat itself, as the demo's does every ten images.
    """
    count = min(count, total)
    draw = random.Random(seed)  # noqa: S311 - nothing secret
    edges = [i * total // count for i in range(count + 1)]
    return [draw.randrange(start, stop) for start, stop in pairwise(edges)]


def evaluate(
    model: Model,
    images: ImageSet,
    cases: Sequence[Case],
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    ranks: Ranks | None = None,
    notice: Callable[[str], None] = lambda text: None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run the network on images as they are, and once more with each noise: K noises take K + 1 passes.

    Each image is decoded once, and embedded once for all noises at encoder level. A card is given images with several
    noises at once, where it has room for more than the images. Several processes share the images, and each of them
    gets the whole result.

    Args:
        cases: as of `cases_of`.
        skip_bad: leave out images that cannot be read or do not fit into memory, which else are an error.
        notice: is told of noise that was learned on images read in another way, of images that are left out or
            doubtful, and of memory that ran short.
        advance: is called for each image.

    Raises:
        DataError: no image could be read.
        ImageError: one could not, and they are not to be skipped.
        ModelError: the model answers an image, without noise or with one, with numbers that are not finite.
    """
    ranks = ranks or Ranks()
    if ranks.first:
        for text in read_otherwise([case.tested for case in cases], model.transform):
            notice(text)
    mine = ranks.share(range(len(images)))
    part = _measure(model, images, cases, mine, workers, notice, advance, skip_bad=skip_bad)
    whole = _join(ranks.gather(part))
    if not whole.names:
        raise DataError(f"None of the {len(whole.skipped)} images of {images.name} could be read.")
    truth = ground_truth(model, images.classes)
    if truth.doubt and ranks.first:
        notice(truth.doubt)
    return Evaluation(
        model=model,
        cases=list(cases),
        names=whole.names,
        labels=whole.labels,
        folders=images.classes,
        truth=truth,
        clean=whole.clean,
        noisy=whole.noisy,
        skipped=whole.skipped,
        outputs="features" if whole.features_only else "logits",
    )


@torch.no_grad()
def _measure(
    model: Model,
    images: ImageSet,
    cases: Sequence[Case],
    positions: Sequence[int],
    workers: int | None,
    notice: Callable[[str], None],
    advance: Callable[[], None],
    *,
    skip_bad: bool,
) -> _Part:
    """The figures of some images, in one process."""
    passes, skipped = NoisyPasses(model, cases, notice), list[str]()
    found = [_Part([], [], [], np.empty((len(CLEAN), 0)), np.empty((len(cases), len(NOISY), 0)), skipped, False)]

    def skip(name: str, error: VitnullError) -> None:
        skipped.append(name)
        notice(f"{error} It is left out.")

    told = skip if skip_bad else None
    reading = batches(
        images, model.transform, passes.size, positions=positions, workers=workers, skip=told, notice=notice
    )
    for batch, (pixels,) in uploaded(reading, lambda batch: (batch.pixels,), model.device):
        rows, clean, noisy = passes(batch, pixels, left_out(batch, told))
        found.append(
            _Part(
                positions=[batch.positions[row] for row in rows],
                names=[batch.names[row] for row in rows],
                labels=[batch.labels[row] for row in rows],
                clean=clean,
                noisy=noisy,
                skipped=[],
                features_only=not model.has_head,
            )
        )
        for _ in range(len(batch)):
            advance()
    return _join(found)


def _join(parts: Sequence[_Part]) -> _Part:
    """Parts put together, in the order of the data set."""
    positions = [position for part in parts for position in part.positions]
    names = [name for part in parts for name in part.names]
    labels = [label for part in parts for label in part.labels]
    order = sorted(range(len(positions)), key=positions.__getitem__)
    return _Part(
        positions=[positions[i] for i in order],
        names=[names[i] for i in order],
        labels=[labels[i] for i in order],
        clean=np.concatenate([part.clean for part in parts], axis=-1)[..., order],
        noisy=np.concatenate([part.noisy for part in parts], axis=-1)[..., order],
        skipped=sorted(name for part in parts for name in part.skipped),
        features_only=any(part.features_only for part in parts),
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _mean(values: NDArray[Any]) -> float | None:
    """None where it is undefined."""
    return _finite(values.mean()) if values.size else None
