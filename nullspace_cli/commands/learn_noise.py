"""`vitnull learn-noise`: noise that the whole network, not its first layer alone, does not notice."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.file_kinds import OutOption
from nullspace_cli.commands.options import (
    DataOption,
    ModelArgument,
    ModelOptions,
    OutputOptions,
    ReadingOption,
    SkipBadOption,
    TransformOption,
    WorkersOption,
    artifact_stem,
    number,
    path_name,
    whole,
)
from nullspace_cli.commands.outputs import refuse_clashes, refuse_stream
from nullspace_cli.commands.rendering.learn_noise import render


def learn_noise(
    model: ModelArgument,
    *,
    data: DataOption,
    level: Annotated[
        Literal["encoder", "input"],
        typer.Option(help="Noise on the patch embeddings, or on the image (every model, CNNs too)."),
    ] = "encoder",
    limit: Annotated[
        list[float] | None,
        number(
            above=True,
            metavar="LIM",
            help="Sampling limit: the noise starts from U(-LIM, LIM). Repeatable, one noise each. [default: 0.5]",
        ),
    ] = None,
    protocol: Annotated[
        Literal["adamw", "sgd", "paper-accum"],
        typer.Option(help="AdamW with a cosine; the paper's SGD; the same as its authors ran it, accumulating."),
    ] = "adamw",
    rounds: Annotated[int | None, whole(help="Passes over the images. [default: adamw 30, else 500]")] = None,
    lr: Annotated[float | None, number(help="Learning rate at the start. [default: adamw 0.02, else 0.01]")] = None,
    fraction: Annotated[
        float | None,
        number(most=1, help="Share of the training images to use. [default: adamw 0.1, else 1]"),
    ] = None,
    norm: Annotated[
        float, number(least=1, infinite=True, metavar="P", help="The p of the loss; inf is allowed.")
    ] = 2.0,
    stop_eps: Annotated[
        float | None,
        number(help="Stop when a round's mean of sum (p - p')^2, of probabilities, is below."),
    ] = None,
    step_images: Annotated[
        int, whole(help="Images in one optimiser step. --batch-size is what one forward pass takes.")
    ] = 256,
    transform: TransformOption = "model",
    split: Annotated[Literal["train", "val"], typer.Option(help="Which part of DATA, where it has parts.")] = "train",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was interrupted; keep noises that are finished.")
    ] = False,
    checkpoint_every: Annotated[
        int | None, whole(metavar="STEPS", help="Save what --resume needs. [default: every 30 seconds]")
    ] = None,
    cache_limit: Annotated[
        float, number(metavar="GIB", help="Memory for decoded images; what is more goes to disk.")
    ] = 4.0,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network's blocks first: for many rounds on a GPU.")
    ] = False,
    skip_bad: SkipBadOption = False,
    workers: WorkersOption = None,
    preview: Annotated[bool, typer.Option("--preview/--no-preview", help="Draw the loss over the steps.")] = True,
    out: OutOption = None,
    out_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=path_name, help="Where the files go; by default here.")
    ] = None,
    reading: ReadingOption = "timm",
    options: ModelOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Learn noise that leaves MODEL's answers as they are, on the images of DATA.

    Writes <model>.<level>.lim<LIM>.noise.safetensors for each limit (noise, init, losses) and <model>.<level>.loss.png.
    """
    limits = tuple(dict.fromkeys(limit or [0.5]))
    outputs, picture = _plan(model, level, limits, out, out_dir)
    refuse_stream(outputs[0], "what --resume needs is kept beside it; name a file")

    from nullspace_cli.engine.data.loader import Store
    from nullspace_cli.engine.errors import UsageError
    from nullspace_cli.engine.files.writing import make_folder
    from nullspace_cli.engine.models.compiled import compiled
    from nullspace_cli.engine.noise.injection_sites import injection_site
    from nullspace_cli.engine.noise.recipe import Recipe
    from nullspace_cli.engine.runtime.distributed import joined_ranks
    from nullspace_cli.engine.workflows.common_inputs import common_images, common_model
    from nullspace_cli.engine.workflows.learn_noise import NoiseRun, check_files

    state = outputs[0].with_name(f"{outputs[0].name}.resume")
    written = [*outputs, *([picture] if preview else [])]

    def check() -> None:
        refuse_clashes([*written, state], options.files(model))
        if out_dir:
            make_folder(out_dir)
        check_files(written, state, resume=resume, force=output.force)

    with joined_ranks() as ranks:
        ranks.lead(check)  # it alone reads and writes these files
        images = common_images(data, split, ranks, reading, console.note)
        refuse_clashes([*written, state], images.files())
        recipe = Recipe(level, limits, protocol, rounds, lr, fraction, norm, stop_eps, step_images)
        selected = images.select(recipe.chosen_images(len(images), options.seed))
        loaded = common_model(options.request(model, ranks.device(options.device)), ranks)
        if stop_eps is not None and not loaded.has_head:
            raise UsageError(f"{loaded.name} has no head, so no probabilities; --stop-eps has nothing to look at.")
        site = injection_site(loaded, level)
        if compile_:
            site = site.on(compiled(loaded))
        view = loaded.transform if transform == "model" else loaded.transform.squashed()
        run = NoiseRun(
            loaded,
            site,
            selected,
            view,
            recipe.plan(images.fingerprint(), len(selected), view, options.seed),
            outputs,
            state,
            Store(int(cache_limit * 2**30)),
            ranks,
            resume,
            output.force,
            checkpoint_every,
            workers,
            skip_bad,
            console.warn,
            console.progress,
        )
        learned = run()
        if not ranks.first:
            return 0
        if preview:
            from nullspace_cli.engine.plots.learning import draw_losses

            draw_losses(picture, loaded.name, learned.noises, force=output.force or resume)
    for noise in learned.noises:
        first, last = noise.record["loss_first"], noise.record["loss_last"]
        if last > first:
            console.warn(
                f"{noise.record['noise']}: the loss rose from {first:.3g} to {last:.3g}: the network minds this noise "
                "more than the one that it was made of. Use a smaller --lr, or more --rounds."
            )
    body = {
        "level": level,
        "reading": reading,
        "noises": [noise.record for noise in learned.noises],
        "images": len(selected) - len(learned.skipped),
        "skipped": learned.skipped,
        "outputs": "logits" if loaded.has_head else "features",
        "plan": run.plan.to_dict(),
        "preview": str(picture) if preview else None,
    }
    document = console.document("learn-noise", loaded, options.seed, body)
    console.result(document, render)
    return 0


def _plan(
    model: str, level: str, limits: tuple[float, ...], out: Path | None, out_dir: Path | None
) -> tuple[tuple[Path, ...], Path]:
    """The file of each noise, and that of the picture."""
    if out and (out_dir or len(limits) > 1):
        raise typer.BadParameter("names the file of one noise; use --out-dir for several limits", param_hint="--out")
    if out:
        return (out,), out.with_suffix(".png")
    from nullspace_cli.engine.text import shortest

    stem = (out_dir or Path()) / f"{artifact_stem(model)}.{level}"
    outputs = tuple(stem.with_name(f"{stem.name}.lim{shortest(limit)}.noise.safetensors") for limit in limits)
    return outputs, stem.with_name(f"{stem.name}.loss.png")
