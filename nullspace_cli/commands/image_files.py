"""Which image files a command reads, and which it writes for each."""

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nullspace_cli.commands.file_kinds import ARCHIVES, WATERMARK
from nullspace_cli.commands.outputs import refuse_clashes, refuse_stream
from nullspace_cli.commands.shards import Shard

if TYPE_CHECKING:
    from nullspace_cli.engine.runtime.distributed import Ranks
    from nullspace_cli.engine.workflows.explain import ExplainFiles
    from nullspace_cli.engine.workflows.image_stores import ArchiveFiles

LONGEST_NAME = 4096
"""Bytes of a path, as systems have it."""
FORMATS = ("png", "webp", "tif", "jpg")
WATERMARKED_ENDINGS = tuple(f".watermarked.{name}" for name in (*FORMATS, "tar", "parquet"))
_FORMAT_OF = {**{f".{name}": name for name in FORMATS}, ".tiff": "tif", ".jpeg": "jpg", ".jpe": "jpg", ".jfif": "jpg"}
"""Of a source, by its name: what its result is called when it is to have the same."""
FOOLED_ENDINGS = (".fooled.png", ".noise.png", ".sheet.png")

SourcesOf = Callable[[str], Sequence[str]]
"""Given a file's name: the stems of the images that the command would write it for; none if it never would."""


@dataclass(frozen=True)
class Planned:
    """Pairs of source and output, and the sources that are left out because their output is there.

    `broken` are sources whose output is there and no sound image, or has a name that no file can have, with the reason:
    they are not done, nor is anything overwritten. So are images that could not be done of archives that are left out.
    """

    files: list[tuple[Path, Path]]
    skipped: list[Path]
    broken: dict[Path, str] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether there is one image, whose failure is the command's."""
        return len(self.files) == 1 and not self.broken


def ending_in(*endings: str) -> SourcesOf:
    """For a command whose results are called <stem><ending>."""
    return lambda name: [name.removesuffix(ending) for ending in endings if name.endswith(ending)]


def named_images(
    given: Sequence[Path],
    listed: Path | None,
    sources_of: SourcesOf,
    notice: Callable[[str], None],
    ranks: "Ranks",
    *,
    nul: bool = False,
    out_dir: Path | None = None,
) -> list[tuple[Path, Path]]:
    """Each image with its place below the output folder: folders are searched, and keep their inner order.

    Archives of images are named among them, as one each.

    Args:
        listed: a file with one name a line, "-" for stdin, or None.
        nul: whether its names end with a NUL instead, as `find -print0` writes them.
        sources_of: by it results of earlier runs are known, which are left out of folders, not where they are named.
        notice: is told of these, in the first process.
        out_dir: where results go; those that are there already are known by their names alone.
        ranks: the processes that share the images; the first of them reads the list, for they have one stdin.
    """
    if nul and not listed:
        raise typer.BadParameter("is about the list of --files-from; give that too", param_hint="-0")
    names = [*given, *(ranks.lead(lambda: _read_list(listed, nul=nul)) if listed else [])]
    if not names:
        raise typer.BadParameter("no image was named; give files, folders, or --files-from")

    from nullspace_cli.engine.data.archives import archives_at
    from nullspace_cli.engine.files.paths import absolute, is_folder

    tell = notice if ranks.first else lambda text: None
    found: dict[Path, Path] = {}
    seen: set[Path] = set()
    left_out: dict[Path, None] = {}

    def add(path: Path, place: Path) -> None:
        if absolute(path) not in seen:  # links are images of their own
            seen.add(absolute(path))
            found[path] = place

    for name in names:
        searched = is_folder(name)
        archives = archives_at(name) if searched or name.suffix in ARCHIVES else []
        if not searched:
            for path in archives or [name]:
                add(path, Path(path.name))
            continue
        inside, results = without_own(archives, sources_of) if archives else images_in(name, sources_of, tell)
        if output := _inside(out_dir, name):  # where other shards write meanwhile
            written = {path for path in inside if sources_of(path.name) and output in path.parents}
            inside = [path for path in inside if path not in written]
            results = [*results, *sorted(written)]
        left_out |= dict.fromkeys(results)
        for path in inside:
            add(path, Path(path.name) if path == name else path.relative_to(name))
    tell_left_out([path for path in left_out if absolute(path) not in seen], tell)
    return list(found.items())


def _inside(out_dir: Path | None, folder: Path) -> Path | None:
    """The output folder by its name below a folder of images, if it lies there."""
    from nullspace_cli.engine.files.paths import real

    output, above = Path(real(out_dir or Path())), Path(real(folder))
    return folder / output.relative_to(above) if above in output.parents else None


def without_own(archives: Sequence[Path], sources_of: SourcesOf) -> tuple[list[Path], list[Path]]:
    """The archives of a folder, and those among them that are results of others."""
    from nullspace_cli.engine.files.image_search import without_results

    named = {str(path): path for path in archives}
    sources, results = without_results(list(named), sources_of)
    return [named[name] for name in sources], [named[name] for name in results]


