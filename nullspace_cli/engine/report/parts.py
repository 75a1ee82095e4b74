"""What a page is made of: words, tables, curves, and images with their figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nullspace_cli.engine.models.classes import name_of
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.pictures import Encoded

MEGABYTE = 1_000_000

UNKNOWN = "–"
"""Stands for what nobody measured."""


class Mark(NamedTuple):
    """Text that is good or bad news."""

    text: str
    tone: Literal["good", "bad"]


Cell = str | Mark
Facts = Sequence[tuple[str, Cell | None]]
"""Names and values; those that are None are left out."""


class Table(NamedTuple):
    """Words and figures in columns; the first is aligned left, the others right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


class Plot(NamedTuple):
    """A figure: an SVG as of `plots.figure.svg_of`, or a picture."""

    title: str
    drawn: str | Encoded
    note: str = ""


class Row(NamedTuple):
    """One image of a list.

    Attributes:
        key: by which its pictures are found in the gallery.
        cells: beneath the list's header.
        facts: what else is said where its pictures are seen.
    """

    key: str
    cells: Sequence[Cell]
    facts: Facts = ()


class Images(NamedTuple):
    """A list of images.

    Attributes:
        header: what its columns are called, after the first, which has the image itself.
        rows: in any order; it is the gallery's in which they are shown.
        order: which images come first, in words.
        left_out: how to have what has no room on the page, as a sentence.
        noun: what they are, if not images.
    """

    header: Sequence[str]
    rows: Sequence[Row]
    gallery: Gallery
    order: str
    left_out: str = ""
    noun: str = "image"


def without_empty(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[list[str], list[list[Cell]]]:
    """A table without the columns in which nothing was measured."""
    empty = [rows and all(row[i] == UNKNOWN for row in rows) for i in range(len(header))]
    return (
        [name for name, out in zip(header, empty, strict=True) if not out],
        [[value for value, out in zip(row, empty, strict=True) if not out] for row in rows],
    )


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; the heading of the only part may be empty."""

    title: str = ""
    text: str = ""
    facts: Facts = ()
    images: Images | None = None
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        command: whose results it shows, as "vitnull watermark".
        title: the result in one sentence.
        figures: the few that matter most, each a value and what it is.
        failures: images that could not be done, and why.
        about: how the results came about.
    """

    command: str
    title: str
    text: str = ""
    figures: Sequence[tuple[Cell, str]] = ()
    sections: Sequence[Section] = ()
    failures: Sequence[Mapping[str, str]] = ()
    about: Facts = field(default_factory=tuple)


# What many pages say in one way


def about(document: Mapping[str, Any], *more: tuple[str, Cell | None]) -> Facts:
    """How a document's results came about; nothing that differs from run to run, as seconds do."""
    weights, versions = document["weights"], document["versions"]
    digest = document["weights_sha256"]
    shard = document.get("shard", "1/1")
    return [
        ("Model", document["model"]),
        ("Weights", "none were read" if weights is None else f"{weights}, sha256 {digest[:12]}" if digest else weights),
        *more,
        ("Device", document["device"]),
        ("Seed", str(document["seed"])),
        ("Shard", None if shard == "1/1" else shard),
        ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
    ]


def number(value: float | None, form: str = ".3g") -> str:
    """A figure, or `UNKNOWN`."""
    return UNKNOWN if value is None else format(value, form)


def answer(found: Mapping[str, Any] | None) -> str:
    """A class and its probability."""
    return UNKNOWN if found is None else f"{name_of(found)} {found['probability']:.1%}"


def kept(match: bool | None) -> Cell:
    """Whether a prediction stayed."""
    return UNKNOWN if match is None else Mark("kept", "good") if match else Mark("changed", "bad")


def input_changed(share: float | None) -> Cell:
    """How much of a model's input has changed."""
    return UNKNOWN if share is None else Mark("bit-identical", "good") if share == 0 else f"{share:.3%} changed"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def keeping(count: int, total: int) -> str:
    """How many of a run's images keep what they had, as the beginning of a sentence."""
    if total == 1:
        return "The image keeps"
    return f"All {total:,} images keep" if count == total else f"{count:,} of {total:,} images keep"


def figures(
    counts: Sequence[tuple[int | None, str]], tone: Literal["good", "bad"] | None = None
) -> list[tuple[Cell, str]]:
    """Counts for the top of a page; None is left out."""
    known = [(f"{count:,}", words) for count, words in counts if count is not None]
    return [(Mark(text, tone) if tone else text, words) for text, words in known]
