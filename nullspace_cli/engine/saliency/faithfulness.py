"""Does a map tell what the model uses? Take pixels away in its order and watch the predictions (Chefer et al. 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.runtime.random_generators import stream
from nullspace_cli.engine.saliency.methods import upsampled

FRACTIONS = tuple(step / 10 for step in range(10))
"""Shares of the pixels that are taken away: none, then 10% to 90%."""

Grid = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Curve:
    """How many of the images keep the reference as their top-1 class, at each of `FRACTIONS`."""

    kept: tuple[int, ...]
    images: int

    def __add__(self, other: "Curve") -> "Curve":
        """The curve of both sets of images."""
        return Curve(tuple(map(sum, zip(self.kept, other.kept, strict=True))), self.images + other.images)

    @property
    def accuracy(self) -> tuple[float, ...]:
        """The share of the images."""
        return tuple(kept / self.images for kept in self.kept)

    @property
    def auc(self) -> float:
        """The area under the accuracy by the trapezoid rule. The fractions end at 0.9, and so does the area."""
        return float(
            torch.trapezoid(*(torch.tensor(values, dtype=torch.float64) for values in (self.accuracy, FRACTIONS)))
        )


@dataclass(frozen=True)
class Faithfulness:
    """The curves of one method over a set of images.

    Attributes:
        positive: the most relevant pixels go first, so that a faithful map has a *small* area. The reference is the
            model's own prediction on the whole image.
        negative: the least relevant pixels go first: a faithful map has a *large* area.
        positive_label, negative_label: the same with the true label as the reference; None without labels.
    """

    positive: Curve
    negative: Curve
    positive_label: Curve | None
    negative_label: Curve | None

    def __add__(self, other: "Faithfulness") -> "Faithfulness":
        """The curves over both sets of images; those against labels only where both have them."""

        def both(a: Curve | None, b: Curve | None) -> Curve | None:
            return a + b if a and b else None

        return Faithfulness(
            self.positive + other.positive,
            self.negative + other.negative,
            both(self.positive_label, other.positive_label),
            both(self.negative_label, other.negative_label),
        )

    def curves(self) -> dict[str, Curve | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def areas(self) -> dict[str, float | None]:
        """The area under each curve."""
        return {name: curve.auc if curve else None for name, curve in self.curves().items()}


def faithfulness(
    model: Model,
    images: Float[Tensor, "b c h w"],
    maps: Float[Tensor, "b gh gw"],
    labels: Int[Tensor, " b"] | None = None,
    *,
    seed: int = 0,
) -> Faithfulness:
    """Positive and negative perturbation of normalised images in the order of their maps, by whatever method.

    Pixels are ordered by the map, upsampled to the image; those taken away become 0, the mean colour. Equal values, as
    on a map that is zero over large areas, go in a random order drawn from `seed`: a constant map is the control that
    takes pixels at random.

    Raises:
        ModelError: the model has no head, hence no prediction that could change.
    """
    require_head(model)
    place = _places(upsampled(maps, (images.shape[2], images.shape[3])), seed)
    positive = _predictions(model, images, place)
    negative = _predictions(model, images, place.flatten(1).shape[1] - 1 - place)

    def curve(predictions: Int[Tensor, "f b"], reference: Int[Tensor, " b"]) -> Curve:
        return Curve(tuple((predictions == reference).sum(1).tolist()), len(images))

    return Faithfulness(
        positive=curve(positive, positive[0]),
        negative=curve(negative, negative[0]),
        positive_label=None if labels is None else curve(positive, labels),
        negative_label=None if labels is None else curve(negative, labels),
    )


def require_head(model: Model) -> None:
    """Refuse a model that makes no prediction that could change.

    Raises:
        ModelError: the model has no head.
    """
    if not model.has_head:
        raise ModelError(f"{model.name} has no classes whose prediction could change. Take a model with a head.")


class FaithfulnessOfMany:
    """The curves of several methods over many images, gathered a batch at a time, beside those of random maps.

    What a random map takes away depends on its grid: single pixels that are missing here and there disturb a network
    more than whole patches. So each grid has its own control: uniform random values on it, drawn afresh for each image.

    Args:
        place: tells the random maps of one process from those of others that share the images, of one seed.

    Attributes:
        methods: the curves of each method, over all images so far.
        controls: those of random maps on each grid of the methods' maps.

    Raises:
        ModelError: the model has no head.
    """

    def __init__(self, model: Model, seed: int, place: int = 0) -> None:
        require_head(model)
        self.methods: dict[str, Faithfulness] = {}
        self.controls: dict[Grid, Faithfulness] = {}
        self._grids: dict[str, Grid] = {}
        self._model, self._seed = model, seed
        self._generator = stream(seed, place) if place else torch.Generator().manual_seed(seed)

    def add(
        self,
        images: Float[Tensor, "b c h w"],
        maps: Mapping[str, Float[Tensor, "b gh gw"]],
        labels: Int[Tensor, " b"] | None = None,
    ) -> None:
        """Perturb a batch of normalised images by the maps of each method, and by random ones on the same grids."""
        self._grids = {name: (values.shape[1], values.shape[2]) for name, values in maps.items()}
        grids = dict.fromkeys(self._grids.values())
        random = {grid: torch.rand(len(images), *grid, generator=self._generator) for grid in grids}
        self.methods = self._with(self.methods, images, maps, labels)
        self.controls = self._with(self.controls, images, random, labels)

    def gather(self, ranks: Ranks) -> None:
        """Put together the curves of all processes; each of them comes to know them."""
        parts = ranks.gather((self.methods, self.controls, self._grids))
        self.methods, self.controls, self._grids = {}, {}, {}
        for methods, controls, grids in parts:
            self.methods, self.controls = _both(self.methods, methods), _both(self.controls, controls)
            self._grids |= grids

    def to_dict(self) -> dict[str, Any]:
        """The areas of each method, those of random maps on its grid, and its curves at each of `FRACTIONS`."""
        return {
            name: {
                **found.areas(),
                "random": self.controls[self._grids[name]].areas(),
                "curves": {name: curve.accuracy if curve else None for name, curve in found.curves().items()},
            }
            for name, found in self.methods.items()
        }

    def _with(
        self, sums: Mapping[T, Faithfulness], images: Tensor, maps: Mapping[T, Tensor], labels: Tensor | None
    ) -> dict[T, Faithfulness]:
        found = {key: faithfulness(self._model, images, maps[key], labels, seed=self._seed) for key in maps}
        return _both(sums, found)


def _both(sums: Mapping[T, Faithfulness], found: Mapping[T, Faithfulness]) -> dict[T, Faithfulness]:
    """The curves over both sets of images."""
    return {**sums, **{key: sums[key] + new if key in sums else new for key, new in found.items()}}


def _places(values: Float[Tensor, "b h w"], seed: int) -> Int[Tensor, "b h w"]:
    """Each pixel's place, from 0, in the order of falling values, ties at random."""
    flat = values.flatten(1)
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))
    order = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    return order.argsort(dim=1).view_as(values)


def _predictions(model: Model, images: Float[Tensor, "b c h w"], place: Int[Tensor, "b h w"]) -> Int[Tensor, "f b"]:
    """The top-1 classes without the pixels of the first places, for each fraction of them."""
    pixels = images.shape[2] * images.shape[3]
    found = []
    for fraction in FRACTIONS:
        logits = model.in_full_precision()(images.masked_fill((place < round(fraction * pixels))[:, None], 0)).logits
        assert logits is not None  # the model has a head
        found.append(logits.argmax(1))
    return torch.stack(found)
