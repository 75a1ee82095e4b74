"""A suspect's answers to probes, by the noise that each probe has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.documents.base import MAX_JSON, parse_json
from nullspace_cli.engine.documents.probe_answers import ProbeAnswer
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.files.reading import read_bounded
from nullspace_cli.engine.ownership.claim import Claim
from nullspace_cli.engine.ownership.probes import probes_of

EXPECTED = 'answers to probes, one a line, as {"image": "0123456789abcdef.png", "logits": [...]} or {..., "label": 7}'
MAX_ANSWERS = 16 * MAX_JSON
"""Bytes: a million answers of a thousand logits would be twenty times that."""


Answer = list[float] | int | str
"""Logits, or a label."""


@dataclass(frozen=True)
class Answers:
    """How each noise changed the answers; [images, pairs, 2], the pair's mirror image second.

    Attributes:
        changed: whether it changed the label.
        moved: by how much it moved the logits: squared, relative to their variance over the classes, which no noise
            moved; None of labels alone.
    """

    changed: Bool[Tensor, "images pairs 2"]
    moved: Float[Tensor, "images pairs 2"] | None


def read_answers(path: Path, claim: Claim) -> Answers:
    """The answers to a claim's probes, of as many images as were asked about.

    Raises:
        ArtifactError: a line is no answer, an answer is there twice or belongs to no probe, or one is missing; or some
            have logits and others labels alone.
    """
    answers = _lines(path)
    kinds = {answer.logits is not None for answer in answers.values()}
    lengths = {len(answer.logits) for answer in answers.values() if answer.logits is not None}
    if len(kinds) > 1 or len(lengths) > 1:
        found = f"logits of {' and of '.join(map(str, sorted(lengths)))} classes" if lengths else "labels"
        also = " and labels alone" if len(kinds) > 1 else ""
        raise ArtifactError(f"{path} has {found}{also}; expected one kind of answer to all probes.")
    rows: list[list[Answer]] = []
    used = 0
    while True:
        probes = probes_of(claim, len(rows))
        present = [probe.name in answers for probe in probes]
        if not any(present):
            break
        if not all(present):
            missing = next(probe.name for probe, there in zip(probes, present, strict=True) if not there)
            raise ArtifactError(
                f"{path} lacks {present.count(False)} of {len(probes)} answers about image {len(rows)}, the first to "
                f"{missing}. Ask the suspect about all probes of an image."
            )
        rows.append([_answer(answers[probe.name]) for probe in probes])
        used += len(probes)
    if used < len(answers):
        known = {probe.name for image in range(len(rows)) for probe in probes_of(claim, image)}
        stray = next(name for name in answers if name not in known)
        raise ArtifactError(
            f"{path} answers {stray}, which is no probe of this claim, or of an image that follows one without "
            "answers. Make the probes again, and ask about all images from the first on."
        )
    return answers_of(rows, claim.recipe.pairs)


def _lines(path: Path) -> dict[str, ProbeAnswer]:
    data = read_bounded(path, MAX_ANSWERS, EXPECTED)
    answers: dict[str, ProbeAnswer] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        answer = ProbeAnswer.read(parse_json(line, where, EXPECTED), where)
        name = PurePath(answer.image.replace("\\", "/")).name.partition(".")[0]
        if name in answers:
            raise ArtifactError(f"{where}: {name} is answered a second time. Give one answer to each probe.")
        answers[name] = answer
    if not answers:
        raise ArtifactError(f"{path} holds no answers. Expected {EXPECTED}.")
    return answers


def _answer(found: ProbeAnswer) -> Answer:
    if found.logits is not None:
        return found.logits
    assert found.label is not None  # which its declaration sees to
    return found.label


def answers_of(rows: Sequence[Sequence[Answer]], pairs: int) -> Answers:
    """The answers to the probes of each image, in the order of `probes_of`: without noise first.

    Args:
        rows: logits throughout, or labels throughout.
    """
    if not isinstance(rows[0][0], list):
        changed = torch.tensor([[label != row[0] for label in row[1:]] for row in rows])
        return Answers(changed.unflatten(1, (pairs, 2)), None)
    logits = torch.tensor(rows, dtype=torch.float64)
    clean, noisy = logits[:, :1], logits[:, 1:]
    changed = (noisy.argmax(2) != clean.argmax(2)).unflatten(1, (pairs, 2))
    # What is added to all logits alike changes no probability.
    change, scale = _centred(noisy - clean).square().sum(2), _centred(clean).square().sum(2).mean()
    moved = change / scale if scale > 0 else change
    return Answers(changed, moved.unflatten(1, (pairs, 2)))


def _centred(logits: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
    return logits - logits.mean(-1, keepdim=True)
