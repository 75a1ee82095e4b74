"""The page of a run: what `--report` asks for."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.file_kinds import PAGE, to_write
from nullspace_cli.commands.options import whole
from nullspace_cli.commands.shards import Shard

if TYPE_CHECKING:
    from nullspace_cli.engine.report.gallery import Gallery
    from nullspace_cli.engine.report.parts import Page
    from nullspace_cli.engine.runtime.distributed import Ranks

MOST = 2000
"""Megabytes of a page: beyond it no browser opens one."""


@dataclass(frozen=True)
class ReportOptions:
    """Whether there is a page to look at, and how large it may be."""

    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            parser=to_write(PAGE),
            help="Write a page to look at: pictures to compare, worst first, and all figures; needs no network. "
            "- is stdout.",
        ),
    ] = None
    report_size: Annotated[
        int,
        whole("--report-size", most=MOST, metavar="MB", help="Room for pictures in it."),
    ] = 64

    def path(self, shard: Shard | None = None) -> Path | None:
        """The page of this shard.

        Raises:
            typer.BadParameter: all shards would write the one file.
        """
        return (shard or Shard()).own(self.report, "--report")

    def gallery(self, console: Console, path: Path | None, ranks: "Ranks | None" = None) -> "Gallery | None":
        """Where pictures are kept until the page is written; each process of several has its part of the room.

        Raises:
            ArtifactError: no pictures can be kept beside the page.
        """
        if path is None:
            return None
        from nullspace_cli.engine.files.addresses import is_address
        from nullspace_cli.engine.report.gallery import Gallery
        from nullspace_cli.engine.report.parts import MEGABYTE

        folder = Path(tempfile.gettempdir()) if is_address(path) else path.parent
        return Gallery(folder, self.report_size * MEGABYTE // (ranks.world if ranks else 1), console.called)


def write_page(console: Console, path: Path, page: "Page") -> None:
    """Write a page, and say where it is.

    Raises:
        ArtifactError: it cannot be written.
    """
    from nullspace_cli.engine.report import page as pages

    pages.write_page(path, page, force=console.options.force)
    console.note(f"report: {path}")
