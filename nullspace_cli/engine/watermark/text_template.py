"""Text that says something of each picture: `{stem} (c) {year}`."""

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nullspace_cli.engine.errors import ImageError, UsageError
from nullspace_cli.engine.files import exif
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.files.tiff import EXIF, Field

TAKEN, CHANGED, ARTIST, COPYRIGHT = 36867, 306, 315, 33432
"""EXIF: when the picture was taken, when the file was changed, who made it, and whose it is."""


def _said(picture: Picture, tag: int) -> str | None:
    """A text of the picture's EXIF, if it has one."""
    block = picture.metadata_found.exif
    try:
        _, directory = exif.parsed(block) if block else ("<", {})
    except ValueError:
        return None
    inner = directory.get(EXIF)
    field = directory.get(tag) or (inner.get(tag) if isinstance(inner, dict) else None)
    if not isinstance(field, Field):
        return None
    return field.data.split(b"\0")[0].decode("utf-8", "replace").strip() or None


def _year(picture: Picture) -> str | None:
    """When it was taken. That today is another year does not change what is made of a file."""
    found = re.match(r"[1-9]\d{3}(?=:)", _said(picture, TAKEN) or _said(picture, CHANGED) or "")
    return found[0] if found else None


FIELDS: Mapping[str, Callable[[Picture], str | None]] = {
    "stem": lambda picture: picture.path.stem,
    "name": lambda picture: picture.path.name,
    "width": lambda picture: str(picture.read_as("shown").width),
    "height": lambda picture: str(picture.read_as("shown").height),
    "year": _year,
    "author": lambda picture: _said(picture, ARTIST),
    "copyright": lambda picture: _said(picture, COPYRIGHT),
}
"""What each field stands for: the file's name, the upright picture's sides, and what EXIF says."""


@dataclass(frozen=True)
class TextTemplate:
    """A text with fields in braces; doubled braces are single ones.

    Raises:
        UsageError: a brace has no fellow, or a field is unknown.
    """

    text: str

    def __post_init__(self) -> None:
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise self._wrong(f"{error}") from error
        for _, name, form, conversion in parts:
            if name is not None and (name not in FIELDS or form or conversion):
                raise self._wrong(
                    f"there is no field {{{name}{'!' if conversion else ''}{conversion or ''}"
                    f"{':' if form else ''}{form}}}"
                )

    @property
    def fields(self) -> set[str]:
        """Their names."""
        return {name for _, name, _, _ in string.Formatter().parse(self.text) if name}

    @property
    def without_fields(self) -> str:
        """What all pictures have in common."""
        return "".join(before for before, _, _, _ in string.Formatter().parse(self.text))

    def __call__(self, picture: Picture) -> str:
        """The text of a picture.

        Raises:
            ImageError: the picture does not say what a field stands for.
        """
        return "".join(
            before + (self._value(name, picture) if name else "")
            for before, name, _, _ in string.Formatter().parse(self.text)
        )

    def _value(self, name: str, picture: Picture) -> str:
        value = FIELDS[name](picture)
        if value is None:
            raise ImageError(
                f"{picture.path} says nothing of its {name} in EXIF, which the text {self.text!r} asks for. Write it "
                f"into the text instead of {{{name}}}."
            )
        return value

    def _wrong(self, why: str) -> UsageError:
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        return UsageError(f"The text {self.text!r}: {why}. There are {known}; for a brace itself write {{{{ or }}}}.")
