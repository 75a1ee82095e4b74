"""Pages as files: HTML that holds its pictures, style and script, and may fetch nothing."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nullspace_cli import __version__
from nullspace_cli.engine.files.writing import write_file
from nullspace_cli.engine.report.gallery import Entry
from nullspace_cli.engine.report.parts import Images, Page, Row, counted, without_empty
from nullspace_cli.engine.report.pictures import Encoded
from nullspace_cli.engine.text import shortened, visible

ROWS = 5000
"""Images that a list has, at most: more than anybody looks through, and as many as browsers show at once."""

PRINTED = 12
"""Images of a list whose pictures are printed (as page.css has it): the worst."""

LONGEST = 90
"""Letters of a file's name that are shown; the whole of it shows where the pointer rests."""


def write_page(path: Path, page: Page, *, force: bool = False) -> Path:
    """Write a page. Pictures are read from their galleries one image at a time, however many there are.

    Raises:
        ArtifactError: the file exists (and `force` is not given), or could not be written.
    """
    environment = Environment(
        loader=PackageLoader("nullspace_cli.engine.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"source": _source, "short": lambda text: shortened(visible(str(text)), LONGEST)}
    environment.globals |= {
        "shown_images": _Shown,
        "printed": PRINTED,
        "without_empty": without_empty,
        "counted": counted,
    }
    style, script = (_part(environment, name) for name in ("page.css", "page.js"))
    template = environment.get_template("page.html")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    stream = template.stream(page=page, style=style, script=script, digest=digest, version=__version__)
    return write_file(path, lambda temporary: stream.dump(str(temporary), encoding="utf-8"), force=force)


def _part(environment: Environment, name: str) -> Markup:
    """A file of the package that goes into the page as it is."""
    assert environment.loader is not None
    text, _, _ = environment.loader.get_source(environment, name)
    return Markup(text)  # noqa: S704 - our own


def _shown(value: Any) -> Any:
    """Text that came from elsewhere, as a page can hold it: halves of characters and invisible commands as escapes."""
    if value is None or isinstance(value, Markup):
        return "" if value is None else value
    return visible(str(value).encode("utf-8", "backslashreplace").decode(), lines=True)


def _source(picture: Encoded) -> Markup:
    """A picture as the address of itself."""
    return Markup(f"data:image/{picture.kind};base64,{base64.b64encode(picture.data).decode()}")  # noqa: S704 - no text


class _Item(NamedTuple):
    """An image of a list: its number there, its record, its pictures."""

    number: int
    row: Row
    entry: Entry


class _Shown:
    """The images of a list that a page has, the worst first, and what it says of the others."""

    def __init__(self, images: Images) -> None:
        self.header, cells = without_empty(images.header, [row.cells for row in images.rows])
        rows = [row._replace(cells=own) for row, own in zip(images.rows, cells, strict=True)]
        self._images, self._rows = images, {row.key: row for row in rows}
        self.total = len(images.rows)
        self.listed = min(self.total, ROWS)
        self.viewed = len(images.gallery.with_views() & self._rows.keys())

    def __iter__(self) -> Iterator[_Item]:
        """As often as it is asked for."""
        done = set[str]()
        number = 0
        for entry in self._images.gallery:
            if entry.key in self._rows and number < ROWS:
                number += 1
                done.add(entry.key)
                yield _Item(number, self._rows[entry.key], entry)
        for row in self._rows.values():  # of which there are no pictures
            if row.key not in done and number < ROWS:
                number += 1
                yield _Item(number, row, Entry(row.key, (), None, ()))

    @property
    def left_out(self) -> str:
        """What is not on the page, as a sentence; empty if nothing is."""
        said = []
        if self.viewed < self.listed:
            said.append(f"the pictures of {counted(self.listed - self.viewed, self._images.noun)}")
        if self.listed < self.total:
            said.append(f"{counted(self.total - self.listed, self._images.noun)} altogether")
        return f"Left out, so that the page stays small: {' and '.join(said)}. {self._images.left_out}" if said else ""
