"""Ratios from run to run: each is kept, and one that has grown is said, so that a loss of speed shows."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Row

FILE = Path(__file__).with_name("history.jsonl")

GROWN = 1.15
"""A ratio has grown when it exceeds the median of those before by this; runs on one machine differ by less."""


def grown(rows: Sequence[Row], before: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each ratio that has grown since earlier runs on as many cores."""
    told = []
    for row in rows:
        earlier = [record["ratio"] for record in before if _same(record, row)]
        if earlier and row.ratio > GROWN * statistics.median(earlier):
            told.append(
                f"{row.what}, against {row.reference}: {row.ratio:.4f}, up from {statistics.median(earlier):.4f} "
                f"(the median of {len(earlier)} runs)"
            )
    return told


def _same(record: dict[str, Any], row: Row) -> bool:
    return (record["what"], record["reference"], record["cores"]) == (row.what, row.reference, os.cpu_count())


def read(file: Path = FILE) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(rows: Sequence[Row], file: Path = FILE) -> None:
    """Add a line for each ratio: what, by how much, when, and on what."""
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    with file.open("a") as stream:
        for row in rows:
            record = {"what": row.what, "reference": row.reference, "ratio": round(row.ratio, 5)}
            stream.write(json.dumps({**record, "ours": round(row.ours, 4), **about}) + "\n")
