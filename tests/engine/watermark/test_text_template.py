"""Texts that say something of each picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from nullspace_cli.engine.errors import ImageError, UsageError
from nullspace_cli.engine.files.pictures import picture_of, read_picture
from nullspace_cli.engine.watermark.text_template import FIELDS, TextTemplate


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """60 x 40 as it is shown, stored sideways."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.DateTime] = "2025:01:02 03:04:05"
    exif[ExifTags.Base.Artist] = "Anna"
    exif[ExifTags.Base.Copyright] = "(c) Anna"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2019:12:31 23:59:59"
    Image.new("RGB", (40, 60)).save(tmp_path / "my.photo.jpg", exif=exif)
    return tmp_path / "my.photo.jpg"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{stem} (c) {year}", "my.photo (c) 2019"),
        ("{name}: {width} x {height}", "my.photo.jpg: 60 x 40"),
        ("{author}, {copyright}", "Anna, (c) Anna"),
        ("{{{year}}} {{", "{2019} {"),
    ],
)
@pytest.mark.parametrize("reading", ["timm", "shown"])
def test_fields(template: str, expected: str, reading: str, photo: Path) -> None:
    assert TextTemplate(template)(read_picture(photo, reading)) == expected  # type: ignore[arg-type]


def test_the_year_of_a_file_that_says_only_when_it_was_changed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2025:01:02 03:04:05"
    Image.new("RGB", (4, 6)).save(tmp_path / "a.png", exif=exif)
    assert TextTemplate("{year}")(read_picture(tmp_path / "a.png")) == "2025"


@pytest.mark.parametrize("field", ["year", "author", "copyright"])
def test_what_a_picture_does_not_say_is_an_error(field: str) -> None:
    picture = picture_of(np.zeros((4, 6, 3), np.uint8), "a.png")
    with pytest.raises(ImageError, match=rf"a\.png says nothing of its {field}"):
        TextTemplate(f"(c) {{{field}}}")(picture)


@pytest.mark.parametrize("text", ["{", "}", "{date}", "{}", "{0}", "{year:4}", "{year!r}", "{stem.upper}", "{stem[0]}"])
def test_other_fields_are_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"There are \{stem\}, \{name\}") as caught:
        TextTemplate(text)
    assert all(f"{{{name}}}" in str(caught.value) for name in FIELDS)
