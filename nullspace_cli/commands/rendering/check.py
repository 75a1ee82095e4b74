"""What `vitnull check` has found."""

from collections.abc import Iterator, Mapping
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import alone, answer, figure, rate, tell_failures

Entry = Mapping[str, Any]


def render(console: Console, document: Mapping[str, Any]) -> None:
    records = document["images"]
    if record := alone(document):
        _render_one(console, record)
    elif records:
        _render_many(console, document)
    _render_verdict(console, document)


def broken_promises(record: Mapping[str, Any]) -> Iterator[str]:
    """What of a pair was asked to stay and has not, a clause each."""
    for entry in record["readers"]:
        if entry["verified"] is False:
            suffix = "" if record["reading"] == "timm" else "_shown"
            share, most = entry[f"input_pixels_changed{suffix}"], entry[f"max{suffix}"]
            yield f"the input of {entry['reader']} differs, {share:.4%} of its values, by up to {_levels(most)}."
    for entry in record["models"]:
        if entry["verified"] is False:
            what = "its input differs, and it has no classes" if entry["match"] is None else _answers(entry)
            yield f"the answer of {entry['model']} differs: {what}."


def _render_one(console: Console, record: Mapping[str, Any]) -> None:
    pixels, sizes = record["pixels"], record["sizes"]
    other_size = "of another size: each is read by its own"
    console.table(
        [
            *((side, _file(record, side)) for side in ("source", "result")),
            ("pixels", other_size if pixels is None else _changed(pixels)),
            *((f"model {entry['model']}", _answers(entry)) for entry in record["models"]),
            *((f"{side} down, up", _down_and_up(record["down_and_up"][side])) for side in sizes),
        ]
    )
    console.line()
    console.grid(*_readers(record))


