"""Noises from files to tables: what `vitnull eval` runs around its one pass over the data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nullspace_cli.engine.documents.artefacts import read_provenance
from nullspace_cli.engine.documents.kinds import BASIS, NEAR_BASIS, NOISE, STEM_BASIS
from nullspace_cli.engine.evaluation.noises_under_test import (
    Case,
    Control,
    cases_of,
    read_noises_under_test,
    with_realised,
)
from nullspace_cli.engine.evaluation.stability import Evaluation
from nullspace_cli.engine.evaluation.tables import write_csv, write_per_image
from nullspace_cli.engine.files.hashes import sha256_of
from nullspace_cli.engine.files.writing import write_json
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.runtime.distributed import Ranks


def check_noises(noises: Sequence[Path], ranks: Ranks) -> None:
    """Look at the files' headers, before anything slow.

    Raises:
        ArtifactError: a file is neither learned noise nor a basis.
        VitnullError: another process has other files.
    """
    for path in noises:
        read_provenance(path, NOISE, BASIS, STEM_BASIS, NEAR_BASIS)
    ranks.agree("noises", ", ".join(sha256_of(path)[:12] for path in noises) if ranks.world > 1 else "")


def read_cases(
    noises: Sequence[Path],
    model: Model,
    controls: Sequence[Control],
    *,
    sigmas: Sequence[float],
    trials: int,
    seed: int,
    bound: float | None,
    notice: Callable[[str], None] = lambda text: None,
) -> list[Case]:
    """The noises of the files, as the model is tested with them, and their controls.

    Args:
        sigmas: root mean squares of what is drawn from a basis, in [0, 1] pixels.
        trials: draws of each control.
        bound: largest value of the pixels by which noise at encoder level is tested once more, in normalised units;
            None to leave that out.
        notice: is told if there is no such noise.

    Raises:
        ArtifactError: a noise means nothing to this model.
    """
    tested = read_noises_under_test(noises, model, sigmas=sigmas, seed=seed)
    if bound is not None:
        if all(one.noise.level != "encoder" for one in tested):
            notice("`realise`: there is no noise at encoder level.")
        tested = with_realised(tested, model, bound)
    return cases_of(tested, controls, trials, seed)


def write_results(
    document: Mapping[str, Any],
    found: Evaluation,
    *,
    out: Path | None,
    csv: Path | None,
    per_image: Path | None,
    force: bool,
) -> None:
    """Write what is wanted: the JSON document, its table, and a record a line for each image and noise.

    Raises:
        ArtifactError: a file cannot be written.
    """
    if per_image:
        write_per_image(per_image, found, force=force)
    if csv:
        write_csv(csv, document["results"], force=force)
    if out:
        write_json(out, document, force=force)


def below(results: Sequence[dict[str, Any]], least: float) -> list[dict[str, Any]]:
    """Results under noise itself, no control, where predictions match in fewer than `least` percent of the images."""
    found = [result for result in results if result["control"] == "none"]
    return [result for result in found if result["match_percent"] is None or result["match_percent"] < least]
