"""`vitnull watermark`: a visible mark that leaves the network's answer as it was."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nullspace_cli.commands.console import Console, broken_promise
from nullspace_cli.commands.flags_in_errors import in_flags
from nullspace_cli.commands.image_files import (
    ENDING,
    Planned,
    ending_in,
    fingerprint_of,
    make_folders,
    named_images,
    plan_outputs,
)
from nullspace_cli.commands.options import (
    DEFAULT_MODEL,
    BasisOption,
    FilesFromOption,
    JsonlOption,
    ModelOptions,
    NulOption,
    OutputOptions,
    RoundingOption,
    file_name,
    number,
    path_name,
    whole,
)
from nullspace_cli.commands.render import answer

if TYPE_CHECKING:
    from nullspace_cli.engine.runtime.distributed import Ranks
    from nullspace_cli.engine.workflows.watermark import WatermarkPipeline

Position = Literal["center", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right"]


def watermark(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE... MARK",
            parser=path_name,
            help="Images or folders of images, then the mark (as `cp`: it comes last).",
        ),
    ] = None,
    *,
    model: Annotated[
        str, typer.Option(envvar="VITNULL_MODEL", help="Whose answer stays: a timm name, hf-hub:, local-dir:, demo.")
    ] = DEFAULT_MODEL,
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Letter this instead of a MARK; all FILES are images then.")
    ] = None,
    files_from: FilesFromOption = None,
    nul: NulOption = False,
    size: Annotated[
        Literal["native", "model"],
        typer.Option(help="native: the image's own size. model: as the model's eval transform resizes it (the paper)."),
    ] = "native",
    nullspace: Annotated[
        Literal["auto", "resize", "patch"],
        typer.Option(
            help="resize: the model's input stays bit for bit. patch: its patch embeddings do. auto: resize, "
            "where that leaves enough of the mark."
        ),
    ] = "auto",
    norm: Annotated[int, whole(most=2, help="The p of eq. 7. p = 1 is solved at --size model only.")] = 2,
    treatment: Annotated[
        Literal["auto", "hatch", "outline", "plain"],
        typer.Option(help="How the mark is drawn. auto: hatch at native size, outline at the model's."),
    ] = "auto",
    strength: Annotated[
        float | None,
        number(
            most=100,
            help="1 is the mark as drawn; more exaggerates it, at no cost to the guarantee. "
            "[default: hatch 1, outline 2, plain 3]",
        ),
    ] = None,
    fit: Annotated[
        Literal["contain", "cover", "stretch", "tile"],
        typer.Option(help="How the mark fills its box; tile repeats it all over the image."),
    ] = "contain",
    position: Annotated[Position, typer.Option(help="Where the box lies.")] = "center",
    scale: Annotated[
        float | None,
        number(
            least=0.01, most=1, help="Side of the box (of a tile), as a share of the image's. [default: 0.8; tile 0.3]"
        ),
    ] = None,
    opacity: Annotated[float, number(most=1, help="Multiplies the mark's own opacity.")] = 1.0,
    rounding: RoundingOption = "aware",
    basis: BasisOption = None,
    tolerance: Annotated[
        float, number(help="Largest embedding_error of the saved file that passes verification.")
    ] = 0.01,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Run the model on the re-read file. [default: unless its input is bit-identical, which is a proof]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            parser=file_name,
            help="The .png, .webp (lossless) or .tif to write, for one image.",
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=path_name, help="Where <stem>.watermarked.png go; by default here."),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out images whose result is there already, and can be opened.")
    ] = False,
    diff: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=file_name, help="Write a picture of the noise, for one image.")
    ] = None,
    float_: Annotated[
        Path | None,
        typer.Option(
            "--float", metavar="FILE", parser=file_name, help="Write the exact solution before rounding, for one image."
        ),
    ] = None,
    workers: Annotated[
        int | None, whole(most=1024, help="Images at work at once. [default: 2, or as many as there are cores]")
    ] = None,
    jsonl: JsonlOption = False,
    options: ModelOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Stamp MARK onto every IMAGE so that people see it and the model does not.

    Where an image is larger than the model's input, the result is one whose input to the model has not a bit changed:
    no weights are read then, and nothing is downloaded. Elsewhere the model's patch embeddings stay.
    """
    given = list(files or [])
    mark_path = None if text is not None else _mark_of(given)
    images = named_images(given, files_from, ending_in(ENDING), console.note, nul=nul)
    if jsonl and output.json:
        raise typer.BadParameter("use --json or --jsonl, not both", param_hint="--jsonl")
    if size == "model" and nullspace == "resize":
        raise typer.BadParameter("at model size nothing is resized; use patch", param_hint="--nullspace")
    if norm == 1 and size == "native":
        raise typer.BadParameter("p = 1 is solved at the model's size; add --size model", param_hint="--norm")

    def plan() -> Planned:
        return plan_outputs(
            images,
            out,
            out_dir,
            single={"--diff": diff, "--float": float_},
            read=[mark_path, basis, files_from, *options.files(model)],
            force=output.force,
            skip_existing=skip_existing,
        )

    from nullspace_cli.engine.nullspace.lazy_model import LazyModel
    from nullspace_cli.engine.runtime.distributed import joined_ranks
    from nullspace_cli.engine.watermark.design import Design
    from nullspace_cli.engine.watermark.marks import DEFAULT_SCALE, Placement, read_mark, text_mark
    from nullspace_cli.engine.workflows.watermark import WatermarkFiles, WatermarkPipeline, refused

    with joined_ranks() as ranks:
        ranks.agree("images", fingerprint_of(images) if ranks.world > 1 else "")
        planned = ranks.lead(plan)  # what is there already is for one to say: others may have begun to write
        told = console.warn if ranks.first else lambda text: None
        mark = text_mark(text) if text is not None else read_mark(mark_path, told)  # type: ignore[arg-type]
        ranks.agree("marks", mark.sha256[:12])
        mine = ranks.share(planned.files)
        if not ranks.first:  # whose folders were made with the plan; each machine may have a disk of its own
            make_folders(mine, out_dir)
        failures = refused([source for source, _ in mine], alone=planned.alone and ranks.world == 1)
        if ranks.first:
            failures |= planned.broken
        network = LazyModel(options.request(model, ranks.device(options.device)), basis)
        placement = Placement(fit, position, DEFAULT_SCALE[fit] if scale is None else scale, opacity)
        design = Design(mark, placement, None if treatment == "auto" else treatment, strength)
        pipeline = WatermarkPipeline(
            network,
            design,
            size,
            nullspace,
            norm,  # type: ignore[arg-type]
            rounding,
            tolerance,
            verify,
            output.force,
            notice=console.warn,
        )
        jobs = [WatermarkFiles(source, target, diff, float_) for source, target in mine if source not in failures]
        for error in failures.values():
            console.error(error)
        return _run(console, pipeline, jobs, failures, planned, ranks, workers, jsonl=jsonl)


