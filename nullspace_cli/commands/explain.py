"""`vitnull explain`: where a network sees what it says of an image, and how far such maps can be trusted."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.flags_in_errors import in_flags
from nullspace_cli.commands.image_files import ending_in, named_images, stems_of
from nullspace_cli.commands.options import (
    DEFAULT_MODEL,
    FilesFromOption,
    JsonlOption,
    ModelOptions,
    NulOption,
    OutputOptions,
    file_name,
    number,
    path_name,
)
from nullspace_cli.commands.outputs import refuse_clashes
from nullspace_cli.commands.render import answer, figure

if TYPE_CHECKING:
    from nullspace_cli.engine.models.model import Model
    from nullspace_cli.engine.saliency.faithfulness import FaithfulnessOfMany
    from nullspace_cli.engine.saliency.noise import NoiseComparison
    from nullspace_cli.engine.workflows.explain import Explainer, ExplainFiles

SHEET, MAPS = ".saliency.png", ".saliency.safetensors"
MEASURES = ("spearman", "pearson", "ssim", "top10")


def explain(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", parser=path_name, help="Images or folders of images.")
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
        str, typer.Option(envvar="VITNULL_MODEL", help="Who is explained: a timm name, hf-hub:, local-dir:, demo.")
    ] = DEFAULT_MODEL,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="INDEX|NAME", help="The class to look for. [default: each image's own prediction]"
        ),
    ] = None,
    files_from: FilesFromOption = None,
    nul: NulOption = False,
    size: Annotated[
        Literal["model", "native"],
        typer.Option(help="Overlays on what the model sees of the image, or on all of it at its own size."),
    ] = "model",
    out_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=path_name, help="Where the files of each image go; by default here."),
    ] = None,
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
        Path | None, typer.Option(metavar="FILE", parser=file_name, help="Draw the curves of --faithfulness.")
    ] = None,
    compare_noise: Annotated[
        float | None,
        number(
            above=True,
            most=100,
            metavar="SIGMA",
            help="Add noise of this rms ([0, 1] pixels) from the null space of the patch embedding, at random, and "
            "from its row space, and report how alike the maps stay.",
        ),
    ] = None,
    jsonl: JsonlOption = False,
    options: ModelOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Show where the model sees its evidence in every IMAGE.

    Writes for each <stem>.<method>.png, a heat map over the image; <stem>.saliency.png, a sheet of all methods, where
    there are several; and <stem>.saliency.safetensors, the maps themselves.
    """
    if jsonl and output.json:
        raise typer.BadParameter("use --json or --jsonl, not both", param_hint="--jsonl")
    if plot and not faithfulness:
        raise typer.BadParameter("it draws the curves of --faithfulness; add that", param_hint="--plot")
    if plot and plot.suffix.lower() != ".png":
        raise typer.BadParameter(f"{plot}: plots are PNG files", param_hint="--plot")

    from nullspace_cli.engine.models.classes import class_index
    from nullspace_cli.engine.models.loading import load_model
    from nullspace_cli.engine.saliency.faithfulness import FaithfulnessOfMany
    from nullspace_cli.engine.saliency.methods import DEFAULT_METHODS, METHODS, choose, default_methods, named
    from nullspace_cli.engine.saliency.noise import NoiseComparison
    from nullspace_cli.engine.workflows.explain import Explainer
    from nullspace_cli.engine.workflows.watermark import refused

    names = [name.strip() for name in method.split(",")] if method else []
    wanted = named(names or DEFAULT_METHODS)
    images = named_images(
        files or [], files_from, ending_in(SHEET, *(f".{name}.png" for name in METHODS)), console.note, nul=nul
    )
    jobs = _jobs(images, out_dir, [one.name for one in wanted], pictures=pictures, float_=float_)
    known = wanted if names else []  # what suits the model shows when it is loaded
    read = [files_from, *options.files(model)]
    _check_outputs([job.only(known) for job in jobs], read, out_dir, plot, force=output.force)
    failures = refused([job.source for job in jobs], alone=len(jobs) == 1)
    loaded = load_model(options.request(model))
    chosen = choose(loaded, names or default_methods(loaded)[:1])
    index = None if class_ is None else class_index(loaded, class_)
    curves = FaithfulnessOfMany(loaded, options.seed) if faithfulness else None
    noise = NoiseComparison(loaded, chosen, compare_noise, options.seed) if compare_noise else None
    for error in failures.values():
        console.error(error)
    started = time.monotonic()
    todo = [job.only(chosen) for job in jobs if job.source not in failures]
    if not names:
        _check_outputs(todo, read, out_dir, plot, force=output.force)
    explainer = Explainer(loaded, chosen, index, size, output.force, notice=console.warn)
    records = _run(console, explainer, todo, failures, curves, noise, alone=len(jobs) == 1, jsonl=jsonl)
    if plot and curves and curves.methods:
        from nullspace_cli.engine.plots.saliency import draw_faithfulness

        draw_faithfulness(plot, f"{loaded.name}, {len(records)} images", curves, force=output.force)
    elapsed = time.monotonic() - started
    measured = {
        "summary": {
            "count": len(records),
            "failed": len(failures),
            "images_per_second": round(len(records) / elapsed, 3) if records and elapsed else None,
        },
        "faithfulness": curves.to_dict() if curves else None,
        "plot": str(plot) if plot else None,
        "noise": noise.to_dict() if noise and records else None,
        "failures": [{"source": str(source), "error": in_flags(error)} for source, error in failures.items()],
    }
    if output.json:
        console.json(console.document("explain", loaded, options.seed, {"images": records, **measured}))
    elif jsonl:
        if curves or noise:
            console.record("explain-measured", measured)
    else:
        _render(console, loaded, records, measured)
    return 4 if failures else 0


