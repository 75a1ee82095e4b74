"""Ratios that are kept from run to run."""

from pathlib import Path

from benchmarks import history
from benchmarks.measure import Row


def row(ours: float, what: str = "a mark") -> Row:
    return Row(what, ours, "theirs", 10.0)


def test_a_ratio_that_has_grown_is_said(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    for ours in (2.0, 2.2, 2.1):
        assert history.grown([row(ours)], history.read(file)) == []
        history.append([row(ours)], file)
    assert history.grown([row(2.3), row(9.0, "another")], history.read(file)) == []
    assert history.grown([row(3.0)], history.read(file)) == [
        "a mark, against theirs: 0.3000, up from 0.2100 (the median of 3 runs)"
    ]
