"""`vitnull basis`: the exact or the near nullspace of a model's first layers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.file_kinds import OutOption
from nullspace_cli.commands.options import ModelArgument, ModelOptions, OutputOptions, artifact_stem, number
from nullspace_cli.commands.outputs import claim, refuse_stream
from nullspace_cli.commands.rendering.basis import render, render_spectrum

if TYPE_CHECKING:
    from nullspace_cli.engine.nullspace.check import Check


def basis(
    model: ModelArgument,
    *,
    rtol: Annotated[
        float | None,
        number(
            most=1,
            help="Singular values up to RTOL times the largest count as zero. Of whole images, 0.001 and more give the "
            "near nullspace: what is read by at most RTOL times the largest. [default: eps of the stored weights]",
        ),
    ] = None,
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="Each channel's own nullspace, as in the paper, not the joint one.")
    ] = False,
    space: Annotated[
        Literal["pixel", "normalized"],
        typer.Option(help="The space that the basis lives in: [0, 1] pixels, or after mean and std."),
    ] = "pixel",
    compact: Annotated[
        bool, typer.Option("--compact", help="Write the row space only; it is all that watermark needs.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Run the network on null noise and on random noise of equal norm."),
    ] = True,
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Draw the spectrum and some basis vectors.")
    ] = True,
    out: OutOption = None,
    options: ModelOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Compute the nullspace of MODEL's first layers: what they do not read or, with --rtol, hardly.

    Of a patch embedding, <model>.basis.safetensors holds basis, row_space and singular_values. Of layers whose windows
    overlap or lie side by side the nullspace is one of whole images; the file holds the map that projects onto it, or
    with --rtol filters noise. <model>.basis.png is a preview; where there is no nullspace, of how much the layers read.
    """
    path = out or Path(f"{artifact_stem(model)}.basis.safetensors")
    picture = path.with_suffix(".png")
    if preview:
        refuse_stream(path, "its preview is written beside it; add --no-preview")
    claim([path, *([picture] if preview else [])], options.files(model), force=output.force)

    from nullspace_cli.engine.errors import NoNullspaceError
    from nullspace_cli.engine.models.loading import load_model
    from nullspace_cli.engine.nullspace.basis import PatchBasis, unread
    from nullspace_cli.engine.nullspace.basis_file import save_basis
    from nullspace_cli.engine.nullspace.check import check_basis
    from nullspace_cli.engine.nullspace.near_basis import NearBasis, find_basis_within
    from nullspace_cli.engine.nullspace.stem_basis import StemBasis, find_spectra
    from nullspace_cli.engine.nullspace.stem_basis_file import save_stem_basis

    loaded = load_model(options.request(model))
    console.detail(f"{loaded.name} on {loaded.device}, weights {loaded.weights} {loaded.weights_sha256[:12]}")
    stem = loaded.stem()
    edges = {"unread": unread(loaded, stem)} if stem.weight is not None else {}
    try:
        found = find_basis_within(loaded, space=space, rtol=rtol, per_channel=per_channel, stem=stem, seed=options.seed)
    except NoNullspaceError as error:
        body = {**error.report, **edges, "check": None, "basis": None, "preview": None}
        if error.report.get("kind") in ("patch", "affine") and not per_channel:  # all is read, but some of it hardly
            spectra = find_spectra(loaded, stem, space)
            body["spectrum"] = [spectrum.describe() for spectrum in spectra]
            if preview:
                from nullspace_cli.engine.plots.basis import draw_spectra

                body["preview"] = str(draw_spectra(picture, loaded.name, spectra, force=output.force))
        document = console.document("basis", loaded, options.seed, body)
        if output.json:
            console.json(document)
        elif "spectrum" in body:
            render_spectrum(console, document)
        raise
    verdict = check_basis(loaded, found, seed=options.seed) if check else None
    body = {**found.describe(), **edges}
    if check and isinstance(found, StemBasis):
        body["nullity_estimate"] = found.estimate(options.seed).to_dict()
    if check and isinstance(found, NearBasis) and found.counted:
        body |= found.counted.describe()
    spectra = (found.spectrum,) if isinstance(found, PatchBasis) else find_spectra(loaded, stem, space)
    body["spectrum"] = [spectrum.describe() for spectrum in spectra]
    if isinstance(found, PatchBasis):
        save_basis(path, loaded, found, per_channel=per_channel, compact=compact, force=output.force)
    else:
        save_stem_basis(path, loaded, found, force=output.force)
    if preview:
        from nullspace_cli.engine.nullspace.preview import preview_of
        from nullspace_cli.engine.plots.basis import draw_basis

        shown = preview_of(loaded, found, seed=options.seed)
        draw_basis(picture, loaded.name, found, shown, spectra, force=output.force)
    body |= {
        "check": verdict.to_dict() if verdict else None,
        "basis": str(path),
        "preview": str(picture) if preview else None,
    }
    document = console.document("basis", loaded, options.seed, body)
    console.result(document, render)
    return _judge(console, verdict)


def _judge(console: Console, verdict: "Check | None") -> int:
    if verdict is None or verdict.passed:
        return 0
    if verdict.passed is None:
        console.warn(
            f"the forward-pass check says nothing: random noise does not move this model's {verdict.outputs} either."
        )
        return 0
    console.error(
        f"The forward-pass check failed: null noise moved the {verdict.outputs} by {verdict.null_logit_mse:.3g} (mse), "
        f"random noise of equal norm by {verdict.random_logit_mse:.3g}. Not all directions are exact; lower --rtol."
    )
    return 3