def _readers(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of the readers: those that were asked about first, then from the least change to the greatest."""
    entries = record["readers"]
    asked = any(entry["asked"] for entry in entries)
    turned = any(entry[key] != entry[f"{key}_shown"] for entry in entries for key in ("input_pixels_changed", "max"))
    qualities = [saved["quality"] for saved in entries[0]["jpeg"]] if entries else []
    header = [
        *("reader", "values changed", "rms", "largest"),
        *(["upright: changed", "rms", "largest"] if turned else []),
        *(text for quality in qualities for text in (f"JPEG {quality}: rms", "of the source's")),
        *(["asked"] if asked else []),
    ]
    rows = [
        [
            entry["reader"],
            *_three(entry, ""),
            *(_three(entry, "_shown") if turned else []),
            *(figure(saved[side]["rms"], ".2f") for saved in entry["jpeg"] for side in ("result", "source")),
            *([_promise(entry["verified"])] if asked else []),
        ]
        for entry in entries
    ]
    return header, rows


def _three(entry: Entry, suffix: str) -> list[str]:
    share = entry[f"input_pixels_changed{suffix}"]
    return [
        "none" if share == 0 else figure(share, ".2%"),
        figure(entry[f"rms{suffix}"], ".2f"),
        figure(entry[f"max{suffix}"], "d"),
    ]


def _render_many(console: Console, document: Mapping[str, Any]) -> None:
    records, summary = document["images"], document["summary"]
    asked = any(record["verified"] is not None for record in records)
    console.grid(
        [
            *("result", "size", "pixels: rms", "readers who see the same", "greatest rms"),
            *(["class"] if document["models"] else []),
            *("down, up: source", "result"),
            *(["asked"] if asked else []),
        ],
        [
            [
                record["result"],
                _size(record),
                figure(record["pixels"] and record["pixels"]["rms"], ".2f"),
                f"{sum(entry['max'] == 0 for entry in record['readers'])} of {len(record['readers'])}",
                figure(max(entry["rms"] for entry in record["readers"]), ".2f"),
                *([_classes(record["models"])] if document["models"] else []),
                *(_down_and_up(record["down_and_up"][side]) for side in ("source", "result")),
                *([_promise(record["verified"])] if asked else []),
            ]
            for record in records
        ],
    )
    console.line()
    console.grid(
        ["reader", "bit-identical", "mean changed", "mean rms", "largest"],
        [
            [
                reader["reader"],
                f"{reader['bit_identical']} of {summary['count']}",
                f"{reader['mean_changed']:.2%}",
                f"{reader['mean_rms']:.2f}",
                str(reader["max"]),
            ]
            for reader in sorted(summary["readers"], key=lambda reader: (not reader["asked"], reader["mean_rms"]))
        ],
    )
    if summary["models"]:
        console.line()
        console.grid(
            ["model", "same class", "mean change of confidence", "greatest", "bit-identical input"],
            [
                [
                    model["model"],
                    "-" if model["matched"] is None else f"{model['matched']} ({model['match_percent']:.1f}%)",
                    figure(model["mean_confidence_change"], ".3%"),
                    figure(model["max_confidence_change"], ".3%"),
                    str(model["bit_identical"]),
                ]
                for model in summary["models"]
            ],
        )


def _render_verdict(console: Console, document: Mapping[str, Any]) -> None:
    summary, unmatched = document["summary"], document["unmatched"]
    if summary["count"] > 1 or summary["failed"]:
        counts = {"failed": summary["failed"], "without a counterpart": sum(map(len, unmatched.values()))}
        counts["of another size"] = summary["other_size"]
        counts["sources that look marked or attacked"] = summary["suspicious"]["source"]
        counts["such results"] = summary["suspicious"]["result"]
        others = "".join(f", {count} {what}" for what, count in counts.items() if count or what == "failed")
        console.line()
        tell_failures(console, document)
        console.line(f"{summary['count']} pairs compared{others}{rate(summary)}")
    if summary["verified"] is not None:
        broken = sum(record["verified"] is False for record in document["images"])
        console.line()
        console.line(
            f"CHANGED, and was asked to stay: {broken} of {summary['count']} pairs"
            if broken
            else "all that was asked to stay has"
        )


def _promise(verified: bool | None) -> str:
    return {True: "kept", False: "CHANGED", None: "-"}[verified]


def _classes(models: list[Entry]) -> str:
    matches = [entry["match"] for entry in models if entry["match"] is not None]
    if not matches:
        return "-"
    return "kept" if all(matches) else f"CHANGED ({matches.count(False)} of {len(matches)})"


def _answers(entry: Entry) -> str:
    """A model's answers, and how far they are from one another."""
    if entry["before"] is None:
        return f"features changed by {figure(entry['feature_change'], '.3%')}, {_input(entry)}"
    same = "same class" if entry["match"] else "ANOTHER CLASS"
    return (
        f"{answer(entry['before'])} -> {answer(entry['after'])}, {same}, confidence changed by "
        f"{entry['confidence_change']:.3%}, logits by {entry['logit_mse']:.2e} (mse), {_input(entry)}"
    )


def _input(entry: Entry) -> str:
    share = entry["input_pixels_changed" if entry["reading"] == "timm" else "input_pixels_changed_shown"]
    return "input bit-identical" if share == 0 else f"{share:.4%} of the input changed"


def _file(record: Mapping[str, Any], side: str) -> str:
    width, height = record["sizes"][side]
    return f"{record[side]} ({record['formats'][side]}, {width} x {height})"


def _size(record: Mapping[str, Any]) -> str:
    before, after = ("{} x {}".format(*record["sizes"][side]) for side in ("source", "result"))
    return before if before == after else f"{before} -> {after}"


def _changed(change: Entry) -> str:
    if change["max"] == 0:
        return "the same"
    return f"{change['input_pixels_changed']:.2%} changed, rms {change['rms']:.2f}, largest {_levels(change['max'])}"


def _levels(count: int) -> str:
    return f"{count} level{'' if count == 1 else 's'}"


def _down_and_up(found: Entry) -> str:
    ratio = "" if found["ratio"] is None else f", ratio {found['ratio']:.2f}"
    return f"rms {found['rms']:.1f}{ratio}{': looks marked or attacked' if found['suspicious'] else ''}"
