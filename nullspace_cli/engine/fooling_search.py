"""Which of many images is the best source for a target: the choice that decides how like the target a result can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nullspace_cli.engine.errors import DataError, ImageError, ModelError, UsageError
from nullspace_cli.engine.fooling import NATIVE_STRENGTH, Fool, Fooled
from nullspace_cli.engine.images import Picture, read_picture
from nullspace_cli.engine.models import LoadedModel
from nullspace_cli.engine.watermarking import Pixels

FINALISTS = 3


@dataclass(frozen=True, eq=False)
class Choice:
    """The source that was chosen.

    Attributes:
        candidates: how many images were looked at: those that can be read and are of the wanted class.
        score: `Likeness.score` with it, nearest rounding and one strength for all.
        median: of the candidates' estimated scores.
        estimate: its own estimated score.
    """

    path: Path
    picture: Picture
    candidates: int
    score: float
    estimate: float
    median: float


def choose_source(
    fool: Fool,
    sources: Sequence[Path],
    target: Pixels,
    wanted_class: str | None = None,
    advance: Callable[[], None] = lambda: None,
    notice: Callable[[str], None] = lambda text: None,
) -> Choice:
    """Estimate all sources by one projection, make the best few in full, take the one most like `target`.

    Args:
        wanted_class: index or label of the class that the model must see in the source; None for any.
        advance: is called for each image.
        notice: is told of images that cannot be used.

    Raises:
        DataError: no image is left to choose from.
        UsageError, ModelError: the model has no such class.
    """
    index = None if wanted_class is None else class_index(fool.network.model, wanted_class)
    estimates: list[tuple[float, Path]] = []
    for path in sources:
        try:
            picture = read_picture(path)
            if index is None or _predicted(fool.network.model, picture) == index:
                estimates.append((fool.estimate(picture, target), path))
        except ImageError as error:
            notice(f"{path} was left out: {error}")
        advance()
    if not estimates:
        kind = "" if wanted_class is None else f" in which {fool.network.model.name} sees '{wanted_class}'"
        raise DataError(f"Among the {len(sources)} images given as sources there is none{kind}. Give others.")
    ranked = sorted(estimates, key=lambda item: (-item[0], str(item[1])))
    rough = replace(fool, rounding="nearest")
    made: list[tuple[float, float, Path, Picture]] = []
    for estimate, path in ranked[:FINALISTS]:
        picture = read_picture(path)
        try:
            made.append((_rough(rough, picture, target).likeness.score, estimate, path, picture))
        except ImageError as error:
            notice(f"{path} was left out: {error}")
    if not made:
        raise DataError("None of the best sources could be used; see the warnings. Give others.")
    score, estimate, path, picture = max(made, key=lambda item: item[0])
    return Choice(path, picture, len(estimates), score, estimate, ranked[len(ranked) // 2][0])


def class_index(model: LoadedModel, name: str) -> int:
    """The class of that index or label.

    Raises:
        ModelError: the model has no classes.
        UsageError: it has no such one.
    """
    if not model.has_head:
        raise ModelError(f"{model.name} has no classes to choose a source by. Leave --source-class out.")
    count = int(getattr(model.module, "num_classes", 0))
    if name.isdecimal() and int(name) < count:
        return int(name)
    labels = [label.lower() for label in model.labels or ()]
    if name.lower() in labels:
        return labels.index(name.lower())
    some = f": {', '.join((model.labels or ())[:10])}" if labels else ""
    raise UsageError(f"{model.name} has no class '{name}'. Give an index below {count}, or a label{some}.")


def _rough(fool: Fool, picture: Picture, target: Pixels) -> Fooled:
    if fool.strength is not None:
        return fool.at(picture, target, fool.strength)
    return fool.at(picture, target, NATIVE_STRENGTH if fool.size == "native" else 1.0)


def _predicted(model: LoadedModel, picture: Picture) -> int:
    logits = model(model.transform(picture.pixels)[None]).logits
    assert logits is not None  # the model has a head
    return int(torch.argmax(logits[0]))
