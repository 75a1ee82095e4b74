"""`vitnull watermark`: a visible mark that leaves the network's answer as it was."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.options import DEFAULT_MODEL, ModelOptions, OutputOptions

if TYPE_CHECKING:
    from nullspace_cli.engine.models import LoadedModel

Position = Literal["center", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right"]


def watermark(
    files: Annotated[
        list[Path], typer.Argument(metavar="IMAGE... MARK", help="Images, then the mark (as `cp`: it comes last).")
    ],
    *,
    model: Annotated[
        str, typer.Option(envvar="VITNULL_MODEL", help="Whose answer stays: a timm name, hf-hub:, local-dir:, demo.")
    ] = DEFAULT_MODEL,
    basis: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A basis made by `vitnull basis` for this model.")
    ] = None,
    size: Annotated[
        Literal["model", "native"],
        typer.Option(
            help="model: as the model's eval transform resizes the image. native comes with the next release."
        ),
    ] = "model",
    norm: Annotated[int, typer.Option(min=2, max=2, help="The p of eq. 7; p = 1 comes with the next release.")] = 2,
    strength: Annotated[
        float,
        typer.Option(min=0, max=100, help="1 is the mark as drawn; more exaggerates it, at no cost to the guarantee."),
    ] = 3.0,
    fit: Annotated[
        Literal["contain", "cover", "stretch"], typer.Option(help="How the mark fills its box.")
    ] = "contain",
    position: Annotated[Position, typer.Option(help="Where the box lies.")] = "center",
    scale: Annotated[float, typer.Option(min=0.01, max=1, help="Side of the box, as a share of the image's.")] = 0.8,
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Multiplies the mark's own opacity.")] = 1.0,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest embedding_error of the saved file that passes verification.")
    ] = 0.01,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Run the model on the re-read file.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The PNG to write, for one image.")
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where <stem>.watermarked.png go; by default here.")
    ] = None,
    diff: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture of the noise, for one image.")
    ] = None,
    float_: Annotated[
        Path | None,
        typer.Option("--float", metavar="FILE", help="Write the exact solution before rounding, for one image."),
    ] = None,
    options: ModelOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Stamp MARK onto every IMAGE so that people see it and the model does not.

    The result is the closest picture to the marked one whose patch embeddings are those of the source.
    """
    images, mark_path = _split(files)
    targets = _targets(images, out, out_dir, single={"--out": out, "--diff": diff, "--float": float_})
    _refuse_clashes(read=[*files, *filter(None, [basis])], written=[*targets, *filter(None, [diff, float_])])
    if size == "native":
        raise typer.BadParameter("native size comes with the next release; use --size model", param_hint="--size")

    from nullspace_cli.engine.artifacts import check_output, make_folder, read_provenance
    from nullspace_cli.engine.basis import KIND, find_basis, load_row_space
    from nullspace_cli.engine.marks import Placement, read_mark
    from nullspace_cli.engine.models import load_model
    from nullspace_cli.engine.stamping import Job, Stamp, refused, stamp_files, summarise
    from nullspace_cli.engine.watermarking import PatchSpace

    if out_dir:
        make_folder(out_dir)
    for file in [*targets, *filter(None, (diff, float_))]:
        check_output(file, force=output.force)
    if basis:
        read_provenance(basis, KIND)
    mark = read_mark(mark_path)
    failures = refused(images)

    loaded = load_model(options.request(model))
    found = find_basis(loaded)
    rows = load_row_space(basis, loaded) if basis else found.nullspace.row_space.flatten(1)
    stamp = Stamp(
        loaded,
        PatchSpace(found.patch_map, rows),
        mark,
        Placement(fit, position, scale, opacity, strength),
        tolerance,
        verify,
        output.force,
    )
    jobs = [Job(image, target, diff, float_) for image, target in zip(images, targets, strict=True)]

    def report(job: Job, error: str | None) -> None:
        if error:
            console.error(error)
        else:
            console.detail(f"{job.source} -> {job.output}")

    records = stamp_files(stamp, jobs, failures, report)
    summary = summarise(records, len(failures))
    body = {
        "images": records,
        "summary": summary,
        "failures": [{"source": str(source), "error": error} for source, error in failures.items()],
    }
    if output.json:
        console.json(console.document("watermark", loaded, options.seed, body))
    else:
        _render(console, records, summary, loaded)
    verdict = _judge(console, records, tolerance)
    return 4 if failures else verdict


