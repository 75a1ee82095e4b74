"""What `vitnull learn-noise` has learned."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import model_line


def render(console: Console, document: Mapping[str, Any]) -> None:
    from nullspace_cli.engine.text import shortest

    plan = document["plan"]
    console.table(
        [
            ("model", model_line(document)),
            ("level", document["level"]),
            ("images", f"{document['images']}, {len(document['skipped'])} left out"),
            (
                "protocol",
                f"{plan['protocol']}, lr {shortest(plan['lr'])}, {plan['rounds']} rounds of {plan['step_images']}",
            ),
            ("loss", f"mean ||f(x with noise) - f(x)||_{float(plan['norm']):g} of the {document['outputs']}"),
        ]
    )
    console.line()
    console.grid(
        ["noise", "limit", "steps", "loss, first step", "last round", "norm before", "after", "images/s"],
        [
            [
                record["noise"],
                shortest(record["limit"]),
                f"{record['steps']}{' (stopped)' if record['stopped'] else ''}",
                f"{record['loss_first']:.4g}",
                f"{record['loss_last']:.4g}",
                f"{record['norm_init']:.4g}",
                f"{record['norm_final']:.4g}",
                "-" if record["images_per_second"] is None else f"{record['images_per_second']:.1f}",
            ]
            for record in document["noises"]
        ],
    )
