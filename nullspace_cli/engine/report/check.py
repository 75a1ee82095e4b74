"""The page of `vitnull check`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nullspace_cli.engine.comparison.input_change import inputs_of
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.parts import (
    UNKNOWN,
    Cell,
    Images,
    Mark,
    Page,
    Row,
    Section,
    Table,
    about,
    answer,
    counted,
    figures,
    input_changed,
    kept,
    number,
)
from nullspace_cli.engine.report.pictures import View, amplified, compared, thumbnail
from nullspace_cli.engine.report.watermark import seen
from nullspace_cli.engine.transforms.readers import Reader

SHOWN = 3
"""Readers whose inputs are shown: those that were asked about first, and that of which most changes."""


def show_checked(
    gallery: Gallery, record: Mapping[str, Any], readers: Sequence[Reader], source: Picture, result: Picture
) -> None:
    """Put a pair's pictures by: the files as they are read, and what some readers are given of them."""
    before, after = source.turn.upright(source.pixels), result.turn.upright(result.pixels)
    views: list[View] = []
    if before.shape == after.shape:
        picture, part = compared("Picture", ("source", before), ("result", after))
        change = after[part].astype(np.int16) - before[part]
        views += [picture, amplified("Difference", change, caption="Of the files, the same part of them.")]
    by_name = {reader.name: reader for reader in readers}
    for entry in _shown(record["readers"]):
        inputs = inputs_of(by_name[entry["reader"]].input_pixels, source, result)
        own = zip(seen(inputs, source.turn), ("", ", difference"), strict=False)  # equal inputs have none
        views += [view._replace(title=f"{entry['reader']}{ending}") for view, ending in own]
    gallery.add(_key(record), _badness(record), thumbnail(after), views)


