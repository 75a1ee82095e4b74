"""What noise does to saliency maps: noise in the null space of the first layers, beside controls of equal norm."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.nullspace.sampling import control_noises
from nullspace_cli.engine.nullspace.stem_basis import find_first_layer_basis
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.runtime.random_generators import stream
from nullspace_cli.engine.saliency.methods import Method, SaliencyMaps
from nullspace_cli.engine.saliency.similarity import Similarity, similarity

Kind = Literal["null", "random", "row_space"]
KINDS: tuple[Kind, ...] = ("null", "random", "row_space")
CONTROL = 1
"""Tells the draws of the controls from those of the null noise, both of one seed."""


@dataclass(frozen=True)
class MeanSimilarity:
    """How alike maps are to those of the same images with noise, the mean over images; None where all are undefined.

    Attributes:
        undefined: how many images count for nothing, one of their two maps being constant.
    """

    spearman: float | None
    pearson: float | None
    ssim: float | None
    top10: float | None
    undefined: int


class NoiseComparison:
    """Maps of images against maps of the same images with noise, gathered image by image.

    Three kinds of Gaussian noise, of equal norm on every image: "null" is exactly in the null space of the first
    layers, "random" is white, and "row_space" is random noise projected onto the complement of the null space, all
    of which the network reads. Pixels may leave [0, 1]: nothing is clipped, nothing rounded.

    Args:
        maps: of the model.
        rms: root mean square of the noise, in [0, 1] pixel units.
        seed: the k-th image's noise is drawn from `seed` + k.
        place: the number of the first image that is compared here, among all, and the step to the next.

    Raises:
        NoNullspaceError: the model has no exact null space.
    """

    def __init__(
        self, maps: SaliencyMaps, methods: Sequence[Method], rms: float, seed: int, place: tuple[int, int] = (0, 1)
    ) -> None:
        self._maps, self._model, self._methods, self._rms, self._seed = maps, maps.model, methods, rms, seed
        self._basis = find_first_layer_basis(maps.model)
        self._found: dict[tuple[str, Kind], list[Similarity]] = defaultdict(list)
        self._kept: dict[Kind, list[bool]] = defaultdict(list)
        self._next, self._step = place

    def add(
        self,
        images: Float[Tensor, "b c h w"],
        classes: Int[Tensor, " b"] | None,
        maps: Mapping[str, Float[Tensor, "b gh gw"]],
    ) -> None:
        """Compare the maps of normalised images, made for `classes`, with those of the images with each noise.

        The class that is explained stays, also where noise makes the network predict another one.
        """
        noises = [self.noises(self._seed + self._next + self._step * k) for k in range(len(images))]
        self._next += self._step * len(images)
        predicted = self._predicted(images)
        for kind in KINDS:
            delta = torch.stack([noise[kind] for noise in noises])
            noisy = images.double() + self._model.transform.delta_to_normalized(delta)
            if predicted:
                self._kept[kind] += [a == b for a, b in zip(predicted, self._predicted(noisy), strict=True)]
            for method in self._methods:
                pairs = zip(maps[method.name], self._maps(noisy, method, classes), strict=True)
                self._found[method.name, kind] += [similarity(clean, other) for clean, other in pairs]

    def gather(self, ranks: Ranks) -> None:
        """Put together what all processes have found; each of them comes to know of it."""
        parts = ranks.gather((dict(self._found), dict(self._kept)))
        self._found, self._kept = defaultdict(list), defaultdict(list)
        for found, kept in parts:
            for key, similarities in found.items():
                self._found[key] += similarities
            for kind, same in kept.items():
                self._kept[kind] += same

    def noises(self, seed: int) -> dict[Kind, Float[Tensor, "c h w"]]:
        """One image's noises, in pixel units, all of the norm of the first."""
        null = self._basis.pixel_noise(self._model.transform.input_size[1:], self._rms, seed)
        random, seen = control_noises(self._basis.read_part, null, stream(seed, CONTROL))
        return {"null": null, "random": random, "row_space": seen}

    def to_dict(self) -> dict[str, Any]:
        """The likeness of each method's maps under each kind of noise, and how many predictions stay (if there are)."""
        return {
            "rms": self._rms,
            "match_percent": {
                kind: 100 * sum(kept) / len(kept) if (kept := self._kept[kind]) else None for kind in KINDS
            },
            "methods": {
                method.name: {kind: asdict(_mean(self._found[method.name, kind])) for kind in KINDS}
                for method in self._methods
            },
        }

    def _predicted(self, images: Tensor) -> list[int]:
        """The classes of images; none without a head."""
        logits = self._model.in_full_precision()(images).logits
        return [] if logits is None else logits.argmax(1).tolist()


def _mean(found: Sequence[Similarity]) -> MeanSimilarity:
    defined = [measured for measured in found if measured.spearman is not None]

    def mean(name: str) -> float | None:
        return sum(getattr(measured, name) for measured in defined) / len(defined) if defined else None

    return MeanSimilarity(mean("spearman"), mean("pearson"), mean("ssim"), mean("top10"), len(found) - len(defined))
