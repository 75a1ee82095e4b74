"""What `vitnull watermark` has made."""

from collections.abc import Mapping, Sequence
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import (
    alone,
    answer,
    gained,
    input_of,
    input_of_both,
    model_line,
    rate,
    skipped,
    tell_failures,
)

FIGURES = ("input_pixels_changed", "rms", "max")
"""Of a further reader."""
MANY = 8
"""Further readers of whom a table still tells."""


def render(console: Console, document: Mapping[str, Any]) -> None:
    records, summary = document["images"], document["summary"]
    if record := alone(document):
        _render_one(console, record, model_line(document))
        return
    if records:
        console.grid(
            ["image", "size", "nullspace", "input", "class", "confidence", "mark", "seen", "seconds"],
            [
                [
                    record["output"],
                    "{} x {}".format(*record["size"]),
                    record["nullspace"],
                    input_of(record),
                    {True: "kept", False: "CHANGED", None: "-"}[record["match"]],
                    "-" if record["confidence_change"] is None else f"{record['confidence_change']:.3%}",
                    "-" if record["mark_correlation"] is None else f"{record['mark_correlation']:.2f}",
                    f"{record['legibility']['full']:.0%}",
                    f"{record['seconds']:.2f}",
                ]
                for record in records
            ],
        )
        console.line()
        _render_readers(console, records)
    tell_failures(console, document)
    kept = "" if summary["matched"] is None else f", {summary['matched']} predictions kept"
    console.line(
        f"{summary['count']} images done, {summary['failed']} failed{skipped(summary)}; "
        f"{summary['bit_identical']} with a bit-identical model input{kept}{rate(summary)}"
    )


def _render_readers(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    """Each further reader's worst picture, as far as they are few."""
    worst: dict[str, dict[str, float]] = {}
    for reader in (reader for record in records for reader in record["readers"]):
        before = worst.setdefault(reader["reader"], dict.fromkeys(FIGURES, 0.0))
        for key in FIGURES:
            before[key] = max(before[key], reader[key])
    if worst:
        most_changed = sorted(worst.items(), key=lambda item: item[1]["input_pixels_changed"], reverse=True)
        rows = [
            [name, f"{most['input_pixels_changed']:.2%}", f"{most['rms']:.2f}", f"{most['max']:.0f}"]
            for name, most in most_changed[:MANY]
        ]
        console.grid(["for, at most", "changed", "rms", "max"], rows)
        console.line()


def _render_one(console: Console, record: Mapping[str, Any], model: str) -> None:
    solver, before, after = record["solver"], record["before"], record["after"]
    console.table(
        [
            ("image", f"{record['source']} -> {record['output']} ({record['size'][0]} x {record['size'][1]})"),
            ("model", model),
            ("nullspace", record["nullspace"]),
            ("model input", input_of_both(record)),
            ("before", before and answer(before)),
            ("after", after and f"{answer(after)}, {'same class' if record['match'] else 'ANOTHER CLASS'}"),
            ("embedding", before and _percent(record["embedding_error"], "changed by {} after 8-bit rounding")),
            ("features", after and _percent(record["feature_change"], "changed by {}")),
            (
                "mark",
                f"correlation {record['mark_correlation']:.2f}, PSNR {record['psnr']:.1f} dB"
                if record["psnr"] is not None and record["mark_correlation"] is not None
                else "invisible",
            ),
            ("seen", "{full:.0%} of the mark, {half:.0%} at half the size".format(**record["legibility"])),
            (
                "solver",
                f"p = {solver['norm']}, {solver['status']}, residual {solver['residual']:.1e}, "
                f"gap {solver['gap']:.1e}, bounds {solver['bound_violation']:.0e}, {solver['iterations']} iterations",
            ),
            ("JPEG", _jpeg(record)),
            *_lines_of_readers(record["readers"]),
            ("noise", record["diff"] and gained(record["diff"], record["diff_gain"])),
            ("exact", record["float"]),
            ("seconds", record["seconds"]),
        ]
    )


def _jpeg(record: Mapping[str, Any]) -> str | None:
    if record["file_size_ratio"] is None:
        return None
    other = "the source" if record["compared_with"] == "source" else "its plain JPEG, which it is compared with"
    return f"{record['file_size_ratio']:.2f} times {other}; {record['blocks_changed']:.1%} of the luma's blocks changed"


def _lines_of_readers(readers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each further reader; where they are many, those that read the mark best."""
    worst = sorted(readers, key=lambda reader: reader["input_pixels_changed"], reverse=True)[:MANY]
    lines = [
        (
            "for",
            f"{reader['reader']}: {reader['input_pixels_changed']:.2%} changed, rms {reader['rms']:.2f}, "
            f"at most {reader['max']}",
        )
        for reader in (readers if len(readers) <= MANY else worst)
    ]
    if len(readers) > MANY:
        lines.append(("", f"{len(readers) - MANY} more readers, less each (--json has them all)"))
    return lines


def _percent(value: float | None, text: str) -> str | None:
    return None if value is None else text.format(f"{value:.3%}")
