"""`vitnull check`: what readers and models make of two files."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.image_pairs import paired, tell_lonely
from nullspace_cli.commands.image_run import ImageRun
from nullspace_cli.commands.options import (
    NAMES_MODEL,
    JsonlOption,
    ModelOptions,
    OutputOptions,
    ReadingOption,
    given,
    image_name,
    number,
    read_number,
    whole,
)
from nullspace_cli.commands.outputs import claim
from nullspace_cli.commands.rendering.check import broken_promises, render
from nullspace_cli.commands.reports import ReportOptions, write_page
from nullspace_cli.commands.shards import ShardOption, shard_of


def check(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", parser=image_name, help="An image, or a folder of images.")
    ],
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT",
            parser=image_name,
            help="What has become of it, by whatever tool; or a folder, whose images are matched by their names.",
        ),
    ],
    *,
    reader: Annotated[
        list[str] | None,
        typer.Option(
            metavar="READER",
            parser=given,
            help="Whose input is to stay: SIZE/FILTER/CROP_PCT, as 224/bicubic/0.875 or 256x128/torch-bilinear/squash, "
            "or a model, of which no weights are read. Repeatable. [default: common ones, of which nothing is asked]",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            **NAMES_MODEL,
            parser=given,
            help="Who answers for both files: a timm name, hf-hub:, local-dir:, demo. Repeatable. "
            "[env var: VITNULL_MODEL; default: no model]",
        ),
    ] = None,
    keep: Annotated[
        Literal["input", "answer"],
        typer.Option(
            help="What of every --model is to stay. input: all of what it is given, and its class. answer: its class."
        ),
    ] = "input",
    tolerance: Annotated[
        float, number(most=255, metavar="LEVELS", help="By how much a value may differ of an input that is to stay.")
    ] = 0.0,
    jpeg: Annotated[
        str,
        typer.Option(
            metavar="QUALITY,...|none", parser=given, help="Say besides what is left once files are saved as JPEGs."
        ),
    ] = "95,75",
    reading: ReadingOption = "timm",
    shard: ShardOption = None,
    workers: Annotated[
        int | None, whole(most=1024, help="Pairs at work at once. [default: one a core, up to 4; on a GPU 2]")
    ] = None,
    jsonl: JsonlOption = False,
    options: ModelOptions,
    report: ReportOptions,
    output: OutputOptions,
    console: Console,
) -> int:
    """Compare what readers and models make of SOURCE and RESULT: two files of any formats, from any tools.

    Exit code 3 if what is to stay does not: the input of a --reader, or the input or the class of a --model. Without
    either nothing is asked.
    """
    output.require_one_form(jsonl=jsonl)
    names = list(dict.fromkeys(model or filter(None, [os.environ.get("VITNULL_MODEL")])))
    if options.checkpoint and len(names) != 1:
        raise typer.BadParameter("holds the weights of one model; give one --model", param_hint="--checkpoint")
    if options.class_names and len(names) != 1:
        raise typer.BadParameter("holds the classes of one model; give one --model", param_hint="--class-names")
    qualities = _qualities(jpeg)
    taken = shard_of(shard, console)
    page_path = report.path(taken)

    from nullspace_cli.engine.models.devices import resolve_device
    from nullspace_cli.engine.models.loading import load_model
    from nullspace_cli.engine.models.named_readers import parse_reader
    from nullspace_cli.engine.transforms.readers import Reader
    from nullspace_cli.engine.workflows.check import (
        AnyModels,
        Checker,
        PairFiles,
        checked_model,
        default_readers,
        summarise,
    )
    from nullspace_cli.engine.workflows.failed_input import refused
    from nullspace_cli.engine.workflows.in_threads import default_workers

    device = resolve_device(options.device)
    wanted = [parse_reader(text, offline=options.offline) for text in reader or ()]
    pairs = paired(source, result, console.note)
    tell_lonely(pairs, console.note)
    files = [path for pair in pairs.files for path in pair]
    read = [*files, *(path for name in names for path in options.files(name))]
    claim([page_path] if page_path else [], read, force=output.force)
    gallery = report.gallery(console, page_path)
    mine = [PairFiles(*files) for files in taken.share(pairs.files)]
    alone = len(pairs.files) == 1
    run = ImageRun(console, "check", [pair.source for pair in mine], alone=alone, jsonl=jsonl)
    unreadable = refused([pair.result for pair in mine], alone=alone)
    run.failures |= {pair.source: unreadable[pair.result] for pair in mine if pair.result in unreadable}
    models = [load_model(options.request(name)) for name in names]
    own = [Reader(one.name, one.transform) for one in models]
    readers = {one.name: one for one in (*(wanted or default_readers()), *own)}
    asked = [one.name for one in (*wanted, *(own if keep == "input" else ()))]
    checker = Checker(
        list(readers.values()), frozenset(asked), models, tolerance, qualities, reading, console.warn, gallery
    )
    run.tell_refused()
    started = time.monotonic()
    jobs = [pair for pair in mine if pair.source not in run.failures]
    with console.progress("comparing", "pairs", len(jobs)) as advance:
        for record in run.done(checker.each(jobs, workers or default_workers(device)), advance):
            run.add(record, _judge(console, record))
    if page_path or not jsonl:
        body = {
            "shard": str(taken),
            "exit_code": run.exit_code,
            "reading": reading,
            "keep": keep,
            "tolerance": tolerance,
            "jpeg": qualities,
            "models": [checked_model(one) for one in models],
            "images": run.records,
            "summary": summarise(run.records, len(run.failures), time.monotonic() - started),
            "unmatched": {
                "source": [str(path) for path in pairs.lonely_sources],
                "result": [str(path) for path in pairs.lonely_results],
            },
            "failures": run.described_failures(),
        }
        document = console.document("check", AnyModels(models), options.seed, body)
        if not jsonl:
            console.result(document, render)
        if page_path and gallery is not None:
            from nullspace_cli.engine.report.check import page

            write_page(console, page_path, page(document, gallery))
    return run.exit_code


def _qualities(text: str) -> list[int]:
    if text == "none":
        return []
    words = [word.strip() for word in text.split(",")]
    numbers = [read_number(word, least=1, most=100, kind=int, words="none or ", option="--jpeg") for word in words]
    return list(dict.fromkeys(map(int, numbers)))


def _judge(console: Console, record: Mapping[str, Any]) -> int:
    """The exit code of a pair; if something did not stay, it is said what."""
    for reason in broken_promises(record):
        console.error(f"{record['result']}: {reason}")
    return 3 if record["verified"] is False else 0
