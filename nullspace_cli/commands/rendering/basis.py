"""What `vitnull basis` has found."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import model_line


def render(console: Console, document: Mapping[str, Any]) -> None:
    check = document["check"]
    height, width = document["patch_size"]
    console.table(
        [
            ("model", model_line(document)),
            (
                "patch",
                f"{document['in_chans']} x {height} x {width} = {document['patch_dim']} -> {document['embed_dim']}",
            ),
            ("rank", document["rank"]),
            ("nullity", f"{document['nullity']} ({document['nullity'] / document['patch_dim']:.1%} of a patch)"),
            ("per channel", ", ".join(map(str, document["nullity_per_channel"]))),
            (
                "singular values",
                f"{document['sigma_max']:.4g} ... {document['sigma_min']:.4g} (rtol {document['rtol']:.2g})",
            ),
            ("null noise", check and f"moves the {check['outputs']} by {check['null_logit_mse']:.2g} (mse)"),
            ("random noise", check and f"of equal norm moves them by {check['random_logit_mse']:.2g}"),
            ("check", check and {True: "passed", False: "FAILED", None: "says nothing"}[check["passed"]]),
            ("basis", document["basis"]),
            ("preview", document["preview"]),
        ]
    )