def images_in(
    folder: Path, sources_of: SourcesOf, notice: Callable[[str], None], *known: str
) -> tuple[list[Path], list[Path]]:
    """The images of a folder and of its folders, and those among them that are results of others, or of `known` stems.

    Args:
        notice: is told what else is in it, and how much.

    Raises:
        DataError: a folder cannot be listed.
    """
    from nullspace_cli.engine.files.image_search import PassedOver, images_below, without_results

    passed_over = PassedOver()
    images, results = without_results(list(images_below(folder, passed_over)), sources_of, known)
    if not images:
        found = f"; found were {passed_over}" if str(passed_over) else ""
        raise typer.BadParameter(f"the folder {folder} holds no images (.png, .jpg, .tif, ...){found}")
    if str(passed_over):
        notice(f"passed over in {folder}: {passed_over}")
    return [folder / name for name in images], [folder / name for name in results]


def tell_left_out(results: Sequence[Path], notice: Callable[[str], None]) -> None:
    """Say which images of a folder are not read, so that nobody looks for them."""
    if results:
        more = f" and {len(results) - 1} more" if len(results) > 1 else ""
        notice(f"left out as results of an earlier run: {results[0]}{more}. Name such a file itself to have it read.")


def images_but_target(folder: Path, target: Path, notice: Callable[[str], None]) -> list[Path]:
    """The images of a folder and its folders, but for the target, which would be its own best source."""
    from nullspace_cli.engine.files.paths import identity, is_folder, real

    if not is_folder(folder):
        raise typer.BadParameter(f"there is no folder {folder}", param_hint="--sources")

    def sources_of(name: str) -> list[str]:
        """Of <source>.<target>.fooled.png, where either may have dots; a folder's results are called by its name."""
        words = next((name.removesuffix(ending).split(".") for ending in FOOLED_ENDINGS if name.endswith(ending)), [])
        return [".".join(words[:count]) for count in range(1, len(words))]

    found, results = images_in(folder, sources_of, notice, Path(real(folder)).name)
    others = [path for path in found if identity(path) != identity(target)]
    if not others:
        raise typer.BadParameter(f"the folder {folder} holds no other images than TARGET", param_hint="--sources")
    tell_left_out(results, notice)
    return others


def _read_list(listed: Path, *, nul: bool) -> list[Path]:
    """The names of a list, which may have any bytes, as names of files do."""
    if str(listed) == "-" and sys.stdin is None:
        raise typer.BadParameter("cannot read the list: stdin is closed", param_hint="--files-from")
    try:
        data = sys.stdin.buffer.read() if str(listed) == "-" else listed.read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise typer.BadParameter(f"cannot read the list {listed}: {reason}", param_hint="--files-from") from error
    if not nul and b"\0" in data and b"\n" not in data:
        raise typer.BadParameter(
            f"the names in {listed} end with NULs, as of find -print0; add -0", param_hint="--files-from"
        )
    names = data.split(b"\0") if nul else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if long := next((number for number, name in enumerate(names, 1) if len(name) > LONGEST_NAME), None):
        raise typer.BadParameter(
            f"name {long} in {listed} is of {len(names[long - 1])} bytes; no file has such a name: give one a line",
            param_hint="--files-from",
        )
    return [Path(os.fsdecode(name)) for name in names if name.strip()]


def plan_outputs(
    images: Sequence[tuple[Path, Path]],
    out: Path | None,
    out_dir: Path | None,
    page: Path | None = None,
    format: str = "png",
    *,
    shard: Shard,
    single: dict[str, Path | None],
    read: Sequence[Path | None],
    force: bool,
    skip_existing: bool,
) -> Planned:
    """The file of each result, with everything refused that would lose something or fail later.

    Args:
        format: one of FORMATS, or "same" as the source's; PNG where that is none of them.
        shard: whose results are planned. All are looked at, so that all shards call and share them alike.
        page: a file about all images.
        single: options that name one more file to write, and what was given for them; they need a single image.
        read: further files that are read.
    """
    given = [name for name, value in {"--out": out, **single}.items() if value is not None]
    if len(images) > 1 and given:
        raise typer.BadParameter("takes one image; use --out-dir for several", param_hint=given[0])
    if out and out_dir:
        raise typer.BadParameter("use --out or --out-dir, not both", param_hint="--out")

    from nullspace_cli.engine.data.archives import ending_of, why_no_archive
    from nullspace_cli.engine.files.image_search import stems_of
    from nullspace_cli.engine.files.paths import exists, why_unreadable
    from nullspace_cli.engine.files.pictures import why_no_result
    from nullspace_cli.engine.files.writing import check_output
    from nullspace_cli.engine.workflows.archive_failures import failures_of

    base = out_dir or Path()
    stems = stems_of([place for _, place in images])
    archives = [ending_of(source) for source, _ in images]
    endings = [ending or f".{format_of(source, format)}" for (source, _), ending in zip(images, archives, strict=True)]
    pairs = [
        (source, out or base / stem.with_name(f"{stem.name}.watermarked{ending}"))
        for (source, _), stem, ending in zip(images, stems, endings, strict=True)
    ]
    if out and (out.suffix if out.suffix in ARCHIVES else None) != archives[0]:
        raise typer.BadParameter(f"of {images[0][0]} a {endings[0]} is made", param_hint="--out")
    if any(archives) and set(given) - {"--out"}:
        raise typer.BadParameter(f"takes one image, and {images[0][0]} may hold many", param_hint=given[-1])
    extra = [path for path in single.values() if path]
    if out:
        refuse_stream(out, "a watermark is read back and measured; name a file", companions=False)
    shared = [page] if page else []
    refuse_clashes([*(target for _, target in pairs), *extra, *shared], [*(source for source, _ in pairs), *read])
    pairs = shard.share(pairs)
    there = [(source, target) for source, target in pairs if skip_existing and (exists(target) or target.is_symlink())]
    faults = {
        source: why_no_archive(target) if target.suffix in ARCHIVES else why_no_result(target)
        for source, target in there
    }
    skipped = [source for source, fault in faults.items() if fault is None]
    broken = {} if force else {source: fault for source, fault in faults.items() if fault}
    todo = [(source, target) for source, target in pairs if source not in {*skipped, *broken}]
    unfit = _prepare(todo, out_dir, alone=len(images) == 1, force=force)
    todo = [(source, target) for source, target in todo if source not in unfit]
    for file in [*(extra if any(why_unreadable(source) is None for source, _ in todo) else ()), *shared]:
        check_output(file, force=force)
    finished = [target for source, target in there if target.suffix in ARCHIVES and source in skipped]
    return Planned(todo, skipped, broken | unfit | failures_of(finished))


