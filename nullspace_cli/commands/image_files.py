"""Which image files a command reads, and which it writes for each."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from nullspace_cli.commands.outputs import refuse_clashes, refuse_stream

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
ENDING = ".watermarked.png"


@dataclass(frozen=True)
class Planned:
    """Pairs of source and output, and the sources that are left out because their output is there."""

    files: list[tuple[Path, Path]]
    skipped: list[Path]


def named_images(given: Sequence[Path], listed: Path | None) -> list[tuple[Path, Path]]:
    """Each image with its place below the output folder: folders are searched, and keep their inner order.

    Args:
        listed: a file with one name a line, "-" for stdin, or None.
    """
    names = [*given, *(_read_list(listed) if listed else [])]
    if not names:
        raise typer.BadParameter("no image was named; give files, folders, or --files-from")
    found: dict[Path, Path] = {}
    seen: set[str] = set()

    def add(path: Path, place: Path) -> None:
        absolute = os.path.abspath(path)  # noqa: PTH100  # links are images of their own, "a/../b" is b
        if absolute not in seen:
            seen.add(absolute)
            found[path] = place

    for name in names:
        if not name.is_dir():
            add(name, Path(name.name))
            continue
        inside = images_in(name, (ENDING,))
        if not inside:
            raise typer.BadParameter(f"the folder {name} holds no images ({', '.join(SUFFIXES)})")
        for path in inside:
            add(path, path.relative_to(name))
    return list(found.items())


def images_in(folder: Path, results: tuple[str, ...]) -> list[Path]:
    """The images of a folder and of its folders, hidden ones and those with the ending of a result left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.endswith(results) and not path.name.startswith(".")
    )


def _read_list(listed: Path) -> list[Path]:
    stdin = str(listed) == "-"
    if stdin and os.environ.get("WORLD_SIZE", "1") != "1":
        raise typer.BadParameter("only one of torchrun's processes has a stdin; give a file", param_hint="--files-from")
    try:
        text = sys.stdin.read() if stdin else listed.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise typer.BadParameter(f"cannot read the list {listed}: {reason}", param_hint="--files-from") from error
    return [Path(line) for line in text.splitlines() if line.strip()]


def plan_outputs(
    images: Sequence[tuple[Path, Path]],
    out: Path | None,
    out_dir: Path | None,
    *,
    single: dict[str, Path | None],
    read: Sequence[Path | None],
    force: bool,
    skip_existing: bool,
) -> Planned:
    """The file of each result, with everything refused that would lose something or fail later.

    Args:
        single: options that name one more file to write, and what was given for them; they need a single image.
        read: further files that are read.
    """
    given = [name for name, value in {"--out": out, **single}.items() if value is not None]
    if len(images) > 1 and given:
        raise typer.BadParameter("takes one image; use --out-dir for several", param_hint=given[0])
    if out and out_dir:
        raise typer.BadParameter("use --out or --out-dir, not both", param_hint="--out")
    base = out_dir or Path()
    pairs = [(source, out or base / place.with_name(f"{place.stem}{ENDING}")) for source, place in images]
    extra = [path for path in single.values() if path]
    for name, target in [("--out", target) for _, target in pairs] + [("--diff", single.get("--diff"))]:
        if target and target.suffix.lower() != ".png":
            raise typer.BadParameter(f"{target}: a lossy format would destroy the guarantee; use .png", param_hint=name)
    if out:
        refuse_stream(out, "a watermark is read back and measured; name a file")
    refuse_clashes([*(target for _, target in pairs), *extra], [*(source for source, _ in pairs), *read])

    from nullspace_cli.engine.artifacts import check_output, make_folder
    from nullspace_cli.engine.paths import exists

    skipped = [source for source, target in pairs if skip_existing and exists(target)]
    todo = [(source, target) for source, target in pairs if source not in set(skipped)]
    if out_dir:
        for folder in sorted({target.parent for _, target in todo}):
            make_folder(folder)
    for file in [*(target for _, target in todo), *(extra if todo else [])]:
        check_output(file, force=force)
    return Planned(todo, skipped)
