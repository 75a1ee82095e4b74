"""`vitnull demo`: the whole chain on the embedded models, offline."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.options import OutputOptions


def demo(
    *,
    out_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("vitnull-demo"),
    images: Annotated[int, typer.Option(min=10, max=500, help="Validation images to measure on.")] = 200,
    device: Annotated[str, typer.Option(envvar="VITNULL_DEVICE", help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the noise.")] = 0,
    output: OutputOptions,
    console: Console,
) -> int:
    """Show the whole chain on the embedded models and images: no network, no downloads, under a minute."""
    from nullspace_cli.engine.demonstration import run_demo

    model, body = run_demo(out_dir, device, seed, images=images, force=output.force, progress=console.note)
    if output.json:
        console.json(console.document("demo", model, seed, body))
    else:
        _render(console, body)
    kept = all(record["match"] for record in [*body["watermarks"], body["native"]])
    if body["nullspace"]["check"]["passed"] and kept:
        return 0
    console.error("The demo's own checks failed; this installation computes wrongly. Please report it.")
    return 3


def _render(console: Console, body: dict[str, Any]) -> None:
    space, match = body["nullspace"], body["noise"]["match_percent"]
    names = {"demo": "demo (ViT, 32 x 32 patches)", "demo-cnn": "demo-cnn (ResNet)"}
    console.line()
    console.grid(
        ["model", "accuracy", "same class under null noise", "under random noise of equal norm"],
        [
            [
                names[name],
                f"{body['accuracy'][name]:.1f}%",
                f"{match[name]['null']:.1f}%",
                f"{match[name]['random']:.1f}%",
            ]
            for name in names
        ],
    )
    console.line(f"({body['images']} validation images, noise of rms {body['noise']['std']} in [0, 1] pixels)")
    console.line()
    console.line(
        f"The ViT reads {space['patch_dim']} numbers a patch by a matrix of rank {space['rank']}: {space['nullity']} "
        f"directions are invisible to it."
    )
    console.line(
        f"Its logits under null noise moved by {space['check']['null_logit_mse']:.1e} (mse), "
        f"under random noise of equal norm by {space['check']['random_logit_mse']:.1e}."
    )
    console.line()
    rows = []
    for record in body["watermarks"]:
        before, after = record["before"], record["after"]
        rows.append(
            [
                record["output"],
                f"{before['label']} {before['probability']:.2%}",
                f"{after['label']} {after['probability']:.2%}",
                f"{record['embedding_error']:.3%}",
                f"{record['solver']['residual']:.0e}",
            ]
        )
    console.grid(["watermarked", "before", "after", "embedding moved", "solver residual"], rows)
    console.line()
    native = body["native"]
    changed = native["input_pixels_changed"]
    console.line(
        f"{native['output']} keeps its {native['size'][0]} x {native['size'][1]} pixels. Of the model's input "
        + ("not a bit changed." if changed == 0 else f"{changed:.4%} changed.")
    )
    console.line()
    folder = Path(body["artifacts"][0]).parent
    console.line(
        f"Look at {folder / 'native.png'}, {folder / 'watermarks.png'} and {folder / 'demo.basis.png'}. Then, on a "
        f"picture of your own:"
    )
    console.line(f"  vitnull watermark photo.jpg {folder / 'logo.png'} --model demo")
