"""`vitnull watermark`: a visible mark that leaves the network's answer as it was."""

import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.file_kinds import ARCHIVES, NOISE_PICTURE, TENSORS, WATERMARK, to_write
from nullspace_cli.commands.image_files import (
    WATERMARKED_ENDINGS,
    Planned,
    ending_in,
    ending_like,
    fingerprint_of,
    make_folders,
    named_images,
    plan_outputs,
)
from nullspace_cli.commands.image_run import ImageRun
from nullspace_cli.commands.options import (
    DEFAULT_MODEL,
    NAMES_MODEL,
    BasisOption,
    ColumnOption,
    FilesFromOption,
    JsonlOption,
    ModelOptions,
    NulOption,
    OutputOptions,
    ReadingOption,
    RoundingOption,
    file_name,
    image_name,
    number,
    path_name,
    whole,
)
from nullspace_cli.commands.outputs import STAND_INS
from nullspace_cli.commands.promises import exit_code_of
from nullspace_cli.commands.rendering.watermark import render
from nullspace_cli.commands.reports import ReportOptions, write_page
from nullspace_cli.commands.shards import ShardOption, shard_of

if TYPE_CHECKING:
    from nullspace_cli.engine.watermark.further_readers import FurtherReaders

QUALITY = 95
Position = Literal["center", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right"]


def watermark(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE... MARK",
            parser=image_name,
            help="Images, tar or Parquet files, folders of them, or addresses (s3://...), then the mark (as `cp`: it "
            "comes last); - is stdin.",
        ),
    ] = None,
    *,
    mark: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=image_name, help="The mark, where it is not the last of FILES: all are images then."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            **NAMES_MODEL, envvar="VITNULL_MODEL", help="Whose answer stays: a timm name, hf-hub:, local-dir:, demo."
        ),
    ] = DEFAULT_MODEL,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Letter this instead of a MARK; all FILES are images then. {stem}, {name}, {width}, {height} and, "
            "from EXIF, {year}, {author}, {copyright} are each image's own; {{ is a brace.",
        ),
    ] = None,
    font: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=file_name,
            help="A .ttf, .otf or .ttc for --text. [default: the built-in one, else what is installed]",
        ),
    ] = None,
    files_from: FilesFromOption = None,
    nul: NulOption = False,
    column: ColumnOption = None,
    shard: ShardOption = None,
    size: Annotated[
        Literal["native", "model"],
        typer.Option(help="native: the image's own size. model: as the model's eval transform resizes it (the paper)."),
    ] = "native",
    nullspace: Annotated[
        Literal["auto", "resize", "patch"],
        typer.Option(
            help="resize: the model's input stays bit for bit. patch: its patch embeddings do; at --size model, "
            "whatever its first layers read. auto: resize, where that leaves enough of the mark."
        ),
    ] = "auto",
    norm: Annotated[int, whole(most=2, help="The p of eq. 7. p = 1 is solved at --size model only, of patches.")] = 2,
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
    margin: Annotated[
        float | None,
        number(
            most=0.49,
            help="Between the box and an edge, as a share of the image's shorter side. [default: 0.03; center, tile 0]",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        number(
            least=0.01,
            most=1,
            help="Side of the box (of a tile), as a share of the image's. [default: 0.8; in a corner 0.4; tile 0.3]",
        ),
    ] = None,
    opacity: Annotated[float, number(most=1, help="Multiplies the mark's own opacity.")] = 1.0,
    rounding: RoundingOption = "aware",
    reading: ReadingOption = "timm",
    readers: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="READER",
            help="Who else shall see no mark: SIZE/FILTER/CROP_PCT, a timm name, or common, the readers of 90% of "
            "timm's pretrained models. Repeatable; --model keeps its input bit for bit, these within a level.",
        ),
    ] = None,
    basis: BasisOption = None,
    tolerance: Annotated[
        float, number(help="Largest embedding_error of the saved file that passes verification.")
    ] = 0.01,
    min_legibility: Annotated[
        float,
        number(most=1, help="Smallest share of the mark that is to be seen; less is said, and ends in exit code 3."),
    ] = 0.7,
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
            parser=to_write(WATERMARK),
            help="The .png, .webp (lossless), .tif or .jpg to write, for one image; - is stdout.",
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=path_name, help="Where <stem>.watermarked.* go; by default here."),
    ] = None,
    format_: Annotated[
        Literal["png", "webp", "tif", "jpg", "same"],
        typer.Option("--format", help="What they are. same: as their source, JPEGs too; else png."),
    ] = "png",
    quality: Annotated[
        int, whole(most=100, help="Of a JPEG that is made of another picture; one that is made of a JPEG has its own.")
    ] = QUALITY,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave out images whose result is there already, and can be opened, or is what another run is making.",
        ),
    ] = False,
    diff: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=to_write(NOISE_PICTURE), help="Write a picture of the noise, for one image."
        ),
    ] = None,
    float_: Annotated[
        Path | None,
        typer.Option(
            "--float",
            metavar="FILE",
            parser=to_write(TENSORS),
            help="Write the exact solution before rounding, for one image.",
        ),
    ] = None,
    workers: Annotated[
        int | None, whole(most=1024, help="Images at work at once. [default: one a core, up to 4; on a GPU 2]")
    ] = None,
    jsonl: JsonlOption = False,
    options: ModelOptions,
    report: ReportOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Stamp MARK onto every IMAGE so that people see it and the model does not.

    Where an image is larger than the model's input, the result is one whose input to the model has not a bit changed:
    no weights are read then, and nothing is downloaded. Elsewhere the model's patch embeddings stay.
    """
    given = list(files or [])
    if mark is not None and text is not None:
        raise typer.BadParameter("the mark is either a picture or letters", param_hint="--mark")
    mark_path = None if text is not None else mark or _mark_of(given, files_from)
    if font is not None and text is None:
        raise typer.BadParameter("letters nothing without --text", param_hint="--font")
    output.require_one_form(jsonl=jsonl)
    if size == "model" and nullspace == "resize":
        raise typer.BadParameter("at model size nothing is resized; use patch", param_hint="--nullspace")
    if norm == 1 and size == "native":
        raise typer.BadParameter("p = 1 is solved at the model's size; add --size model", param_hint="--norm")
    if readers and size == "model":
        raise typer.BadParameter("at model size there is one reader, the model; leave it out", param_hint="--for")
    if readers and nullspace == "patch":
        raise typer.BadParameter("the patch embeddings are one model's own; use --nullspace resize", param_hint="--for")

    named = None if out is None or out.suffix in ARCHIVES else out
    if named and named not in STAND_INS and format_ != "png":
        raise typer.BadParameter("--out says the format by its ending", param_hint="--format")
    may_be_jpeg = format_ in ("jpg", "same") if named is None else named.suffix.lower() in (".jpg", ".jpeg")
    if may_be_jpeg and size == "model":
        raise typer.BadParameter(
            "a JPEG keeps the image's own size: at the model's there is no resize that hides its losses; write .png",
            param_hint="--size",
        )
    if may_be_jpeg and nullspace == "patch":
        raise typer.BadParameter(
            "the patch embedding's nullspace is too fine for a JPEG's coefficients; write .png, or leave it out",
            param_hint="--nullspace",
        )
    if may_be_jpeg and readers:
        raise typer.BadParameter(
            "a JPEG is fitted to one reader, the model; write .png, or leave it out", param_hint="--for"
        )
    taken = shard_of(shard, console)
    page_path = report.path(taken)
    single, read = {"--diff": diff, "--float": float_}, [mark_path, font, basis, files_from, *options.files(model)]

    from nullspace_cli.engine.files.stand_ins import at_hand
    from nullspace_cli.engine.runtime.distributed import joined_ranks
    from nullspace_cli.engine.workflows.image_stores import ArchiveFiles, ArchiveSettings, Look

    further = _further_readers(readers, options)  # what is refused, is so before folders are made
    fetched = nullcontext(mark_path) if mark_path is None else at_hand(mark_path, console.names)
    with joined_ranks(apart=True) as ranks, fetched as mark_path:
        images = named_images(
            given, files_from, ending_in(*WATERMARKED_ENDINGS), console.note, ranks, nul=nul, out_dir=out_dir
        )

        def plan() -> Planned:
            return plan_outputs(
                images, out, out_dir, page_path, format_,
                shard=taken, single=single, read=read, force=output.force, skip_existing=skip_existing,
            )  # fmt: skip

        ranks.agree("images", fingerprint_of(images) if ranks.world > 1 else "")
        planned = ranks.lead(plan)  # what is there already is for one to say: others may have begun to write
        mine = ranks.share(planned.files)
        if not ranks.first:  # whose folders were made with the plan; each machine may have a disk of its own
            make_folders(mine, out_dir)
        alone = planned.alone and ranks.world == 1 and taken.count == 1
        look = Look(column or (), console.note)
        run = ImageRun(console, "watermark", [source for source, _ in mine], look, alone=alone, jsonl=jsonl)
        if ranks.first:
            run.failures |= planned.broken

        # Only now what takes seconds to import.
        from nullspace_cli.engine.nullspace.lazy_model import LazyModel
        from nullspace_cli.engine.watermark.design import Design, TextDesign
        from nullspace_cli.engine.watermark.further_readers import FurtherReaders
        from nullspace_cli.engine.watermark.marks import Placement, read_mark
        from nullspace_cli.engine.workflows.in_threads import in_groups
        from nullspace_cli.engine.workflows.watermark import WatermarkFiles, WatermarkPipeline, summarise

        told = console.warn if ranks.first else lambda text: None
        placement = Placement.suiting(fit, position, scale, margin, opacity)
        drawn = placement, None if treatment == "auto" else treatment, strength
        design: Design | TextDesign
        if mark_path is None:
            design = TextDesign.read(str(text), font, *drawn)
        else:
            logo = read_mark(mark_path, told)
            if mark is None and logo.like_a_photo:
                told(
                    f"{mark_path} is taken for the mark, for it comes last, and it looks like a photo. If it is one "
                    "to be marked, name the mark by --mark."
                )
            design = Design(logo, *drawn)
        ranks.agree("marks", design.sha256[:12])
        network = LazyModel(options.request(model, ranks.device(options.device)), basis)
        gallery = report.gallery(console, page_path, ranks)
        p: Literal[1, 2] = 1 if norm == 1 else 2
        pipeline = WatermarkPipeline(
            network, design, size, nullspace, p, rounding, tolerance, verify, output.force,
            notice=console.warn, reading=reading, gallery=gallery, quality=quality, readers=further or FurtherReaders(),
        )  # fmt: skip
        run.tell_refused()

        def within(source: Path, stem: Path) -> WatermarkFiles:
            return WatermarkFiles(source, stem.with_name(f"{stem.name}{ending_like(source, format_)}"))

        def stamp(jobs: Iterable[WatermarkFiles], shared: bool) -> Generator[list[Any], None, None]:
            return in_groups(pipeline.each(jobs, workers or pipeline.default_workers, shared=shared), 1)

        settings = ArchiveSettings(
            within, True, console.names, console.warn, column or (), force=output.force, shared=skip_existing
        )
        jobs = [
            ArchiveFiles(source, target) if source in look.counts else WatermarkFiles(source, target, diff, float_)
            for source, target in mine
            if source not in run.failures
        ]
        stores = look.stores(jobs, settings)
        total = sum(map(len, stores))
        if stores:
            pipeline.prepare()
        started = time.monotonic()
        with console.progress("stamping", "images", total) as advance:
            for group in run.through(stores, stamp, advance):
                for done in group:
                    console.detail(f"{done.record['source']} -> {done.record['output']}")
                    run.add(done.record, _judge(console, done.record, tolerance, min_legibility))
        run.gather(ranks)
        if gallery is not None:
            gallery.gather(ranks)
        if not ranks.first:
            return 0
        summary = summarise(run.records, len(run.failures), time.monotonic() - started)
        body = {
            "shard": str(taken),
            "exit_code": run.exit_code,
            "images": run.records,
            "summary": {**summary, "skipped": len(planned.skipped) + run.elsewhere},
            "failures": run.described_failures(),
        }
        document = console.document("watermark", network, options.seed, body)
        if not jsonl:
            console.result(document, render)
        if page_path and gallery is not None:
            from nullspace_cli.engine.report.watermark import page

            write_page(console, page_path, page(document, gallery))
        return run.exit_code


def _mark_of(given: list[Path], listed: Path | None) -> Path:
    """Take the mark off the end of the arguments."""
    if not given or (len(given) == 1 and not listed):
        named = f"{given[0]} is the only one named; " if given else ""
        raise typer.BadParameter(
            f"{named}give at least one image and then the mark: vitnull watermark photo.jpg logo.png; or --text"
        )

    from nullspace_cli.engine.files.paths import is_folder

    if is_folder(given[-1]):
        raise typer.BadParameter(f"the last name is the mark's, and {given[-1]} is a folder; name the mark by --mark")
    return given.pop()


def _further_readers(readers: list[str] | None, options: ModelOptions) -> "FurtherReaders | None":
    """Those that were asked for; if none were, nothing of that need be imported yet."""
    if not readers:
        return None

    from nullspace_cli.engine.watermark.further_readers import FurtherReaders

    return FurtherReaders.parse(readers, offline=options.offline)


def _judge(console: Console, record: Mapping[str, Any], tolerance: float, min_legibility: float) -> int:
    unmarked = record["solver"].get("unmarked_patches")
    if unmarked:
        said = f"{unmarked} patches kept their source: the solver did not reach its tolerance there."
        console.warn(f"{record['source']}: {said}")
    broken = exit_code_of(console, record, record["output"], tolerance)
    return broken or _judge_mark(console, record, min_legibility)


def _judge_mark(console: Console, record: Mapping[str, Any], least: float) -> int:
    """Say that people cannot read the mark, and what to do; the exit code that this ends in."""
    seen = record["legibility"]["full"]
    if seen >= least:
        return 0
    fault = "the mark cannot be seen" if seen == 0 else f"the mark can hardly be read: {seen:.0%} of it can be seen"
    console.warn(
        f"{record['output']}: {fault} (expected {least:.0%}). Plain white, plain black and fine detail leave it no "
        "room: use --position, a larger --scale or a larger image; --min-legibility 0 accepts it."
    )
    return 3
