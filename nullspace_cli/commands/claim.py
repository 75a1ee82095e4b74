"""`vitnull claim`: whose model is this? A claim, its probes, and suspects that are held against it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.file_kinds import PLOT, OutOption, to_write
from nullspace_cli.commands.options import (
    DATA_HELP,
    NAMES_MODEL,
    ModelArgument,
    ModelOptions,
    OutputOptions,
    ReadingOption,
    artifact_stem,
    given,
    number,
    path_name,
    whole,
)
from nullspace_cli.commands.outputs import claim
from nullspace_cli.commands.rendering.claim import render_check, render_commit, render_probes

if TYPE_CHECKING:
    from nullspace_cli.engine.ownership.claim import Claim

ClaimArgument = Annotated[
    Path, typer.Argument(metavar="CLAIM", parser=path_name, help="A claim made with --reveal, for whoever is to judge.")
]
DigestOption = Annotated[
    str | None,
    typer.Option(
        metavar="HEX", parser=given, help="The digest that was published; the claim is refused if it has another."
    ),
]


def commit(
    model: ModelArgument,
    *,
    pairs: Annotated[
        int, whole(least=2, most=5000, help="Pairs of noises in probes: their least p-value is 1 / (2 PAIRS).")
    ] = 50,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Write what a judge needs, too: the weight of the first layer.")
    ] = False,
    out: OutOption = None,
    options: ModelOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Commit to MODEL and to the nullspace of its first layer, before anybody else has it.

    Writes <model>.claim.safetensors and says its digest, which is to be published, or timestamped by somebody that
    others trust. It gives nothing away. Made again from the same weights with --reveal it has the same digest, and
    holds what a judge needs.
    """
    path = out or Path(f"{artifact_stem(model)}.claim.safetensors")
    claim([path], options.files(model), force=output.force)

    from nullspace_cli.engine.errors import NoNullspaceError
    from nullspace_cli.engine.files.hashes import sha256_of_each
    from nullspace_cli.engine.models.loading import load_model
    from nullspace_cli.engine.ownership.claim import make_claim
    from nullspace_cli.engine.ownership.claim_file import save_claim

    loaded = load_model(options.request(model))
    files = sha256_of_each({file.name: file for file in options.weights_files()})
    body: dict[str, Any] = {"revealed": reveal, "files_sha256": files, "pairs": pairs}
    try:
        made = make_claim(loaded, files_sha256=files, seed=options.seed, pairs=pairs)
    except NoNullspaceError as error:
        if output.json:
            known = ("in_chans", "patch_size", "rank", "nullity", "rtol")
            report = {key: error.report[key] for key in known if key in error.report}
            nothing = dict.fromkeys(("digest", "claim", "embedding_sha256", "visibility", "score"))
            document = console.document("claim-commit", loaded, options.seed, {**body, **nothing, **report})
            console.json(document)
        raise
    save_claim(path, made, reveal=reveal, force=output.force)
    body |= {
        "digest": made.digest,
        "claim": str(path),
        "embedding_sha256": made.recipe.embedding_sha256,
        "in_chans": made.patch_map.in_chans,
        "patch_size": list(made.patch_map.patch_size),
        "rank": len(made.row_space),
        "nullity": made.patch_map.patch_dim - len(made.row_space),
        "rtol": made.recipe.rtol,
        "visibility": made.own.visibility,
        "score": made.own.score,
    }
    console.result(console.document("claim-commit", loaded, options.seed, body), render_commit)
    return 0


