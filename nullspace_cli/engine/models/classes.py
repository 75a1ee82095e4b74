"""Which of a model's classes a name stands for: that of a folder of a data set, or of an option."""

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.models.model import Model


class GroundTruth(NamedTuple):
    """The model's class of each folder, None where they cannot be told; and how they were told, or why not.

    `doubt` is set where a wrong reading would not show: the folders' names say nothing, although the classes have some.
    """

    classes: tuple[int, ...] | None
    note: str
    doubt: str | None = None


def ground_truth(model: Model, folders: Sequence[str] | None, *, in_order: bool = True) -> GroundTruth:
    """Read the names of class folders as classes of a model; all of them by one reading, or none.

    They may be WordNet synsets (n01440764), class indices (207, 0207), or the names of the model's classes, any of
    their synonyms, in whatever case, with spaces or underscores. Other names are taken in sorted order, as
    torchvision's ImageFolder does, where there are as many of them as classes.

    Args:
        folders: names in the order of their labels; None for a data set without labels.
        in_order: whether names that name no class may be taken in sorted order; only for a data set's class folders.
    """
    if folders is None:
        return GroundTruth(None, "the images are not in class folders")
    if not model.num_classes:
        return GroundTruth(None, "the model has no head")
    readings: tuple[tuple[str, Mapping[str, int]], ...] = (
        ("synsets", {name: index for index, name in enumerate(model.synsets or ())}),
        ("class indices", _indices(folders, model.num_classes)),
        ("names of classes", _names(model.labels or ())),
    )
    for what, known in readings:
        found = [known.get(_plain(folder)) for folder in folders]
        if None not in found:
            return GroundTruth(tuple(index for index in found if index is not None), f"folders are {what}")
    names = {name for _, reading in readings for name in reading}
    stranger = next((folder for folder in folders if _plain(folder) not in names), None)
    if in_order and len(folders) == model.num_classes:
        note = "folders in sorted order are taken for the classes in theirs"
        doubt = f"{stranger or folders[0]} is no name of {model.name}'s: {note}, and the accuracy rests on that"
        return GroundTruth(tuple(range(len(folders))), note, doubt if model.labels else None)
    if stranger is None:
        return GroundTruth(None, "the folders are named in several ways")
    return GroundTruth(
        None,
        f"the folder {stranger} names no class, or several, of {model.name}, which has {model.num_classes} classes to "
        f"{len(folders)} folders",
    )


def class_index(model: Model, text: str) -> int:
    """The class of an index, a synset, or a name that it has in the model's list: the whole of it, or a synonym.

    Raises:
        UsageError: the model has no such class, or several of that name, or none at all.
    """
    if not model.num_classes:
        raise UsageError(f"{model.name} has no head, and so no class '{text}'.")
    owners = _owners(model.labels or ())
    found = owners.get(_plain(text), set()) | {i for i, name in enumerate(model.synsets or ()) if name == text}
    if text.isascii() and text.isdecimal() and int(text) < model.num_classes:
        found = {int(text)}
    if len(found) == 1:
        return min(found)
    if found:
        indices = ", ".join(map(str, sorted(found)))
        raise UsageError(f"{model.name} has several classes of the name '{text}': {indices}. Give the index.")
    close = difflib.get_close_matches(_plain(text), owners, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    known = ", or by its name" if owners else "; the names are not known"
    raise UsageError(
        f"{model.name} has no class '{text}'. It has {model.num_classes} classes; name one by its index, counted from 0"
        f"{known}.{hint}"
    )


def name_of(answer: Mapping[str, Any]) -> str:
    """What to call the class of `Model.answer`: the first of its label's synonyms, or its index."""
    return str(answer["label"].partition(",")[0] if answer["label"] else f"class {answer['class']}")


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _indices(folders: Sequence[str], count: int) -> dict[str, int]:
    numbers = {_plain(folder): int(folder) for folder in folders if folder.isascii() and folder.isdecimal()}
    return {name: number for name, number in numbers.items() if number < count}


def _names(labels: Sequence[str]) -> dict[str, int]:
    """Whole labels and their synonyms; a synonym of several classes ("crane" the bird, and the machine) is none."""
    return {name: min(classes) for name, classes in _owners(labels).items() if len(classes) == 1}


def _owners(labels: Sequence[str]) -> dict[str, set[int]]:
    """The classes of each whole label and of each synonym in it: "tench, Tinca tinca" is that, and either."""
    owners: defaultdict[str, set[int]] = defaultdict(set)
    for index, label in enumerate(labels):
        for name in {label, *label.split(",")}:
            owners[_plain(name)].add(index)
    return owners
