"""Whether a file that was written keeps what is promised of it."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console


def exit_code_of(console: Console, record: Mapping[str, Any], result: str, tolerance: float) -> int:
    """What the command ends with for the file `result`; if that did not pass verification, it is said why."""
    if record["verified"] is not False:
        return 0
    console.error(f"{result} does not hold: {_broken_promise(record, tolerance)}.")
    return 3


def _broken_promise(record: Mapping[str, Any], tolerance: float) -> str:
    """What of a file that did not pass verification has changed, as a clause."""
    kept = {True: "the class is kept", False: "the class is another", None: "there are no classes"}[record["match"]]
    for name, key in (("embedding", "embedding_error"), ("feature", "feature_change")):
        if record[key] is not None:
            return f"{kept}, {name} change {record[key]:.3g} (tolerance {tolerance:.3g})"
    return kept