def format_of(source: Path, format: str) -> str:
    """The format of a source's result: the one that is asked for; of "same" the source's, PNG where that is none."""
    return _FORMAT_OF.get(source.suffix.lower(), "png") if format == "same" else format


def ending_like(source: Path, format: str) -> str:
    """What the name of a result within an archive ends with: as its source's, where that says the same format."""
    same = _FORMAT_OF.get(source.suffix.lower()) == format_of(source, format)
    return source.suffix if same and source.suffix.lower() in WATERMARK.endings else f".{format_of(source, format)}"


def make_folders(files: Sequence[tuple[Path, Path]], out_dir: Path | None) -> list[tuple[Path, Path]]:
    """Make the folders below `out_dir` that results go into; the pairs whose sources can be read.

    For the others, each a failure of that image alone, nothing is written.
    """
    from nullspace_cli.engine.data.archives import ending_of
    from nullspace_cli.engine.files.paths import why_unreadable
    from nullspace_cli.engine.files.writing import make_folder

    readable = {source for source in dict(files) if why_unreadable(source) is None or ending_of(source)}
    pairs = [(source, target) for source, target in files if source in readable]
    if out_dir:
        for folder in sorted({target.parent for _, target in pairs}):
            make_folder(folder)
    return pairs


def _prepare(files: Sequence[tuple[Path, Path]], out_dir: Path | None, *, alone: bool, force: bool) -> dict[Path, str]:
    """As `make_folders`; and see that the results can be written.

    Returns:
        The sources whose results would have names that no file can have, each a failure of that image alone; it is that
        of the run if there is but one.
    """
    from nullspace_cli.engine.errors import UnfitNameError
    from nullspace_cli.engine.files.writing import check_output

    unfit: dict[Path, str] = {}
    for source, target in make_folders(files, out_dir):
        try:
            check_output(target, force=force)
        except UnfitNameError as error:
            if alone:
                raise
            unfit[source] = str(error)
    return unfit


def check_outputs(
    jobs: Sequence["ExplainFiles | ArchiveFiles"],
    mine: Sequence["ExplainFiles | ArchiveFiles"],
    read: list[Path | None],
    out_dir: Path | None,
    plot: Path | None,
    page: Path | None = None,
    *,
    force: bool,
) -> dict[Path, str]:
    """Refuse before anything slow what would lose something or fail later.

    Args:
        mine: the jobs of this shard; its files are the ones that it will write.

    Returns:
        As `Planned.broken`, of its images.
    """
    from nullspace_cli.engine.files.writing import check_output

    shared = [file for file in (plot, page) if file]
    written = [file for job in jobs for file in job.files()]
    refuse_clashes([*written, *shared], [*(job.source for job in jobs), *read])
    files = [(job.source, file) for job in mine for file in job.files()]
    unfit = _prepare(files, out_dir, alone=len(jobs) == 1, force=force)
    for file in shared:
        check_output(file, force=force)
    return unfit


def fingerprint_of(images: Sequence[tuple[Path, Path]]) -> str:
    """How many images there are, and a hash of their names and sizes in bytes, for processes to compare."""
    from nullspace_cli.engine.files.addresses import is_address
    from nullspace_cli.engine.files.paths import exists

    digest = hashlib.sha256()
    for source, place in images:
        size = source.stat().st_size if not is_address(source) and exists(source) else None
        digest.update(f"{source}\0{place}\0{size}\n".encode(errors="surrogateescape"))
    return f"{len(images)} images with the fingerprint {digest.hexdigest()[:12]}"
