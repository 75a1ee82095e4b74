"""What `vitnull basis` has found."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import model_line

PROOFS = {
    "staircase": "blocks of the matrix have as much rank as counting allows; least singular value",
    "inertia": "eigenvalues counted by factorisation; singular values are zero up to a share of",
}


def render(console: Console, document: Mapping[str, Any]) -> None:
    check, of_patches = document["check"], document["kind"] == "patch"
    what, whole = ("patch", "a patch") if of_patches else ("image", "the image")
    height, width = document[f"{what}_size"]
    inputs, outputs = document["inputs"], document["outputs"]
    detail = []
    if document["rank"] is not None:
        detail.append(("rank", document["rank"]))
        detail.append(("nullity", f"{document['nullity']} ({document['nullity_share']:.1%} of {whole})"))
    if of_patches:
        detail.append(("per channel", ", ".join(map(str, document["nullity_per_channel"]))))
    if document.get("output_bound"):
        detail.append(("near nullspace", _bound(document)))
    detail += _spectrum(document)
    if not of_patches and document["rank"] is not None:
        proof, estimate = document["nullity_proof"], document.get("nullity_estimate")
        detail.append(("proof", f"{PROOFS[proof['method']]} ({proof['threshold']:.2g})"))
        if estimate:
            detail.append(("estimate", f"{estimate['nullity']:.0f} +- {estimate['standard_error']:.0f} (Hutchinson)"))
    smallest = "" if document["sigma_min"] is None else f" ... {document['sigma_min']:.4g}"
    console.table(
        [
            ("model", model_line(document)),
            *_layers(document),
            (what, f"{document['in_chans']} x {height} x {width} = {inputs} -> {outputs}"),
            *_unread(document),
            *detail,
            ("singular values", f"{document['sigma_max']:.4g}{smallest} (rtol {document['rtol']:.2g})"),
            ("null noise", check and f"moves the {check['outputs']} by {check['null_logit_mse']:.2g} (mse)"),
            ("random noise", check and f"of equal norm moves them by {check['random_logit_mse']:.2g}"),
            (
                "per unit norm",
                check and f"{check['null_change']:.2g} by null noise, {check['random_change']:.2g} by random",
            ),
            ("check", check and {True: "passed", False: "FAILED", None: "says nothing"}[check["passed"]]),
            ("basis", document["basis"]),
            ("preview", document["preview"]),
        ]
    )


def render_spectrum(console: Console, document: Mapping[str, Any]) -> None:
    """What there is to see of first layers without an exact nullspace."""
    what = "patch" if document["kind"] == "patch" else "image"
    console.table(
        [
            ("model", model_line(document)),
            *_layers(document),
            (what, f"{document['inputs']} -> {document['outputs']}"),
            *_unread(document),
            *_spectrum(document),
            ("preview", document["preview"]),
        ]
    )


def _layers(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("first layers", "; ".join(document["layers"]))] if "layers" in document else []


def _unread(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What of an image lies in no patch."""
    unread = document.get("unread")
    return [("left over", f"{unread} numbers of an image lie in no patch, and are free")] if unread else []


def _bound(document: Mapping[str, Any]) -> str:
    share = document["output_bound"] / document["sigma_max"]
    return f"of its noise at most {share:.2g} of the largest is read: {document['output_bound']:.3g} of its norm"


def _spectrum(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many of the singular values are small: of a patch, or layer by layer."""
    rows = []
    for layer in document["spectrum"]:
        shares = ", ".join(f"{share:.2%}" for share in layer["share_below"].values())
        bounds = ", ".join(f"{float(bound):g}" for bound in layer["share_below"])
        least = layer["sigma_min"] / layer["sigma_max"]
        closed = "" if document["kind"] == "patch" else " (edges closed)"
        rows.append(("spectrum", f"{shares} below {bounds} of the largest; least {least:.2g}{closed}"))
    return rows
