"""Which two files go together: two that are named, or those of two folders by their names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from nullspace_cli.commands.image_files import WATERMARKED_ENDINGS, ending_in, images_in, tell_left_out

_MARKED = Path(WATERMARKED_ENDINGS[0]).stem


@dataclass(frozen=True)
class Pairs:
    """Pairs of source and result, and the images of folders that have no counterpart."""

    files: list[tuple[Path, Path]]
    lonely_sources: list[Path] = field(default_factory=list)
    lonely_results: list[Path] = field(default_factory=list)


def paired(source: Path, result: Path, notice: Callable[[str], None]) -> Pairs:
    """Two files as they are named; of two folders the images that are called alike, at one place below each.

    The result of a.jpg is a.watermarked.png (or another format), else a.jpg, else an a of another format.

    Args:
        notice: is told what else is in the folders.

    Raises:
        DataError: a folder cannot be listed.
    """
    from nullspace_cli.engine.files.paths import absolute, is_folder

    folders = [is_folder(path) for path in (source, result)]
    if not any(folders):
        return Pairs([(source, result)])
    if not all(folders):
        file, folder = (result, source) if folders[0] else (source, result)
        raise typer.BadParameter(f"{folder} is a folder and {file} is not; give two files, or two folders")
    sources, left_out = images_in(source, ending_in(*WATERMARKED_ENDINGS), notice)
    results, _ = images_in(result, lambda name: [], notice)
    if absolute(source) != absolute(result):  # which may lie in one another
        sources = [path for path in sources if absolute(result) not in absolute(path).parents]
    known = {absolute(path) for path in sources}
    results = [path for path in results if absolute(path) not in known]
    tell_left_out([path for path in left_out if absolute(path) not in {absolute(path) for path in results}], notice)
    return _by_name(source, sources, result, results)


def _by_name(source: Path, sources: Sequence[Path], result: Path, results: Sequence[Path]) -> Pairs:
    from nullspace_cli.engine.files.image_search import stems_of

    places = [path.relative_to(source) for path in sources]
    found = {path.relative_to(result): path for path in results}
    by_stem: dict[Path, Path] = {}
    for place in found:
        by_stem.setdefault(place.with_suffix(""), place)
    pairs, lonely, taken = [], [], set()
    for path, place, stem in zip(sources, places, stems_of(places), strict=True):
        others = [by_stem.get(stem)] if stem == place.with_suffix("") else []  # else it is another's stem as well
        candidates = [by_stem.get(stem.with_name(f"{stem.name}{_MARKED}")), place, *others]
        match = next((name for name in candidates if name in found and name not in taken), None)
        if match is None:
            lonely.append(path)
        else:
            taken.add(match)
            pairs.append((path, found[match]))
    if not pairs:
        raise typer.BadParameter(
            f"no image in {result} is called as one in {source}: of a.jpg a.watermarked.png, a.jpg or an a of another "
            f"format is looked for"
        )
    return Pairs(pairs, lonely, [path for place, path in found.items() if place not in taken])


def tell_lonely(pairs: Pairs, notice: Callable[[str], None]) -> None:
    """Name the images that have no counterpart."""
    for side, other, lonely in (("SOURCE", "RESULT", pairs.lonely_sources), ("RESULT", "SOURCE", pairs.lonely_results)):
        if lonely:
            notice(f"{len(lonely)} of {side} without a counterpart in {other}: {', '.join(map(str, lonely))}")