def _shown(readers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Some of a pair's readers, which come in their order: what was asked, and then from the least change on."""
    return list(readers) if len(readers) <= SHOWN else [*readers[: SHOWN - 1], readers[-1]]


def _key(record: Mapping[str, Any]) -> str:
    return f"{record['source']} → {record['result']}"


def _badness(record: Mapping[str, Any]) -> tuple[float | None, ...]:
    """What makes a pair one to look at first."""
    asked = [entry["rms"] for entry in record["readers"] if entry["asked"]]
    return (
        record["verified"] is False,
        sum(entry["match"] is False for entry in record["models"]),
        max(asked, default=0),
        max((entry["confidence_change"] or 0 for entry in record["models"]), default=0),
        max((entry["rms"] for entry in record["readers"]), default=0),
    )


def page(document: Mapping[str, Any], gallery: Gallery) -> Page:
    """All pairs of a run."""
    summary, records = document["summary"], document["images"]
    readers = _readers_of_one(records[0]) if len(records) == 1 else _readers_of_all(summary)
    broken = sum(record["verified"] is False for record in records)
    lonely = sum(map(len, document["unmatched"].values()))
    models = document["models"]
    named, digests = ", ".join(one["model"] for one in models), [one["weights_sha256"][:12] for one in models]
    weights = ", ".join(f"{one['weights']} {digest}" for one, digest in zip(models, digests, strict=True))
    return Page(
        "vitnull check",
        _title(summary, broken),
        "What readers and models make of two files, from whatever tool.",
        [
            (f"{summary['count']:,}", "compared"),
            *figures([(summary["verified"], "hold what was asked of them")]),
            *figures([(broken or None, "do not hold it"), (summary["failed"] or None, "not done")], "bad"),
            *figures([(lonely or None, "without a counterpart"), (summary["other_size"] or None, "of another size")]),
        ],
        [
            Section(
                images=Images(
                    ("Pixels changed", "Readers bit-identical", "Most changed", "Answers", "Holds"),
                    [_row(record) for record in records],
                    gallery,
                    "those first that do not hold what was asked, then by what changes most",
                    "A larger --report-size has more of them; --json or --jsonl has the figures of all.",
                    noun="pair",
                )
            ),
            Section("Readers and models", tables=[readers, *_models(records, summary)]),
        ],
        document["failures"],
        about(
            {**document, "model": named or None, "weights": weights or None, "weights_sha256": None},
            ("Reading", document["reading"]),
            ("Asked of models", document["keep"] if named else None),
            ("Tolerance", _levels(document["tolerance"])),
        ),
    )


def _levels(levels: float) -> str:
    return f"{levels:g} level{'' if levels == 1 else 's'}"


def _title(summary: Mapping[str, Any], broken: int) -> str:
    count = summary["count"]
    if not count:
        return "Nothing was compared"
    if summary["verified"] is None:
        return f"What readers make of {counted(count, 'pair')} of files"
    if broken:
        return (
            f"{broken:,} of {counted(count, 'pair')} of files {'does' if broken == 1 else 'do'} not hold what was asked"
        )
    return "The result holds what was asked" if count == 1 else f"All {count:,} results hold what was asked"


def _row(record: Mapping[str, Any]) -> Row:
    pixels, readers, models = record["pixels"], record["readers"], record["models"]
    same, most = sum(entry["max"] == 0 for entry in readers), max(readers, key=lambda entry: entry["rms"], default=None)
    matched = [entry["match"] for entry in models if entry["match"] is not None]
    cells: list[Cell] = [
        "another size" if pixels is None else f"{pixels['input_pixels_changed']:.2%}",
        f"{same} of {len(readers)}",
        UNKNOWN if most is None else f"rms {most['rms']:.3g}, up to {most['max']}",
        kept(all(matched) if matched else None),
        UNKNOWN if record["verified"] is None else Mark("yes", "good") if record["verified"] else Mark("no", "bad"),
    ]
    facts: list[tuple[str, Cell | None]] = []
    for side in ("source", "result"):
        width, height = record["sizes"][side]
        test = record["down_and_up"][side]
        said = f"more fine detail than photos have (rms {test['rms']:.3g})" if test["suspicious"] else "as of photos"
        facts += [
            (side.capitalize(), f"{record[side]}, {record['formats'][side]}, {width} × {height}"),
            (f"Fine detail of the {side}", Mark(said, "bad") if test["suspicious"] else said),
        ]
    return Row(_key(record), cells, facts)


def _readers_of_one(record: Mapping[str, Any]) -> Table:
    entries = record["readers"]
    qualities = [saved["quality"] for saved in entries[0]["jpeg"]] if entries else []
    rows = [
        [
            entry["reader"],
            input_changed(entry["input_pixels_changed"]),
            number(entry["rms"]),
            str(entry["max"]),
            *(number(saved["result"]["rms"]) for saved in entry["jpeg"]),
            UNKNOWN if entry["verified"] is None else Mark("kept", "good") if entry["verified"] else Mark("no", "bad"),
        ]
        for entry in entries
    ]
    header = ("Reader", "Input", "Rms", "Largest", *(f"JPEG {quality}: rms" for quality in qualities), "Asked")
    return Table("What readers are given, in levels", header, rows)


def _readers_of_all(summary: Mapping[str, Any]) -> Table:
    rows = [
        [
            entry["reader"],
            f"{entry['bit_identical']:,} of {summary['count']:,}",
            number(entry["mean_changed"], ".3%"),
            number(entry["mean_rms"]),
            number(entry["max"], "d"),
        ]
        for entry in summary["readers"]
    ]
    header = ("Reader", "Bit-identical", "Values changed", "Rms", "Largest")
    return Table("What readers are given, means over the pairs, in levels", header, rows)


def _models(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Table]:
    if not summary["models"]:
        return []
    if len(records) == 1:
        rows: list[list[Cell]] = [
            [
                entry["model"],
                answer(entry["before"]),
                answer(entry["after"]),
                kept(entry["match"]),
                number(entry["confidence_change"], ".3%"),
            ]
            for entry in records[0]["models"]
        ]
        return [Table("What models say", ("Model", "Source", "Result", "Prediction", "Confidence moved"), rows)]
    rows = [
        [
            entry["model"],
            number(entry["matched"], ",d"),
            number(entry["match_percent"], ".1f"),
            number(entry["mean_confidence_change"], ".3%"),
            number(entry["max_confidence_change"], ".3%"),
        ]
        for entry in summary["models"]
    ]
    return [Table("What models say", ("Model", "Kept", "Kept, %", "Confidence moved", "At most"), rows)]
