"""`vitnull fool`: an image that looks like one thing to a person and is another to the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.image_files import images_but_target
from nullspace_cli.commands.options import (
    DEFAULT_MODEL,
    NAMES_MODEL,
    BasisOption,
    ModelOptions,
    OutputOptions,
    ReadingOption,
    RoundingOption,
    image_name,
    number,
    path_name,
    read_number,
    whole,
)
from nullspace_cli.commands.outputs import claim
from nullspace_cli.commands.promises import exit_code_of
from nullspace_cli.commands.rendering.fool import render
from nullspace_cli.commands.reports import ReportOptions, write_page


def fool(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE TARGET",
            parser=image_name,
            help="What the network sees, then what people see; with --sources TARGET alone.",
        ),
    ],
    *,
    model: Annotated[
        str,
        typer.Option(
            **NAMES_MODEL, envvar="VITNULL_MODEL", help="Whom to fool: a timm name, hf-hub:, local-dir:, demo."
        ),
    ] = DEFAULT_MODEL,
    sources: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path_name,
            help="Take the image of this folder that makes the result most like TARGET.",
        ),
    ] = None,
    source_class: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Of --sources, only images in which the model sees this class. [default: any but TARGET's]",
        ),
    ] = None,
    size: Annotated[
        Literal["model", "native"],
        typer.Option(
            help="model: as the model's eval transform resizes SOURCE. native: SOURCE's own size, where all "
            "detail above the model's input is free, for any model."
        ),
    ] = "model",
    channels: Annotated[
        Literal["red", "all"],
        typer.Option(help="red: green and blue are TARGET's, as in the paper (unbounded). all: the nearest image."),
    ] = "all",
    bounded: Annotated[
        bool | None,
        typer.Option(
            "--bounded/--unbounded",
            help="A valid 8-bit image, or a float one with a preview. [default: bounded, but for --channels red]",
        ),
    ] = None,
    norm: Annotated[int, whole(most=2, help="The p of the distance to TARGET.")] = 2,
    strength: Annotated[
        str, typer.Option(metavar="auto|S", help="Multiplies TARGET's detail; auto takes what looks most like TARGET.")
    ] = "auto",
    explain: Annotated[
        str,
        typer.Option(
            metavar="METHODS|all|none", help="Saliency methods, separated by commas. [default: a few that suit]"
        ),
    ] = "",
    rounding: RoundingOption = "aware",
    reading: ReadingOption = "timm",
    basis: BasisOption = None,
    tolerance: Annotated[float, number(help="Largest embedding_error of the result that passes verification.")] = 0.01,
    float_: Annotated[
        bool, typer.Option("--float/--no-float", help="Write the exact float image and noise; large at native size.")
    ] = True,
    out_dir: Annotated[Path, typer.Option(metavar="DIR", parser=path_name, help="Where the files go.")] = Path(),
    options: ModelOptions,
    report: ReportOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Make an image that looks like TARGET to a person and is SOURCE to the network, and to its saliency maps.

    TARGET is scaled and cropped to cover SOURCE.

    Writes <source>.<target>.fooled.png, .fooled.safetensors (the exact float image), .noise.png and .sheet.png, named
    by the folder where --sources chooses the source.
    """
    source, target = _pair(files, sources)
    if source_class is not None and sources is None:
        raise typer.BadParameter("chooses among --sources; give that folder too", param_hint="--source-class")
    is_bounded = channels == "all" if bounded is None else bounded
    if not is_bounded and not float_:
        raise typer.BadParameter("unbounded, the float image is the result; leave it out", param_hint="--no-float")
    if basis and size == "native":
        raise typer.BadParameter("at native size the nullspace is the resize's; leave it out", param_hint="--basis")
    amount = _strength(strength)

    from nullspace_cli.engine.files.paths import real
    from nullspace_cli.engine.files.pictures import check_picture, read_picture
    from nullspace_cli.engine.files.writing import make_folder
    from nullspace_cli.engine.workflows.fool import FoolFiles

    candidates = [source] if source else images_but_target(sources, target, console.note)  # type: ignore[arg-type]
    for path in (*([source] if source else ()), target):
        check_picture(path)
    make_folder(out_dir)

    name = source.stem if source else Path(real(sources or Path())).name
    artifacts = FoolFiles.of(out_dir, name, target.stem, exact=float_)
    read = [*candidates, target, basis, *options.files(model)]
    page_path = report.path()
    claim([path for path in (*artifacts, page_path) if path], read, force=output.force)
    gallery = report.gallery(console, page_path)

    from nullspace_cli.engine.adversarial.attack import Attack
    from nullspace_cli.engine.adversarial.sources import choose_source
    from nullspace_cli.engine.files.two_readings import DifferenceNotice
    from nullspace_cli.engine.nullspace.lazy_model import LazyModel
    from nullspace_cli.engine.runtime.stages import stage
    from nullspace_cli.engine.saliency.methods import choose, default_methods
    from nullspace_cli.engine.workflows.fool import report as reported

    network = LazyModel(options.request(model), basis)
    maker = Attack(network, size, channels, is_bounded, norm, amount, rounding, reading)  # type: ignore[arg-type]
    maker.prepare()
    names = [name.strip() for name in explain.split(",") if name.strip() not in ("", "none")] if explain else []
    methods = choose(network.model, names) if explain else default_methods(network.model)
    looks = read_picture(target, "shown")
    looks.tell(console.warn)
    wanted = looks.pixels
    if source:
        choice, picture = None, read_picture(source, reading)
    else:
        with console.progress("choosing a source", "images", len(candidates)) as advance:
            choice = choose_source(maker, candidates, wanted, source_class, advance, console.warn)
        picture = choice.picture
        console.detail(f"source {choice.path}, the best of {choice.candidates}")
    picture.tell(console.warn)
    DifferenceNotice(console.warn, reading)(str(picture.path), picture)
    if size == "native" and picture.reduced:
        console.warn(f"{artifacts.image} is {picture.reduced}: a PNG cannot hold what {picture.path} does")
    with console.progress("fooling", "images", 1):
        made = maker(picture, wanted)
        stage("measuring, and maps")
        done = reported(
            maker, made, picture, target, artifacts, methods,
            tolerance=tolerance, force=output.force, notice=console.warn,
        )  # fmt: skip

    from nullspace_cli.engine.plots.fooling import draw_fooling

    draw_fooling(artifacts.sheet, done, force=output.force)
    chosen = choice.to_dict() if choice else None
    document = console.document("fool", network, options.seed, {**done.record, "sources": chosen})
    if page_path and gallery is not None:
        from nullspace_cli.engine.report.fool import page, show_fooled

        show_fooled(gallery, done)
        write_page(console, page_path, page(document, gallery))
    console.result(document, render)
    return _judge(console, document, tolerance)