def _run(
    console: Console,
    pipeline: "WatermarkPipeline",
    jobs: list[Any],
    failures: dict[Path, str],
    planned: Planned,
    ranks: "Ranks",
    workers: int | None,
    *,
    jsonl: bool,
) -> int:
    """Stamp this process's images, and report those of all processes."""
    from nullspace_cli.engine.workflows.failed_input import Failed
    from nullspace_cli.engine.workflows.watermark import summarise

    if jobs:
        pipeline.prepare()
    started, records, code = time.monotonic(), [], 0
    with console.progress("images", len(jobs)) as advance:
        for done in pipeline.each(jobs, workers or pipeline.default_workers):
            advance()
            if isinstance(done, Failed):
                if planned.alone and ranks.world == 1:
                    raise done.error
                failures[done.source] = str(done.error)
                console.error(str(done.error))
                continue
            console.detail(f"{done.record['source']} -> {done.record['output']}")
            records.append(done.record)
            code = max(code, _judge(console, done.record, pipeline.tolerance))
            if jsonl:
                console.record("watermark", done.record)
    parts = ranks.gather((records, failures, code))
    if not ranks.first:
        return 0
    records = [record for part, _, _ in parts for record in part]
    failed = {source: error for _, part, _ in parts for source, error in part.items()}
    summary = {
        **summarise(records, len(failed), time.monotonic() - started),
        "skipped": len(planned.skipped),
    }
    body = {
        "images": records,
        "summary": summary,
        "failures": [{"source": str(source), "error": in_flags(error)} for source, error in failed.items()],
    }
    if console.options.json:
        console.json(console.document("watermark", pipeline.network, pipeline.network.request.seed, body))
    elif not jsonl:
        _render(console, records, summary, pipeline.network.describe())
    return 4 if failed else max(code for _, _, code in parts)


