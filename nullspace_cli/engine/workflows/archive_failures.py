"""Which images of an archive could not be done, kept beside what was written: later runs that leave it out say so."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from nullspace_cli.engine.documents.base import MAX_JSON, parse_json
from nullspace_cli.engine.documents.commands.run import Failure
from nullspace_cli.engine.errors import DataError
from nullspace_cli.engine.files.paths import exists
from nullspace_cli.engine.files.reading import read_bounded
from nullspace_cli.engine.files.stand_ins import at_hand
from nullspace_cli.engine.files.writing import FilesTogether


def list_of(archive: Path) -> Path:
    """The file of such failures: a line of JSON for each, as of --jsonl."""
    return archive.with_name(f"{archive.name}.failures.jsonl")


def failures_of(archives: Iterable[Path]) -> dict[Path, str]:
    """The images that could not be done when archives were written, and why; none of one that has no list.

    Raises:
        DataError: a list cannot be read, or is none.
    """
    expected, found = "a list of images that could not be done", list[Failure]()
    for path in filter(exists, map(list_of, archives)):
        with at_hand(path, {}) as file:
            lines = read_bounded(file, MAX_JSON, expected, DataError).splitlines()
        values = (parse_json(line, f"{path}", expected, DataError) for line in lines)
        found += (Failure.read(value, f"{path}", DataError) for value in values)
    return {Path(one.source): one.error for one in found}


def keep_failures(archive: Path, failures: Mapping[str, str], files: FilesTogether) -> None:
    """Write the list of an archive, in place of one that is there; where there is nothing to say, none is begun.

    Raises:
        ArtifactError: it cannot be written.
    """
    path = list_of(archive)
    if failures or exists(path):
        lines = [Failure.checked({"source": source, "error": error}) for source, error in failures.items()]
        files.write(path, lambda file: file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8"))
