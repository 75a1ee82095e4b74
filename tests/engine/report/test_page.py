"""A page as a file: whatever names of files hold, it is text; one script runs, and nothing is fetched."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nullspace_cli.engine.report import page as pages
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.parts import Images, Mark, Page, Plot, Row, Section, Table
from nullspace_cli.engine.report.pictures import PART, View, amplified, compared, encoded, thumbnail
from tests.reports import read_page, scripts

NASTY = "<script>alert(1)</script> \"'&amp;\u202e\x1b {{ 7 * 7 }}\udcff.png"
SHOWN = "<script>alert(1)</script> \"'&amp;\\u202e\\x1b {{ 7 * 7 }}\\udcff.png"


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def written(folder: Path, names: list[str], **more: Any) -> Path:
    """A page with the images of these names, the last of them the worst."""
    gallery = Gallery(folder, 10**6)
    for badness, name in enumerate(names):
        view, _ = compared("Picture", ("old", noise(6, 8)), ("new", noise(6, 8, 1)))
        gallery.add(name, (badness,), thumbnail(noise(6, 8)), [view])
    rows = [Row(name, (name, Mark(name, "bad")), [(name, name)]) for name in names]
    images = Images(("One", name), rows, gallery, name)
    table = Table(name, (name, "x"), [(name, name)], name)
    section = Section(name, name, [(name, name)], images, [Plot(name, encoded(name, noise(2, 2)), name)], [table])
    page = Page(name, name, name, [(name, name)], [section], [{"source": name, "error": name}], [(name, name)])
    return pages.write_page(folder / "page.html", page, **more)


def test_names_are_text(tmp_path: Path) -> None:
    page = read_page(written(tmp_path, [NASTY]))
    assert page.tags.count("script") == 1
    assert SHOWN in page.text
    assert "49" not in page.text
    assert page.elsewhere == []


def test_the_only_script_is_ours(tmp_path: Path) -> None:
    path = written(tmp_path, [NASTY])
    (script,) = scripts(path)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = dict(part.strip().split(" ", 1) for part in read_page(path).policy.split(";"))
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["img-src"] == "data:"


def test_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path, ["a", "b"]).read_bytes()
    assert written(tmp_path, ["a", "b"], force=True).read_bytes() == first


def test_the_worst_come_first(tmp_path: Path) -> None:
    page = read_page(written(tmp_path, ["a", "c", "b"]))
    assert page.names == ["b", "c", "a"]
    assert page.thumbnails == 3
    assert "Left out" not in page.text


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROWS", 2)
    gallery = Gallery(tmp_path, 1000)
    for badness, name in enumerate("abc"):
        view = View("Picture", "", (encoded("one", noise(10, 10)),))
        gallery.add(name, (badness,), None, [view])
    images = Images(("Figure",), [Row(name, ("1",)) for name in "abc"], gallery, "worst first", "Ask for more.")
    page = read_page(pages.write_page(tmp_path / "page.html", Page("x", "y", sections=[Section(images=images)])))
    assert page.names == ["c", "b"]
    said = "Left out, so that the page stays small: the pictures of 1 image and 1 image altogether. Ask for more."
    assert said in page.text


# Pictures


def test_a_large_picture_is_shown_where_it_changed() -> None:
    before = noise(PART + 300, PART + 500)
    after = before.copy()
    after[-1, -1] ^= 255
    view, part = compared("Picture", ("old", before), ("new", after))
    assert part == (slice(300, PART + 300), slice(500, PART + 500))
    assert view.pictures[0].size == (PART, PART)
    assert "from column 500, row 300" in view.caption


def test_a_picture_that_is_the_same_is_shown_from_the_middle() -> None:
    _, part = compared("Picture", ("old", noise(PART + 20, 10)), ("new", noise(PART + 20, 10)))
    assert part == (slice(10, PART + 10), slice(0, 10))


@pytest.mark.parametrize(
    ("change", "said"),
    [(0, "there is none"), (1, "Drawn 127 times as strong: the largest is 1 level."), (-254, "Drawn 0.5 times")],
)
def test_the_factor_is_said(change: int, said: str) -> None:
    assert said in amplified("Noise", np.full((2, 2, 3), change, np.int16)).caption