def _mark_of(given: list[Path]) -> Path:
    """Take the mark off the end of the arguments."""
    if not given:
        raise typer.BadParameter("give at least one image and then the mark: vitnull watermark photo.jpg logo.png")
    return given.pop()


def _judge(console: Console, record: dict[str, Any], tolerance: float) -> int:
    if record["solver"].get("unmarked_patches"):
        console.warn(
            f"{record['source']}: {record['solver']['unmarked_patches']} patches kept their source: the "
            f"solver did not reach its tolerance there."
        )
    if record["verified"] is False:
        console.error(f"{record['output']} does not hold: {broken_promise(record, tolerance)}.")
        return 3
    return 0


def _render(console: Console, records: list[dict[str, Any]], summary: dict[str, Any], model: dict[str, Any]) -> None:
    if len(records) == 1:
        _render_one(console, records[0], model)
        return
    if records:
        console.grid(
            ["image", "size", "nullspace", "input", "class", "confidence", "mark", "seconds"],
            [
                [
                    record["output"],
                    "{} x {}".format(*record["size"]),
                    record["nullspace"],
                    _input(record["input_pixels_changed"]),
                    {True: "kept", False: "CHANGED", None: "-"}[record["match"]],
                    "-" if record["confidence_change"] is None else f"{record['confidence_change']:.3%}",
                    "-" if record["mark_correlation"] is None else f"{record['mark_correlation']:.2f}",
                    f"{record['seconds']:.2f}",
                ]
                for record in records
            ],
        )
        console.line()
    kept = "" if summary["matched"] is None else f", {summary['matched']} predictions kept"
    skipped = f", {summary['skipped']} there already" if summary["skipped"] else ""
    rate = f", {summary['images_per_second']:.2f} images/s" if summary["images_per_second"] else ""
    console.line(
        f"{summary['count']} images done, {summary['failed']} failed{skipped}; "
        f"{summary['bit_identical']} with a bit-identical model input{kept}{rate}"
    )


def _render_one(console: Console, record: dict[str, Any], model: dict[str, Any]) -> None:
    solver, before, after = record["solver"], record["before"], record["after"]
    read = (
        "no weights read" if model["weights"] is None else f"{model['weights']}, sha256 {model['weights_sha256'][:12]}"
    )
    console.table(
        [
            ("image", f"{record['source']} -> {record['output']} ({record['size'][0]} x {record['size'][1]})"),
            ("model", f"{model['model']} ({read})"),
            ("nullspace", record["nullspace"]),
            ("model input", _input(record["input_pixels_changed"])),
            ("before", before and answer(before)),
            ("after", after and f"{answer(after)}, {'same class' if record['match'] else 'ANOTHER CLASS'}"),
            ("embedding", before and _percent(record["embedding_error"], "changed by {} after 8-bit rounding")),
            ("features", after and _percent(record["feature_change"], "changed by {}")),
            (
                "mark",
                f"correlation {record['mark_correlation']:.2f}, PSNR {record['psnr']:.1f} dB"
                if record["psnr"] is not None and record["mark_correlation"] is not None
                else "invisible",
            ),
            (
                "solver",
                f"p = {solver['norm']}, {solver['status']}, residual {solver['residual']:.1e}, "
                f"gap {solver['gap']:.1e}, bounds {solver['bound_violation']:.0e}, {solver['iterations']} iterations",
            ),
            ("noise", record["diff"]),
            ("exact", record["float"]),
            ("seconds", record["seconds"]),
        ]
    )


def _input(changed: float | None) -> str:
    if changed is None:
        return "-"
    return "bit-identical" if changed == 0 else f"{changed:.4%} changed"


def _percent(value: float | None, text: str) -> str | None:
    return None if value is None else text.format(f"{value:.3%}")