def _split(files: list[Path]) -> tuple[list[Path], Path]:
    if len(files) < 2:
        raise typer.BadParameter("give at least one image and then the mark: vitnull watermark photo.jpg logo.png")
    return files[:-1], files[-1]


def _targets(images: list[Path], out: Path | None, out_dir: Path | None, single: dict[str, Path | None]) -> list[Path]:
    """The file of each result, refusing options that do not go together and formats that lose pixels."""
    given = [name for name, value in single.items() if value is not None]
    if len(images) > 1 and given:
        raise typer.BadParameter("takes one image; use --out-dir for several", param_hint=given[0])
    if out and out_dir:
        raise typer.BadParameter("use --out or --out-dir, not both", param_hint="--out")
    targets = [out] if out else [(out_dir or Path()) / f"{image.stem}.watermarked.png" for image in images]
    for target in targets:
        if target.suffix.lower() != ".png":
            raise typer.BadParameter(
                f"{target}: a lossy format would destroy the guarantee; use .png", param_hint="--out"
            )
    if (diff := single["--diff"]) and diff.suffix.lower() != ".png":
        raise typer.BadParameter(f"{diff}: the picture of the noise is a PNG; use .png", param_hint="--diff")
    return targets


def _refuse_clashes(read: list[Path], written: list[Path]) -> None:
    """Refuse to write two results to one name, or a result over an input, --force or not."""
    twice = [str(path) for path, count in Counter(written).items() if count > 1]
    if twice:
        raise typer.BadParameter(f"several results would be written to {', '.join(twice)}; rename or run them apart")
    inputs = {path.resolve() for path in read}
    over = [str(path) for path in written if path.resolve() in inputs]
    if over:
        raise typer.BadParameter(f"the result would replace its own input {', '.join(over)}; give it another name")


def _judge(console: Console, records: list[dict[str, Any]], tolerance: float) -> int:
    code = 0
    for record in records:
        if record["solver"]["unmarked_patches"]:
            console.warn(
                f"{record['source']}: {record['solver']['unmarked_patches']} patches kept their source: the "
                f"solver did not reach its tolerance there."
            )
        if record["verified"] is False:
            console.error(
                f"{record['output']} does not hold: class kept {record['match']}, embedding error "
                f"{record['embedding_error']:.3g} (tolerance {tolerance:.3g})."
            )
            code = 3
    return code


def _render(console: Console, records: list[dict[str, Any]], summary: dict[str, Any], model: "LoadedModel") -> None:
    for record in records:
        solver, before, after = record["solver"], record["before"], record["after"]
        console.table(
            [
                ("image", f"{record['source']} -> {record['output']} ({record['size'][0]} x {record['size'][1]})"),
                ("model", f"{model.name} ({model.weights}, sha256 {model.weights_sha256[:12]})"),
                ("before", before and _answer(before)),
                ("after", after and f"{_answer(after)}, {'same class' if record['match'] else 'ANOTHER CLASS'}"),
                ("embedding", _percent(record["embedding_error"], "changed by {} after 8-bit rounding")),
                ("features", _percent(record["feature_change"], "changed by {}")),
                (
                    "mark",
                    f"correlation {record['mark_correlation']:.2f}, PSNR {record['psnr']:.1f} dB"
                    if record["psnr"] is not None and record["mark_correlation"] is not None
                    else "invisible",
                ),
                (
                    "solver",
                    f"{solver['status']}, residual {solver['residual']:.1e}, gap {solver['gap']:.1e}, "
                    f"bounds {solver['bound_violation']:.0e}, {solver['iterations']} iterations",
                ),
                ("noise", record["diff"]),
                ("exact", record["float"]),
                ("seconds", record["seconds"]),
            ]
        )
        console.line()
    if len(records) != 1:
        matched = "" if summary["matched"] is None else f", {summary['matched']} predictions kept"
        console.line(f"{summary['count']} images done, {summary['failed']} failed{matched}")


def _answer(answer: dict[str, Any]) -> str:
    label = f" {answer['label']}" if answer["label"] else ""
    return f"class {answer['class']}{label} ({answer['probability']:.2%})"


def _percent(value: float | None, text: str) -> str | None:
    return None if value is None else text.format(f"{value:.3%}")
