"""What `vitnull claim` says."""

from collections.abc import Mapping
from typing import Any

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.rendering.values import figure, model_line


def render_commit(console: Console, document: Mapping[str, Any]) -> None:
    console.table(
        [
            ("model", model_line(document)),
            ("nullity", f"{document['nullity']}, rank {document['rank']}"),
            ("visibility", f"{document['visibility']:.3g} of white noise's power, of null noise and its mirror image"),
            ("score", f"{document['score']:.1f} (the claim's own; unrelated networks: about 0)"),
            ("seed", document["seed"]),
            ("claim", f"{document['claim']} ({'revealed: for a judge' if document['revealed'] else 'nothing secret'})"),
            ("digest", document["digest"]),
        ]
    )


def render_probes(console: Console, document: Mapping[str, Any]) -> None:
    read = document["null_to_mirrored"]
    width, height = document["size"]
    console.table(
        [
            ("claim", _claim(document)),
            ("images", f"{len(document['images'])} of {document['data']}, {width} x {height}"),
            ("probes", f"{document['probes']}: of each image {document['pairs']} pairs of noises, and none"),
            ("noise", f"{document['noise_rms']:.1f} levels rms"),
            ("the claim reads", f"{figure(read['after'], '.2g')} of what it reads of the mirror image, as written"),
            ("written to", f"{document['out_dir']} ({document['format']})"),
        ]
    )


def render_check(console: Console, document: Mapping[str, Any]) -> None:
    console.table(
        [
            ("claim", _claim(document)),
            ("suspect", model_line(document) if document["model"] else document["answers"]),
            *(_weights(document["by_weights"]) if document["by_weights"] else ()),
            *(_answers(document["by_answers"]) if document["by_answers"] else ()),
            *(("reference", f"{one['model']}: {one['verdict']}, {one['reason']}") for one in document["references"]),
            ("plot", document["plot"]),
            ("verdict", f"{document['verdict'].upper()}: {document['reason']}"),
        ]
    )


def _claim(document: Mapping[str, Any]) -> str:
    about = document["claim"]
    return f"{about['model']} (digest {about['digest'][:12]}, {about['file']})"


def _weights(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        ("patch", found["patch_size"] and "{} x {}".format(*found["patch_size"])),
        (
            "null noise",
            f"read {figure(found['null_to_mirrored'], '.3g')} as much as its mirror image"
            if found["null_to_mirrored"] is not None
            else None,
        ),
        (
            "likeness",
            f"{figure(found['likeness'])} (score {figure(found['score'], '.1f')}, the claim's own "
            f"{figure(found['own_score'], '.1f')})"
            if found["likeness"] is not None
            else None,
        ),
        ("p", found["p"] and f"{found['p']:.2g} by {found['surrogates']} surrogates"),
        ("angles", _angles(found["angles"])),
        ("beyond references", _angles(found["angles_beyond_references"])),
    ]


def _angles(found: Mapping[str, Any] | None) -> str | None:
    if found is None:
        return None
    degrees = " ... ".join(f"{found[key]:.2g}" for key in ("smallest", "median", "largest"))
    return f"{degrees} degrees; overlap {found['overlap']:.3f}, with the mirrored claim {found['overlap_mirrored']:.3f}"


def _answers(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    def labels(side: str) -> str:
        low, high = found[f"{side}_ci95"]
        return f"{found[side]} of {found['images']} ({low:.0%} to {high:.0%})"

    moved = "" if found["movement"] is None else f"; that moves logits by {found['movement']:.2g} of their spread"
    return [
        ("answers", f"{found['answers']} to {found['images']} images, {found['pairs']} pairs of noises"),
        ("null noise", f"does {figure(found['null_to_mirrored'], '.3g')} of what its mirror image does{moved}"),
        ("p", f"{found['p']:.2g}"),
        ("labels changed", f"{labels('changed')} by null noise, {labels('changed_mirrored')} by its mirror image"),
        ("McNemar", f"p = {found['mcnemar_p']:.2g}, of these two noises alone"),
    ]
