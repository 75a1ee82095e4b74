"""What `vitnull demo` has shown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nullspace_cli.commands.console import Console


def render(console: Console, document: Mapping[str, Any]) -> None:
    space, match = document["nullspace"], document["noise"]["match_percent"]
    names = {"demo": "demo (ViT, 32 x 32 patches)", "demo-cnn": "demo-cnn (ResNet)"}
    console.line()
    console.grid(
        ["model", "accuracy", "same class under null noise", "under random noise of equal norm"],
        [
            [
                names[name],
                f"{document['accuracy'][name]:.1f}%",
                f"{match[name]['null']:.1f}%",
                f"{match[name]['random']:.1f}%",
            ]
            for name in names
        ],
    )
    console.line(f"({document['images']} validation images, noise of rms {document['noise']['std']} in [0, 1] pixels)")
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
    for record in document["watermarks"]:
        rows.append(
            [
                record["output"],
                _answer(record["before"]),
                _answer(record["after"]),
                f"{record['embedding_error']:.3%}",
                f"{record['solver']['residual']:.0e}",
            ]
        )
    console.grid(["watermarked", "before", "after", "embedding moved", "solver residual"], rows)
    console.line()
    native = document["native"]
    changed = native["input_pixels_changed"]
    console.line(
        f"{native['output']} keeps its {native['size'][0]} x {native['size'][1]} pixels. Of the model's input "
        + ("not a bit changed." if changed == 0 else f"{changed:.4%} changed.")
    )
    console.line()
    _render_learned(console, document["learned_noise"])
    console.line()
    _render_fooled(console, document["fool"])
    console.line()
    console.grid(
        ["explained", "prediction", "methods", "sheet"],
        [
            [
                record["source"],
                _answer(record["prediction"]),
                len(record["methods"]),
                record["sheet"],
            ]
            for record in document["explain"]
        ],
    )
    console.line()
    folder = Path(document["artifacts"][0]).parent
    console.line("Then, on a picture of your own:")
    console.line(f"  vitnull watermark photo.jpg {folder / 'logo.png'} --model demo --report report.html")
    console.line()
    console.line(f"All of it to look at: {document['artifacts'][-1]}")


def _render_learned(console: Console, learned: Mapping[str, Any]) -> None:
    names = {"none": "learned", "shuffle": "its elements shuffled", "uniform": "uniform, same norm"}
    console.grid(
        ["noise on the patch embeddings", "norm", "same class", "logits moved (mse)"],
        [
            [
                names[result["control"]],
                f"{result['noise_norm']:.0f}",
                f"{result['match_percent']:.1f}%",
                f"{result['logit_mse']:.1f}",
            ]
            for result in learned["results"]
        ],
    )
    (noise,) = learned["noises"]
    console.line(f"({learned['images']} training images, {noise['rounds']} rounds, sampling limit {noise['limit']:g})")


def _render_fooled(console: Console, fooled: Mapping[str, Any]) -> None:
    seen, like = fooled["prediction"], fooled["likeness"]
    rows = [
        ("source", fooled["source"], like["correlation_source"]),
        ("target", fooled["target"], like["correlation_target"]),
        ("transformed", fooled["artifacts"]["exact"], None),
        ("preview", fooled["artifacts"]["image"], None),
    ]
    console.grid(
        ["fooled", "file", "the ViT sees", "correlation with transformed"],
        [
            [name, file, _answer(seen[name]), "-" if likeness is None else f"{likeness:.2f}"]
            for name, file, likeness in rows
        ],
    )


def _answer(answer: Mapping[str, Any]) -> str:
    return f"{answer['label']} {answer['probability']:.2%}"