def _run(
    console: Console,
    explainer: "Explainer",
    jobs: list["ExplainFiles"],
    failures: dict[Path, str],
    curves: "FaithfulnessOfMany | None",
    noise: "NoiseComparison | None",
    *,
    alone: bool,
    jsonl: bool,
) -> list[dict[str, Any]]:
    """Explain the images and measure their maps; the records of those that could be done."""
    from nullspace_cli.engine.workflows.explain import ExplainedBatch, labels_of
    from nullspace_cli.engine.workflows.failed_input import Failed

    records = []
    labels = labels_of(explainer.model, [job.source for job in jobs]) if curves else None
    with console.progress("images", len(jobs)) as advance:
        for group in explainer.each(jobs):
            done = []
            for item in group:
                advance()
                if not isinstance(item, Failed):
                    done.append(item)
                    continue
                if alone:
                    raise item.error
                failures[item.source] = str(item.error)
                console.error(str(item.error))
            if done:
                batch = ExplainedBatch.of(done, labels)
                if curves:
                    curves.add(batch.images, batch.maps, batch.labels)
                if noise:
                    noise.add(batch.images, batch.classes, batch.maps)
            for item in done:
                records.append(item.record)
                if jsonl:
                    console.record("explain", item.record)
    return records


def _jobs(
    images: Sequence[tuple[Path, Path]],
    out_dir: Path | None,
    methods: list[str],
    *,
    pictures: bool,
    float_: bool,
) -> list["ExplainFiles"]:
    """The files of each image."""
    from nullspace_cli.engine.workflows.explain import ExplainFiles

    jobs = []
    for (source, _), name in zip(images, stems_of([place for _, place in images]), strict=True):
        stem = (out_dir or Path()) / name
        overlays = {name: stem.with_name(f"{stem.name}.{name}.png") for name in methods} if pictures else {}
        sheet = stem.with_name(stem.name + SHEET) if pictures and len(methods) > 1 else None
        jobs.append(ExplainFiles(source, overlays, sheet, stem.with_name(stem.name + MAPS) if float_ else None))
    return jobs


def _check_outputs(
    jobs: list["ExplainFiles"], read: list[Path | None], out_dir: Path | None, plot: Path | None, *, force: bool
) -> None:
    """Refuse before anything slow what would lose something or fail later."""
    from nullspace_cli.engine.files.paths import why_unreadable
    from nullspace_cli.engine.files.writing import check_output, make_folder

    curves = [plot] if plot else []
    refuse_clashes([*(file for job in jobs for file in job.files()), *curves], [*(job.source for job in jobs), *read])
    # Nothing is written for what cannot be read, which is a failure of that image alone.
    written = [file for job in jobs if why_unreadable(job.source) is None for file in job.files()]
    if out_dir:
        for folder in sorted({file.parent for file in written}):
            make_folder(folder)
    for file in [*written, *curves]:
        check_output(file, force=force)


def _render(console: Console, model: "Model", records: list[dict[str, Any]], measured: Mapping[str, Any]) -> None:
    if len(records) == 1:
        (record,) = records
        explained = record["explained"]
        other = explained and explained["class"] != record["prediction"]["class"]
        console.table(
            [
                ("image", record["source"]),
                ("model", f"{model.name} ({model.weights}, sha256 {model.weights_sha256[:12]})"),
                ("prediction", record["prediction"] and answer(record["prediction"])),
                ("explained", answer(explained) if other else None),
                *((name, about["overlay"]) for name, about in record["methods"].items()),
                ("sheet", record["sheet"]),
                ("maps", record["float"]),
                ("seconds", record["seconds"]),
            ]
        )
    elif records:
        console.grid(
            ["image", "prediction", "maps", "seconds"],
            [
                [
                    record["source"],
                    answer(record["prediction"]) if record["prediction"] else "-",
                    record["sheet"] or record["float"] or next(iter(record["methods"].values()))["overlay"] or "-",
                    f"{record['seconds']:.2f}",
                ]
                for record in records
            ],
        )
        console.line()
        summary = measured["summary"]
        rate = f", {summary['images_per_second']:.2f} images/s" if summary["images_per_second"] else ""
        console.line(f"{summary['count']} images done, {summary['failed']} failed{rate}")
    if measured["faithfulness"]:
        _render_faithfulness(console, measured["faithfulness"], measured["plot"])
    if measured["noise"]:
        _render_noise(console, measured["noise"])


def _render_faithfulness(console: Console, found: Mapping[str, Any], plot: str | None) -> None:
    labelled = any(areas["positive_label"] is not None for areas in found.values())
    columns = ["positive", "negative", *(["positive_label", "negative_label"] if labelled else [])]
    console.line()
    console.line("area under the curve while pixels go, most relevant first (positive) or last; of a random map beside")
    console.grid(
        ["method", *(text.replace("_", ", ") for name in columns for text in (name, "random"))],
        [
            [method, *(f"{value:.3f}" for name in columns for value in (areas[name], areas["random"][name]))]
            for method, areas in found.items()
        ],
    )
    if plot:
        console.line(f"curves: {plot}")


def _render_noise(console: Console, noise: Mapping[str, Any]) -> None:
    console.line()
    console.line(f"likeness of the maps with and without noise of rms {noise['rms']:g}")
    rows = [
        [method, kind.replace("_", " "), *(figure(likeness[name]) for name in MEASURES), likeness["undefined"]]
        for method, kinds in noise["methods"].items()
        for kind, likeness in kinds.items()
    ]
    console.grid(["method", "noise", *MEASURES, "undefined"], rows)
    for kind, share in noise["match_percent"].items():
        if share is not None:
            console.line(f"predictions kept under {kind.replace('_', ' ')} noise: {share:.1f}%")
