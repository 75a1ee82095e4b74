"""`vitnull eval`: how stable a model's predictions are under noise."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.file_kinds import DOCUMENT, LINES, PLOT, TABLE, to_write
from nullspace_cli.commands.options import (
    DATA_HELP,
    NAMES_MODEL,
    ModelOptions,
    OutputOptions,
    ReadingOption,
    SkipBadOption,
    TransformOption,
    WorkersOption,
    given,
    number,
    path_name,
    whole,
)
from nullspace_cli.commands.outputs import claim, refuse_clashes
from nullspace_cli.commands.rendering.evaluate import render, render_plot, shortfall
from nullspace_cli.commands.reports import ReportOptions, write_page

if TYPE_CHECKING:
    from nullspace_cli.engine.evaluation.noises_under_test import Control

CONTROLS: tuple["Control", ...] = ("shuffle", "uniform")


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(**NAMES_MODEL, envvar="VITNULL_MODEL", help="As for basis. Not with --results alone."),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", parser=path_name, help="More files for --noise, as a pattern of the shell gives them."
        ),
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            parser=given,
            help=DATA_HELP,
        ),
    ] = None,
    noise: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...",
            parser=path_name,
            help="Learned noise, of this model or another; or a basis, from which noise is drawn. Repeatable.",
        ),
    ] = None,
    sigma: Annotated[
        list[float] | None,
        number(above=True, help="Root mean square of noise from a basis, in [0, 1] pixels. Repeatable. [default: 0.1]"),
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Which of train/ and val/, where DATA has them.")] = (
        "val"
    ),
    count: Annotated[int | None, whole(help="Take this many images, spread over DATA and drawn by --seed.")] = None,
    controls: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="shuffle: the noise's elements in another order. uniform: U-noise of its norm. none: neither.",
        ),
    ] = "shuffle,uniform",
    trials: Annotated[int, whole(most=10_000, help="Draws of each control, to average over.")] = 1,
    transform: TransformOption = "model",
    realise: Annotated[
        bool, typer.Option("--realise", help="Encoder-level noise once more, as pixels that bring it about.")
    ] = False,
    bound: Annotated[float, number(above=True, help="Largest value of those pixels, in normalised units.")] = 1.0,
    min_match: Annotated[
        float | None,
        number(most=100, metavar="PCT", help="Exit code 3 if the predictions match less often under any noise."),
    ] = None,
    skip_bad: SkipBadOption = False,
    workers: WorkersOption = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=to_write(TABLE), help="Write the results as a table.")
    ] = None,
    per_image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=to_write(LINES), help="Write a JSON record a line for each image and noise."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=to_write(PLOT), help="Draw match and mse over the size of the noise."),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            parser=path_name,
            help="A document of an earlier run, for --plot to draw as well. Repeatable; needs no MODEL.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", parser=to_write(DOCUMENT), help="Write the JSON document."),
    ] = None,
    reading: ReadingOption = "timm",
    options: ModelOptions,
    report: ReportOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Compare MODEL's predictions on DATA with those under each noise, and under controls of the same norm.

    A small noise moves little, whatever it is: only beside its controls does a figure say anything. All noises share
    one pass over the images. logit_mse is summed over the classes, and like all figures a mean over the images.
    """
    paths = list(dict.fromkeys([*(noise or []), *(files or [])]))
    page_path = report.path()
    written = [path for path in (out, csv, per_image, plot, page_path) if path]
    chosen = _controls(controls)
    earlier = list(results or ())
    if plot and earlier and data is None and not paths and page_path is None:
        return _draw(console, plot, earlier, force=output.force)
    if model is None or data is None:
        raise typer.BadParameter("give a MODEL, --data DATA and --noise FILE; or --results and --plot alone")
    if model.endswith(".safetensors"):
        raise typer.BadParameter(f"{model} is a file; the first argument is the model: vitnull eval MODEL --noise FILE")
    if not paths:
        raise typer.BadParameter("give at least one file of learned noise, or a basis", param_hint="--noise")

    from nullspace_cli.engine.errors import UsageError
    from nullspace_cli.engine.evaluation.stability import evaluate, spread
    from nullspace_cli.engine.runtime.distributed import joined_ranks
    from nullspace_cli.engine.workflows.common_inputs import common_images, common_model
    from nullspace_cli.engine.workflows.evaluate import below, check_noises, read_cases, write_results

    with joined_ranks() as ranks:
        read = [*paths, *earlier, *options.files(model)]
        ranks.lead(lambda: claim(written, read, force=output.force))  # it alone writes
        check_noises(paths, ranks)
        galleries = [report.gallery(console, page_path if ranks.first else None) for _ in ("noises", "images")]
        if plot:
            from nullspace_cli.engine.plots.curves import draw_curves, read_documents

            drawn = read_documents(earlier if ranks.first else [])
        images = common_images(data, split, ranks, reading, console.note)
        refuse_clashes(written, images.files())
        if count is not None:
            images = images.select(spread(count, len(images), options.seed))
        loaded = common_model(options.request(model, ranks.device(options.device)), ranks)
        if transform == "squash":
            loaded = replace(loaded, transform=loaded.transform.squashed())
        if min_match is not None and not loaded.has_head:
            raise UsageError(f"--min-match needs predictions, and {loaded.name} has no head. Leave it out.")
        console.detail(f"{loaded.name} on {loaded.device}, weights {loaded.weights} {loaded.weights_sha256[:12]}")
        sigmas, limit = sigma or (0.1,), bound if realise else None
        cases = read_cases(
            paths, loaded, chosen, sigmas=sigmas, trials=trials, seed=options.seed, bound=limit, notice=console.warn
        )
        with console.progress("evaluating", "images", len(ranks.share(range(len(images))))) as advance:
            found = evaluate(
                loaded,
                images,
                cases,
                workers=workers,
                skip_bad=skip_bad,
                ranks=ranks,
                notice=console.warn,
                advance=advance,
            )
        if not ranks.first:
            return 0
    described = found.to_dict()
    failing = [] if min_match is None else [shortfall(r, min_match) for r in below(described["results"], min_match)]
    code = 3 if failing else 0
    body = {
        **{"data": data, "split": split, "reading": reading, "transform": transform, "exit_code": code},
        **described,
    }
    document = console.document("eval", loaded, options.seed, body)
    write_results(document, found, out=out, csv=csv, per_image=per_image, force=output.force)
    if plot:
        draw_curves(plot, [*drawn, document], force=output.force)
    for file in (out, csv, per_image, plot):
        if file:
            console.note(f"written: {file}")
    noises, pictures = galleries
    if page_path and noises is not None and pictures is not None:
        from nullspace_cli.engine.report.evaluate import page

        write_page(console, page_path, page(document, found, images, noises, pictures))
    console.result(document, render)
    for said in failing:
        console.error(said)
    return code


def _controls(text: str) -> list["Control"]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in (*CONTROLS, "none")]:
        raise typer.BadParameter(f"'{unknown[0]}' is none of {', '.join(CONTROLS)}, none", param_hint="--controls")
    if "none" in names and len(names) > 1:
        raise typer.BadParameter("none excludes the others", param_hint="--controls")
    return [name for name in CONTROLS if name in names]


def _draw(console: Console, plot: Path, documents: list[Path], *, force: bool) -> int:
    """Draw earlier runs together; nothing is run."""
    claim([plot], documents, force=force)

    from nullspace_cli.engine.plots.curves import draw_curves, read_documents

    draw_curves(plot, read_documents(documents), force=force)
    document = {"schema": "vitnull/eval-plot/1", "plot": str(plot), "results": list(map(str, documents))}
    console.result(document, render_plot)
    return 0