def _pair(files: list[Path], sources: Path | None) -> tuple[Path | None, Path]:
    if sources is not None:
        if len(files) != 1:
            raise typer.BadParameter("with --sources give TARGET alone: vitnull fool target.jpg --sources photos/")
        return None, files[0]
    if len(files) != 2:
        raise typer.BadParameter("give SOURCE and TARGET: vitnull fool source.jpg target.jpg; or TARGET and --sources")
    return files[0], files[1]


def _strength(text: str) -> float | None:
    return None if text == "auto" else read_number(text, least=0, most=100, words="auto or ", option="--strength")


def _judge(console: Console, document: dict[str, Any], tolerance: float) -> int:
    unmarked = document["solver"].get("unmarked_patches")
    if unmarked:
        console.warn(f"{unmarked} patches kept their source: the solver did not end there.")
    result = document["artifacts"]["image" if document["bounded"] else "exact"]
    for doubt in _doubts(document, result):
        console.warn(doubt)
    if document["verified"] is None:
        console.warn(f"{result} could not be verified: the model's features are 0 throughout, and so is their change.")
    return exit_code_of(console, document, result, tolerance)


def _doubts(document: dict[str, Any], result: str) -> Iterator[str]:
    """Why a result that keeps what it promises may yet show nothing."""
    source, target = document["prediction"]["source"], document["prediction"]["target"]
    if source and target and source["class"] == target["class"]:
        yield (
            f"the network says class {source['class']} of {document['target']}, too: that the result keeps it shows "
            "nothing. Use images of two classes."
        )
    like = document["likeness"]
    to_source, to_target = like["correlation_source"], like["correlation_target"]
    if to_source is not None and to_target is not None and to_source > to_target:
        yield (
            f"in light, dark and colour {result} is more like its source than its target (correlation {to_source:.2f} "
            f"against {to_target:.2f}): people may see the target's outlines alone. --sources finds one that suits."
        )
