"""Results of an evaluation as files: a table, and one line for each image."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from nullspace_cli.engine.documents.commands.registry import checked_line
from nullspace_cli.engine.evaluation.stability import Evaluation
from nullspace_cli.engine.files.writing import write_bytes, write_file


def write_csv(path: Path, results: Sequence[dict[str, Any]], *, force: bool = False) -> Path:
    """Results as a table, with nested values in columns of their own; the trials in one, with spaces between them."""
    rows = [_flat(result) for result in results]
    text = StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return write_bytes(path, text.getvalue().encode(), force=force)


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    nested = ("match_ci95", "match_trials", "accuracy", "solver")
    low, high = result["match_ci95"] or (None, None)
    accuracy = result["accuracy"] or {}
    return {
        **{key: value for key, value in result.items() if key not in nested},
        "match_low": low,
        "match_high": high,
        "match_trials": " ".join(map(str, result["match_trials"] or ())),
        "accuracy_clean": accuracy.get("clean"),
        "accuracy_noisy": accuracy.get("noisy"),
    }


def write_per_image(path: Path, evaluation: Evaluation, *, force: bool = False) -> Path:
    """One JSON record a line, as of `Evaluation.per_image`."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(checked_line("eval", record) + "\n" for record in evaluation.per_image())

    return write_file(path, write, force=force)
