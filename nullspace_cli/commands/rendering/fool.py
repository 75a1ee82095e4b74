"""What `vitnull fool` has made."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import figure, gained, input_of, input_of_both


def render(console: Console, document: Mapping[str, Any]) -> None:
    like, solver, prediction = document["likeness"], document["solver"], document["prediction"]
    files, preview = document["artifacts"], not document["bounded"]
    result, kind = (files["exact"], "float image") if preview else (files["image"], "8-bit image")
    width, height = document["size"]
    chosen = document["sources"]
    console.table(
        [
            ("source", f"{document['source']}{_answer(prediction['source'])}"),
            ("chosen", chosen and f"the best of {chosen['candidates']}, score {chosen['score']:.3f}"),
            ("target", f"{document['target']}{_answer(prediction['target'])}"),
            ("transformed", f"{result}{_answer(prediction['transformed'])}"),
            ("preview", f"{files['image']}, clipped{_answer(prediction['preview'])}" if preview else None),
            (
                "kind",
                f"{kind}, {width} x {height}, {document['nullspace']} nullspace, strength {document['strength']:g}",
            ),
            ("range", "{:.3g} ... {:.3g}".format(*document["range"])),
            ("network", _kept(document)),
            ("like target", _likeness(like, "target")),
            ("like source", _likeness(like, "source")),
            (
                "solver",
                f"p = {solver['norm']}, {solver['status']}, residual {solver['residual']:.1e}, gap {solver['gap']:.1e}",
            ),
            ("exact", None if preview else files["exact"]),
            ("noise", gained(files["noise"], document["noise_gain"])),
            ("sheet", files["sheet"]),
        ]
    )
    if document["saliency"]:
        console.line()
        _render_saliency(console, document)


def _render_saliency(console: Console, document: Mapping[str, Any]) -> None:
    files = document["saliency_png"]
    console.grid(
        ["Spearman of maps", "source ~ result", "after PNG", "target ~ result", "random noise", "row-space noise"],
        [
            [
                method,
                figure(pairs["source_transformed"]["spearman"]),
                figure(files[method]["source_transformed"]["spearman"]),
                *(figure(pairs[name]["spearman"]) for name in ("target_transformed", "control", "control_row_space")),
            ]
            for method, pairs in document["saliency"].items()
        ],
    )


def _likeness(like: Mapping[str, Any], other: str) -> str:
    return (
        f"SSIM {like[f'ssim_{other}']:.3f}, correlation {figure(like[f'correlation_{other}'])}, "
        f"of detail {figure(like[f'detail_correlation_{other}'])}, PSNR {figure(like[f'psnr_{other}'], '.1f')} dB"
    )


def _kept(document: Mapping[str, Any]) -> str:
    if input_of(document) == "bit-identical":
        return f"the same input, {input_of_both(document)}"
    parts = []
    if document["embedding_error"] is not None:
        parts.append(f"embedding changed by {document['embedding_error']:.2e}")
    if document["logit_mse"] is not None:
        parts.append(f"logits by {document['logit_mse']:.2e} (mse)")
    parts.append(f"features by {figure(document['feature_change'], '.2e')}")
    return ", ".join(parts)


def _answer(answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return ""
    return f": {answer['label'] or 'class ' + str(answer['class'])} ({answer['probability']:.2%})"
