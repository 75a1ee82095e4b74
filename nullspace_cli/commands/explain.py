"""`vitnull explain`: where a network sees what it says of an image, and how far such maps can be trusted."""

import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.file_kinds import ARCHIVES, PLOT, to_write
from nullspace_cli.commands.image_files import (
    check_outputs,
    ending_in,
    fingerprint_of,
    make_folders,
    named_images,
)
from nullspace_cli.commands.image_run import ImageRun
from nullspace_cli.commands.options import (
    DEFAULT_MODEL,
    NAMES_MODEL,
    ColumnOption,
    FilesFromOption,
    JsonlOption,
    ModelOptions,
    NulOption,
    OutputOptions,
    ReadingOption,
    image_name,
    number,
    path_name,
)
from nullspace_cli.commands.rendering.explain import render
from nullspace_cli.commands.reports import ReportOptions, write_page
from nullspace_cli.commands.shards import ShardOption, shard_of

if TYPE_CHECKING:
    from nullspace_cli.engine.saliency.methods import Method


def explain(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE...",
            parser=image_name,
            help="Images, tar or Parquet files, folders of them, or addresses (s3://...).",
        ),
    ] = None,
    *,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="attribution, raw, rollout, attention-gradcam, token-gradcam, partial-lrp, full-lrp (ViTs); gradcam "
            "(CNNs); gradient, input-x-gradient, integrated-gradients, smoothgrad; or all that the model has. "
            "[default: attribution; where the model has none, another, as gradcam for CNNs]",
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            **NAMES_MODEL, envvar="VITNULL_MODEL", help="Who is explained: a timm name, hf-hub:, local-dir:, demo."
        ),
    ] = DEFAULT_MODEL,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="INDEX|NAME", help="The class to look for. [default: each image's own prediction]"
        ),
    ] = None,
    files_from: FilesFromOption = None,
    nul: NulOption = False,
    column: ColumnOption = None,
    shard: ShardOption = None,
    reading: ReadingOption = "timm",
    size: Annotated[
        Literal["model", "native"],
        typer.Option(help="Overlays on what the model sees of the image, or on all of it at its own size."),
    ] = "model",
    out_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=path_name, help="Where the files of each image go; by default here."),
    ] = None,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out what has its results already."),
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Write overlays, and a sheet where there are several.")
    ] = True,
    float_: Annotated[
        bool, typer.Option("--float/--no-float", help="Write the maps themselves, on the methods' own grids.")
    ] = True,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness",
            help="Take pixels away in the order of the maps, and report how long the prediction stays: areas under "
            "the curves, most relevant pixels first (positive) and least relevant first (negative).",
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=to_write(PLOT), help="Draw the curves of --faithfulness.")
    ] = None,
    compare_noise: Annotated[
        float | None,
        number(
            above=True,
            most=100,
            metavar="SIGMA",
            help="Add noise of this rms ([0, 1] pixels) from the null space of the first layers, at random, and "
            "from their row space, and report how alike the maps stay.",
        ),
    ] = None,
    jsonl: JsonlOption = False,
    options: ModelOptions,
    report: ReportOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Show where the model sees its evidence in every IMAGE.

    Writes for each <stem>.<method>.png, a heat map over the image; <stem>.saliency.png, a sheet of all methods, where
    there are several; and <stem>.saliency.safetensors, the maps themselves. Those of a tar file's images become members
    beside them, in <stem>.saliency.tar; those of a table's, further columns.
    """
    output.require_one_form(jsonl=jsonl)
    if plot and not faithfulness:
        raise typer.BadParameter("it draws the curves of --faithfulness; add that", param_hint="--plot")

    taken = shard_of(shard, console)
    plot = taken.own(plot, "--plot")
    page_path = report.path(taken)

    from nullspace_cli.engine.data.archives import ending_of
    from nullspace_cli.engine.files.image_search import stems_of
    from nullspace_cli.engine.models.classes import class_index
    from nullspace_cli.engine.runtime.distributed import joined_ranks
    from nullspace_cli.engine.saliency.methods import DEFAULT_METHODS, METHODS, choose, default_methods, named
    from nullspace_cli.engine.workflows.archive_failures import failures_of
    from nullspace_cli.engine.workflows.common_inputs import common_model
    from nullspace_cli.engine.workflows.explain import SHEET, Explained, Explainer, ExplainFiles, MapMeasures
    from nullspace_cli.engine.workflows.failed_input import Failed
    from nullspace_cli.engine.workflows.image_stores import ArchiveFiles, ArchiveSettings, Look, are_there

    names = [name.strip() for name in method.split(",")] if method else []
    wanted = named(names or DEFAULT_METHODS)
    results = ending_in(SHEET, *(f".{name}.png" for name in METHODS), *(f".saliency{ending}" for ending in ARCHIVES))
    with joined_ranks(apart=True) as ranks:
        images = named_images(files or [], files_from, results, console.note, ranks, nul=nul, out_dir=out_dir)
        ranks.agree("images", fingerprint_of(images) if ranks.world > 1 else "")
        titles, folder = [one.name for one in wanted], out_dir or Path()

        def within(source: Path, stem: Path) -> ExplainFiles:
            return ExplainFiles.of(source, stem, titles, pictures=pictures, tensors=float_)

        jobs = [
            ArchiveFiles(source, folder / stem.with_name(f"{stem.name}.saliency{ending}"))
            if (ending := ending_of(source))
            else within(source, folder / stem)
            for (source, _), stem in zip(images, stems_of([place for _, place in images]), strict=True)
        ]
        read = [files_from, *options.files(model)]

        def only(job: ExplainFiles | ArchiveFiles, methods: "Sequence[Method]") -> ExplainFiles | ArchiveFiles:
            return job if isinstance(job, ArchiveFiles) else job.only(methods)

        def check(methods: "Sequence[Method]") -> tuple[dict[Path, str], set[Path]]:
            """By the first process, before others have begun to write: why results of some sources have no place, and
            which sources are left out because theirs are there."""
            named = [only(job, methods) for job in jobs]

            def find() -> tuple[dict[Path, str], set[Path]]:
                own = taken.share(named)
                there = {job.source for job in own if skip_existing and are_there(job)}
                todo = [job for job in own if job.source not in there]
                return check_outputs(named, todo, read, out_dir, plot, page_path, force=output.force), there

            return ranks.lead(find)

        known = wanted if names else []  # what suits the model shows when it is loaded
        unfit, there = check(known)
        mine = ranks.share(taken.share(jobs))
        alone = len(jobs) == 1 and taken.count * ranks.world == 1
        look = Look(column or (), console.note)
        run = ImageRun(
            console, "explain", [job.source for job in mine if job.source not in there], look, alone=alone, jsonl=jsonl
        )
        loaded = common_model(options.request(model, ranks.device(options.device)), ranks)
        chosen = choose(loaded, names) if names else default_methods(loaded, most=1)
        index = None if class_ is None else class_index(loaded, class_)
        gallery = report.gallery(console, page_path, ranks)
        explainer = Explainer(
            loaded, chosen, index, size, output.force, notice=console.warn, reading=reading, gallery=gallery
        )
        place = taken.number - 1 + taken.count * ranks.rank, taken.count * ranks.world
        archived = any(isinstance(job, ArchiveFiles) for job in jobs)
        in_folders = [] if archived else [job.source for job in jobs]
        measures = MapMeasures.of(
            explainer.maps, chosen, in_folders, place,
            faithfulness=faithfulness, noise_rms=compare_noise, seed=options.seed,
        )  # fmt: skip
        if not names:
            unfit, there = check(chosen)
        run.failures |= {job.source: unfit[job.source] for job in mine if job.source in unfit}
        if ranks.first:
            run.failures |= failures_of(
                job.target for job in jobs if isinstance(job, ArchiveFiles) and job.source in there
            )
        run.tell_refused()
        started = time.monotonic()
        mine = [only(job, chosen) for job in mine if job.source not in {*run.failures, *there}]
        if not ranks.first:
            make_folders([(job.source, file) for job in mine for file in job.files()], out_dir)
        settings = ArchiveSettings(
            lambda source, stem: within(source, stem).only(chosen), False, console.names, console.warn, column or (),
            [file.name.removeprefix("x.") for file in within(Path(), Path("x")).only(chosen).files()],
            force=output.force, shared=skip_existing,
        )  # fmt: skip

        def look_at(images: Iterable[ExplainFiles], shared: bool) -> Generator[list[Explained | Failed], None, None]:
            return explainer.each(images)

        stores = look.stores(mine, settings)
        with console.progress("explaining", "images", sum(map(len, stores))) as advance:
            for done in run.through(stores, look_at, advance):
                measures.add(done)
                for item in done:
                    run.add(item.record)
        run.gather(ranks)
        measures.gather(ranks)
        skipped = len(there) + run.elsewhere
        if gallery is not None:
            gallery.gather(ranks)
        if not ranks.first:
            return 0
    if plot and not measures.images:
        plot = None  # there is nothing to draw
    if plot:
        measures.draw(plot, force=output.force)
    count, elapsed = len(run.records), time.monotonic() - started
    measured = {
        "shard": str(taken),
        "exit_code": run.exit_code,
        "summary": {
            "count": count,
            "failed": len(run.failures),
            "skipped": skipped,
            "images_per_second": round(count / elapsed, 3) if count and elapsed else None,
        },
        "faithfulness": measures.faithfulness.to_dict() if measures.faithfulness else None,
        "plot": str(plot) if plot else None,
        "noise": measures.describe_noise(),
        "failures": run.described_failures(),
    }
    body = {"reading": reading, "images": run.records, **measured}
    document = console.document("explain", loaded, options.seed, body)
    if not jsonl:
        console.result(document, render)
    elif measures:
        console.record("explain-measured", measured)
    if page_path and gallery is not None:
        from nullspace_cli.engine.report.explain import page

        write_page(console, page_path, page(document, gallery, measures.curves()))
    return run.exit_code
