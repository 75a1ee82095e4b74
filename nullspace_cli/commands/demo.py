"""`vitnull demo`: the whole chain on the embedded models, offline."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.options import OutputOptions, path_name, whole
from nullspace_cli.commands.rendering.demo import render
from nullspace_cli.commands.reports import write_page


def demo(
    *,
    out_dir: Annotated[Path, typer.Option(metavar="DIR", parser=path_name, help="Where the files go.")] = Path(
        "vitnull-demo"
    ),
    images: Annotated[int, whole(least=10, most=500, help="Validation images to measure on.")] = 200,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", envvar="VITNULL_DEVICE", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    seed: Annotated[int, whole(least=0, most=2**32 - 1, help="Seed of the noise.")] = 0,
    output: OutputOptions,
    console: Console,
) -> int:
    """Show the whole chain on the embedded models and images: no network, no downloads, about a minute."""
    from nullspace_cli.engine.report.demo import page
    from nullspace_cli.engine.workflows.demo import INDEX, run_demo

    model, body, galleries = run_demo(out_dir, device, seed, images=images, force=output.force, progress=console.note)
    document = console.document("demo", model, seed, body)
    write_page(console, out_dir / INDEX, page(document, galleries))
    console.result(document, render)
    failed = [name for name, holds in _checks(body).items() if not holds]
    if not failed:
        return 0
    console.error(
        f"The demo's own checks failed ({', '.join(failed)}); this installation computes wrongly. Please report it."
    )
    return 3


def _checks(body: dict[str, Any]) -> dict[str, bool]:
    """Whether each part has shown what it should. Few images keep or lose a class by chance; the logits tell."""
    noise, *controls = body["learned_noise"]["results"]
    return {
        "nullspace": body["nullspace"]["check"]["passed"],
        "watermarks": all(record["match"] for record in [*body["watermarks"], body["native"]]),
        "learned noise": all(noise["logit_mse"] < control["logit_mse"] for control in controls),
        "fool": body["fool"]["verified"],
    }
