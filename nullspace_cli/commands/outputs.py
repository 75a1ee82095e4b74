"""What a command writes: whatever would lose something is refused before anything slow."""

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import typer


def claim(written: Sequence[Path], read: Iterable[Path | None], *, force: bool) -> None:
    """See that all files can be written, as far as that can be seen beforehand, and refuse what loses something.

    Args:
        written: every file that the command writes.
        read: every file that it reads; None is none.

    Raises:
        typer.BadParameter: see `refuse_clashes`.
        ArtifactError: a file exists and `force` is not given, or could not be written.
    """
    from nullspace_cli.engine.files.writing import check_output

    refuse_clashes(written, read)
    for path in written:
        check_output(path, force=force)


STAND_INS: set[Path | None] = set()
"""Files that are written in the place of stdout, and can be read once more."""


def refuse_stream(path: Path, reason: str, *, companions: bool = True) -> None:
    """Refuse a device or a pipe where the result is needed once more, or has companions beside it.

    Raises:
        typer.BadParameter: it is one.
    """
    from nullspace_cli.engine.files.paths import is_stream

    if is_stream(path) or (companions and path in STAND_INS):
        raise typer.BadParameter(f"{'-' if path in STAND_INS else path} is not a file: {reason}", param_hint="--out")


def refuse_clashes(written: Sequence[Path], read: Iterable[Path | None]) -> None:
    """Refuse to write two results to one file, or a result over an input, `--force` or not."""
    from nullspace_cli.engine.files.addresses import is_address
    from nullspace_cli.engine.files.paths import exists, identity, ignores_case, is_stream, real

    files = [path for path in written if not is_stream(path)]
    names: set[str] = set()
    folded: set[str] = set()
    for path in files:
        name = real(path)
        if name in names or (name.casefold() in folded and ignores_case(path.parent)):
            raise typer.BadParameter(f"several results would be written to {path}; rename or run them apart")
        names.add(name)
        folded.add(name.casefold())
    # There are no links at an address, and each look there takes its time.
    there: dict[Hashable, Path] = {identity(path): path for path in files if is_address(path) or exists(path)}
    if not there:
        return  # a data set of a million files need not be gone through
    over = {str(there[identity(path)]) for path in read if path and identity(path) in there}
    if over:
        raise typer.BadParameter(
            f"the result would replace its own input {', '.join(sorted(over))}; give it another name"
        )
