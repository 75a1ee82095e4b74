"""What `vitnull eval` has measured."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import figure


def render(console: Console, document: Mapping[str, Any]) -> None:
    labelled = document["accuracy"] is not None
    header = ["noise", "level", "size", "control", "match %", "95%", "logit mse", "feature mse", "cosine", "norm"]
    console.grid(
        [*header, *(["accuracy %"] if labelled else [])],
        [
            [
                _name(result),
                result["level"],
                _size(result),
                "-" if result["control"] == "none" else result["control"],
                figure(result["match_percent"], ".2f"),
                "-" if result["match_ci95"] is None else "{:.1f} - {:.1f}".format(*result["match_ci95"]),
                figure(result["logit_mse"], ".3g"),
                figure(result["feature_mse"], ".3g"),
                figure(result["feature_cosine"], ".4f"),
                figure(result["noise_norm"], ".4g"),
                *([figure(result["accuracy"]["noisy"], ".2f")] if labelled else []),
            ]
            for result in document["results"]
        ],
    )
    skipped = f" ({len(document['skipped'])} left out)" if document["skipped"] else ""
    accuracy = f"{document['accuracy']:.2f}% without noise" if labelled else "unknown"
    console.line()
    console.line(
        f"{document['model']} on {document['images']} images of {document['data']}{skipped}; "
        f"accuracy {accuracy} ({document['ground_truth']}); mse: summed over the outputs, mean over the images"
    )


def render_plot(console: Console, document: Mapping[str, Any]) -> None:
    console.line(document["plot"])


def shortfall(result: Mapping[str, Any], least: float) -> str:
    """That predictions match less often than `least` percent, as a sentence."""
    from nullspace_cli.engine.text import shortest

    return f"{_name(result)} keeps {figure(result['match_percent'], '.2f')}%, less than {shortest(least)}%."


def _name(result: Mapping[str, Any]) -> str:
    """What tells a noise from the others of a run."""
    marks = []
    if result["transfer"]:
        marks.append(f"of {result['noise_model']}")
    if result["realised"]:
        marks.append(f"in pixels, residual {figure(result['residual'], '.2g')}")
    return result["noise"] + (f" ({', '.join(marks)})" if marks else "")


def _size(result: Mapping[str, Any]) -> str:
    """What noise started from, or was drawn with."""
    from nullspace_cli.engine.text import shortest

    if result["sigma"] is not None:
        return f"sigma {shortest(result['sigma'])}"
    return "-" if result["limit"] is None else f"limit {shortest(result['limit'])}"
