"""What `vitnull basis` has found."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import model_line

PROOFS = {
    "staircase": "blocks of the matrix have as much rank as counting allows; least singular value",
    "inertia": "eigenvalues of A A^T counted by factorisation; singular values are zero up to a share of",
}


def render(console: Console, document: Mapping[str, Any]) -> None:
    check, of_patches = document["check"], document["kind"] == "patch"
    what, whole = ("patch", "a patch") if of_patches else ("image", "the image")
    height, width = document[f"{what}_size"]
    inputs, outputs, proof = document["inputs"], document["outputs"], document["nullity_proof"]
    if of_patches:
        readers, detail = [], [("per channel", ", ".join(map(str, document["nullity_per_channel"])))]
    else:
        readers = [("first layers", "; ".join(document["layers"]))]
        detail = [*_spectrum(document), ("proof", f"{PROOFS[proof['method']]} ({proof['threshold']:.2g})")]
    smallest = "" if document["sigma_min"] is None else f" ... {document['sigma_min']:.4g}"
    console.table(
        [
            ("model", model_line(document)),
            *readers,
            (what, f"{document['in_chans']} x {height} x {width} = {inputs} -> {outputs}"),
            ("rank", document["rank"]),
            ("nullity", f"{document['nullity']} ({document['nullity_share']:.1%} of {whole})"),
            *detail,
            ("singular values", f"{document['sigma_max']:.4g}{smallest} (rtol {document['rtol']:.2g})"),
            ("null noise", check and f"moves the {check['outputs']} by {check['null_logit_mse']:.2g} (mse)"),
            ("random noise", check and f"of equal norm moves them by {check['random_logit_mse']:.2g}"),
            ("check", check and {True: "passed", False: "FAILED", None: "says nothing"}[check["passed"]]),
            ("basis", document["basis"]),
            ("preview", document["preview"]),
        ]
    )


def render_spectrum(console: Console, document: Mapping[str, Any]) -> None:
    """What there is to see of first layers without an exact nullspace."""
    console.table(
        [
            ("model", model_line(document)),
            ("first layers", "; ".join(document["layers"])),
            ("image", f"{document['inputs']} -> {document['outputs']}"),
            *_spectrum(document),
            ("preview", document["preview"]),
        ]
    )


def _spectrum(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many of the singular values are small, layer by layer."""
    rows = []
    for layer in document["spectrum"]:
        shares = ", ".join(f"{share:.2%}" for share in layer["share_below"].values())
        bounds = ", ".join(f"{float(bound):g}" for bound in layer["share_below"])
        least = layer["sigma_min"] / layer["sigma_max"]
        rows.append(("spectrum", f"{shares} below {bounds} of the largest; least {least:.2g} (edges closed)"))
    return rows
