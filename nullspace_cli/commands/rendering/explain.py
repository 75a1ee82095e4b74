"""What `vitnull explain` has found."""

from collections.abc import Mapping, Sequence
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import alone, answer, figure, model_line, rate, skipped, tell_failures

MEASURES = ("spearman", "pearson", "ssim", "top10")


def render(console: Console, document: Mapping[str, Any]) -> None:
    records, summary = document["images"], document["summary"]
    if record := alone(document):
        explained = record["explained"]
        other = explained and explained["class"] != record["prediction"]["class"]
        console.table(
            [
                ("image", record["source"]),
                ("model", model_line(document)),
                ("prediction", record["prediction"] and answer(record["prediction"])),
                ("explained", answer(explained) if other else None),
                *((name, about["overlay"]) for name, about in record["methods"].items()),
                ("sheet", record["sheet"]),
                ("maps", record["float"]),
                ("seconds", record["seconds"]),
            ]
        )
    else:
        _render_many(console, records)
        tell_failures(console, document)
        console.line(f"{summary['count']} images done, {summary['failed']} failed{skipped(summary)}{rate(summary)}")
    if document["faithfulness"]:
        _render_faithfulness(console, document["faithfulness"], document["plot"])
    if document["noise"]:
        _render_noise(console, document["noise"])


def _render_many(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    if not records:
        return
    console.grid(
        ["image", "prediction", "maps", "seconds"],
        [
            [
                record["source"],
                answer(record["prediction"]) if record["prediction"] else "-",
                record["sheet"] or record["float"] or next(iter(record["methods"].values()))["overlay"] or "-",
                f"{record['seconds']:.2f}",
            ]
            for record in records
        ],
    )
    console.line()


def _render_faithfulness(console: Console, found: Mapping[str, Any], plot: str | None) -> None:
    labelled = any(areas["positive_label"] is not None for areas in found.values())
    columns = ["positive", "negative", *(["positive_label", "negative_label"] if labelled else [])]
    console.line()
    console.line("area under the curve while pixels go, most relevant first (positive) or last; of a random map beside")
    console.grid(
        ["method", *(text.replace("_", ", ") for name in columns for text in (name, "random"))],
        [
            [method, *(f"{value:.3f}" for name in columns for value in (areas[name], areas["random"][name]))]
            for method, areas in found.items()
        ],
    )
    if plot:
        console.line(f"curves: {plot}")


def _render_noise(console: Console, noise: Mapping[str, Any]) -> None:
    console.line()
    console.line(f"likeness of the maps with and without noise of rms {noise['rms']:g}")
    rows = [
        [method, kind.replace("_", " "), *(figure(likeness[name]) for name in MEASURES), likeness["undefined"]]
        for method, kinds in noise["methods"].items()
        for kind, likeness in kinds.items()
    ]
    console.grid(["method", "noise", *MEASURES, "undefined"], rows)
    for kind, share in noise["match_percent"].items():
        if share is not None:
            console.line(f"predictions kept under {kind.replace('_', ' ')} noise: {share:.1f}%")
