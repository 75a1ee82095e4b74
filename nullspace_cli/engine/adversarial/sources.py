"""Which of many images is the best source for a target: the choice that decides how like the target a result can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nullspace_cli.engine.adversarial.attack import Attack
from nullspace_cli.engine.errors import DataError, ImageError, MemoryShortError, VitnullError
from nullspace_cli.engine.files.pictures import Picture, read_picture
from nullspace_cli.engine.models.classes import class_index
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.runtime.out_of_memory import within_memory
from nullspace_cli.engine.watermark.result import Pixels

FINALISTS = 3


@dataclass(frozen=True, eq=False)
class ChosenSource:
    """The source that was chosen.

    Attributes:
        candidates: how many images were looked at: those that can be read and are not of a wrong class.
        score: `Likeness.score` with it, nearest rounding and one strength for all.
        median: of the candidates' estimated scores.
        estimate: its own estimated score.
        skipped: images that could not be read, or do not fit into memory.
    """

    path: Path
    picture: Picture
    candidates: int
    score: float
    estimate: float
    median: float
    skipped: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON document that say how the source was chosen."""
        return {
            "candidates": self.candidates,
            "score": self.score,
            "estimate": self.estimate,
            "median_estimate": self.median,
            "skipped": [str(path) for path in self.skipped],
        }


class Ranked(NamedTuple):
    """A source that can be used, and its estimated score."""

    estimate: float
    path: Path


def choose_source(
    attack: Attack,
    sources: Sequence[Path],
    target: Pixels,
    wanted_class: str | None = None,
    advance: Callable[[], None] = lambda: None,
    notice: Callable[[str], None] = lambda text: None,
) -> ChosenSource:
    """Of the best few by `rank_sources`, each made in full, take the one most like `target`.

    Args:
        notice: is told of images that cannot be used, and why.

    Raises:
        DataError, UsageError: as of `rank_sources`.
    """
    skipped: list[Path] = []

    def left_out(path: Path, error: VitnullError) -> None:
        skipped.append(path)
        notice(f"{path} was left out: {error}")

    ranked = rank_sources(attack, sources, target, wanted_class, advance, left_out)
    made: list[tuple[float, float, Path, Picture]] = []
    for estimate, path in ranked[:FINALISTS]:
        try:
            with within_memory(str(path)):
                picture = read_picture(path, attack.reading)
                made.append((attack.rough(picture, target).likeness.score, estimate, path, picture))
        except (ImageError, MemoryShortError) as error:
            left_out(path, error)
    if not made:
        raise DataError("None of the best sources could be used; see the warnings. Give others.")
    score, estimate, path, picture = max(made, key=lambda item: item[0])
    return ChosenSource(path, picture, len(ranked), score, estimate, ranked[len(ranked) // 2].estimate, tuple(skipped))


def rank_sources(
    attack: Attack,
    sources: Sequence[Path],
    target: Pixels,
    wanted_class: str | None = None,
    advance: Callable[[], None] = lambda: None,
    left_out: Callable[[Path, VitnullError], None] = lambda path, error: None,
) -> list[Ranked]:
    """The sources of the right class, best first, by `Attack.estimate`.

    Args:
        wanted_class: index or name of the class that the model must see in the source; None for any but the one that
            it sees in the target, with which nobody would be fooled.
        advance: is called for each image.
        left_out: is told of images that cannot be used, and why.

    Raises:
        DataError: no image is left to choose from.
        UsageError: the model has no such class.
    """
    model = attack.network.model
    index = None if wanted_class is None else class_index(model, wanted_class)
    avoided = _predicted(model, target) if index is None else None
    found = []
    for path in sources:
        try:
            with within_memory(str(path)):
                picture = read_picture(path, attack.reading)
                seen = _predicted(model, picture.pixels)
                if seen is None or (seen != avoided if index is None else seen == index):
                    found.append(Ranked(attack.estimate(picture, target), path))
        except (ImageError, MemoryShortError) as error:
            left_out(path, error)
        advance()
    if not found:
        kind = "any class but the target's" if wanted_class is None else f"'{wanted_class}'"
        raise DataError(
            f"Among the {len(sources)} images given as sources there is none in which {model.name} sees {kind}. "
            "Give others."
        )
    return sorted(found, key=lambda ranked: (-ranked.estimate, str(ranked.path)))


def _predicted(model: Model, pixels: Pixels) -> int | None:
    """The class that the model sees; None without a head."""
    logits = model.in_full_precision()(model.transform(pixels)[None]).logits
    return None if logits is None else int(torch.argmax(logits[0]))
