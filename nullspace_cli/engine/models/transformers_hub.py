"""The folder of a model of transformers' on the hub, in the client's cache."""

from pathlib import Path

from nullspace_cli.engine.documents.base import read_json
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.files.hub import fetch
from nullspace_cli.engine.models.transformers_images import FILE
from nullspace_cli.engine.models.transformers_twin import is_transformers
from nullspace_cli.engine.models.weights_file import TRANSFORMERS_NAMES, files_of


def fetched_folder(repository: str, *, weights: bool, cache: str | None) -> Path | None:
    """Fetch what a model of transformers' consists of; None where the repository is not transformers'.

    All files are of one commit, also where the repository changes meanwhile. To be called in `hub_access`.

    Args:
        repository: "owner/name", or "owner/name@revision".
        weights: whether they are fetched too.

    Raises:
        ModelError: the repository has no weights, or its config.json or index of weights is broken.
        Exception: the hub's client's, of whatever kind, where a file cannot be had.
    """
    config = fetch(repository, "config.json", cache)
    if config is None or not is_transformers(read_json(config, "the config.json of a model", ModelError)):
        return None
    commit = f"{repository.partition('@')[0]}@{config.parent.name}"
    fetch(commit, FILE, cache)
    if weights:
        _fetch_weights(commit, cache)
    return config.parent


def _fetch_weights(commit: str, cache: str | None) -> None:
    """The weights, in one file or several.

    Without a network it is not known which of the files the repository has: then the first one in the cache is taken.
    """
    failures = []
    for name in TRANSFORMERS_NAMES:
        try:
            found = fetch(commit, name, cache)
            if found is None:
                continue
            for shard in files_of(found)[1:]:
                fetch(commit, shard.name, cache)
            return
        except FileNotFoundError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    raise ModelError(f"the repository has no weights: none of {', '.join(TRANSFORMERS_NAMES)}.")