def probes(
    claim_file: ClaimArgument,
    *,
    images: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            parser=given,
            help=DATA_HELP,
        ),
    ],
    out_dir: Annotated[Path, typer.Option(metavar="DIR", parser=path_name, help="Where the probes go.")],
    count: Annotated[int, whole(help="Take this many images, spread over DATA.")] = 24,
    size: Annotated[
        int | None,
        whole(most=4096, help="Side of the probes in pixels: the suspect's input size. [default: the claim's model's]"),
    ] = None,
    format_: Annotated[
        Literal["png", "safetensors"],
        typer.Option("--format", help="png: 8 bits. safetensors: before rounding, a file for each image."),
    ] = "png",
    digest: DigestOption = None,
    reading: ReadingOption = "timm",
    output: OutputOptions,
    console: Console,
) -> int:
    """Write images with which to ask a suspect whose weights are not at hand: by `claim check --answers`.

    Of each image there are 2 --pairs probes with noise (null noise of the claim, its mirror image, and surrogates of
    both) and one without. Nobody can tell by their names which is which. The same claim and images give the same files:
    a judge makes them, and asks.
    """
    from nullspace_cli.engine.data.datasets import open_data
    from nullspace_cli.engine.evaluation.stability import spread
    from nullspace_cli.engine.files.writing import make_folder
    from nullspace_cli.engine.ownership.black_box import FEWEST
    from nullspace_cli.engine.workflows.check import AnyModels
    from nullspace_cli.engine.workflows.claim import probe_files, probe_transform, write_probes

    made = _read(claim_file, digest)
    found = open_data(images, "val", reading, console.note)
    chosen = found.select(spread(count, len(found), made.recipe.seed))
    transform = probe_transform(made, size)
    transform.require_pictures()
    make_folder(out_dir)
    files = [path for paths in probe_files(made, len(chosen), out_dir, format_) for path in paths]
    claim(files, [claim_file, *chosen.files()], force=output.force)
    with console.progress("making probes", "images", len(chosen)) as advance:
        written = write_probes(made, chosen, transform, out_dir, format_, force=output.force, advance=advance)
    _, height, width = transform.input_size
    body = {
        "claim": _described(claim_file, made),
        "data": images,
        "images": written.images,
        "pairs": made.recipe.pairs,
        "size": [width, height],
        "format": format_,
        "out_dir": str(out_dir),
        "probes": written.probes,
        "noise_rms": written.noise_rms,
        "null_to_mirrored": vars(written.rounding),
    }
    console.result(console.document("claim-probes", AnyModels([]), made.recipe.seed, body), render_probes)
    if len(chosen) < FEWEST:
        console.warn(f"answers to {len(chosen)} images are too few to show anything: give {FEWEST} at least")
    return 0


def check(
    claim_file: ClaimArgument,
    suspect: Annotated[
        str | None,
        typer.Argument(
            metavar="SUSPECT",
            autocompletion=NAMES_MODEL["autocompletion"],
            parser=given,
            help="A model, as for basis, whose weights are at hand. [default: by --answers]",
        ),
    ] = None,
    *,
    answers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path_name,
            help='What the suspect answered to probes: JSON lines {"image": NAME, "logits": [...]}, or "label" alone.',
        ),
    ] = None,
    digest: DigestOption = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            parser=given,
            help="A model that has nothing of the claim's, or that both may come from: where the claim holds for it, "
            "nothing is shown. Repeatable.",
        ),
    ] = None,
    level: Annotated[float, number(most=1, above=True, help="Largest p-value that is called derived.")] = 0.01,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=to_write(PLOT), help="Draw what was found.")
    ] = None,
    options: ModelOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Hold SUSPECT against CLAIM: by its weights, or by its answers to probes.

    Exit code 0 if it is derived from the claim's model, 3 if that is not shown or nothing can be said.
    """
    if (suspect is None) == (answers is None):
        raise typer.BadParameter("give a SUSPECT, or what it answered: --answers FILE")
    references = list(dict.fromkeys(reference or ()))
    read = [claim_file, answers, *(path for name in (suspect, *references) if name for path in options.files(name))]
    if plot:
        claim([plot], read, force=output.force)

    from nullspace_cli.engine.models.loading import load_model
    from nullspace_cli.engine.workflows.check import AnyModels
    from nullspace_cli.engine.workflows.claim import judge, over_all

    made = _read(claim_file, digest)
    loaded = load_model(options.request(suspect)) if suspect else None
    others = [load_model(options.published(name)) for name in references]
    judged = judge(made, loaded, answers, level, options.seed, others)
    compared = [judge(made, other, None, level, options.seed) for other in others]
    finding = over_all(judged, compared)
    code = 0 if finding.verdict == "derived" else 3
    body = {
        "exit_code": code,
        "claim": _described(claim_file, made),
        "published": digest is not None,
        "level": level,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "by_weights": judged.white and judged.white.to_dict(),
        "by_answers": judged.black and judged.black.to_dict(),
        "answers": str(answers) if answers else None,
        "references": [one.describe() for one in compared],
        "plot": str(plot) if plot else None,
    }
    if plot and (found := judged.white or judged.black):
        from nullspace_cli.engine.plots.claim import draw_check

        draw_check(plot, made, loaded.name if loaded else str(answers), found, finding, force=output.force)
    document = console.document("claim-check", AnyModels([loaded] if loaded else []), options.seed, body)
    console.result(document, render_check)
    if not references and finding.verdict == "derived":
        console.warn("no --reference was asked: what any model of this kind would share with the claim was not seen")
    return code


def _read(path: Path, digest: str | None) -> "Claim":
    from nullspace_cli.engine.ownership.claim_file import read_claim

    return read_claim(path, digest and digest.strip().lower())


def _described(path: Path, made: "Claim") -> dict[str, Any]:
    recipe = made.recipe
    return {
        "file": str(path),
        "digest": made.digest,
        "model": recipe.model,
        "weights_sha256": recipe.weights_sha256,
    }
