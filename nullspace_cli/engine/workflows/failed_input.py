"""One of many images that could not be done, or need not be."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.files.pictures import check_picture


class Failed(NamedTuple):
    """Its file, and why."""

    source: Path
    error: VitnullError


class DoneElsewhere(NamedTuple):
    """A file whose result another process has written meanwhile."""

    source: Path


def refused(
    sources: Sequence[Path], *, alone: bool, check: Callable[[Path], object] = check_picture
) -> dict[Path, str]:
    """The sources whose header alone shows that they cannot be read, with the reason. Cheap: before anything slow.

    Args:
        check: looks at a header, and raises what is wrong with it.

    Raises:
        VitnullError: a source is refused and is `alone`, so that nothing would be left to do.
    """
    failures: dict[Path, str] = {}
    for source in sources:
        try:
            check(source)
        except VitnullError as error:
            if alone:
                raise
            failures[source] = str(error)
    return failures
