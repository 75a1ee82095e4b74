"""Which images `vitnull watermark` reads, and what it names the results: folders, lists, what is there already."""

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from nullspace_cli.commands import image_files
from tests.cli.contract import WATERMARK, check_keys
from tests.conftest import Outcome, Vitnull


@pytest.fixture
def stamp(vitnull: Vitnull, tiny_vit: tuple[str, ...], logo: Path) -> Vitnull:
    """`vitnull watermark IMAGE... logo.png`, as quickly as can be."""

    def stamp(*arguments: str | Path, **options: Any) -> Outcome:
        quick = ("--nullspace", "resize", "--no-verify", "--scale", "0.2", "--min-legibility", "0", "--json")
        return vitnull("watermark", *arguments, logo, *quick, "--model", *tiny_vit, **options)

    return stamp


@pytest.fixture
def put(vitnull: Vitnull, photo: Path) -> Any:
    """Copies of the photo, below the folder that the command runs in."""

    def put(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, name)

    return put


def files(folder: str = ".") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def sources(outcome: Outcome) -> list[str]:
    check_keys(outcome.document, WATERMARK)
    return [record["source"] for record in outcome.document["images"]]


# Folders


def test_a_folder_keeps_its_inner_order(stamp: Vitnull, put: Any) -> None:
    put("in/a.png", "in/b/a.PNG", "in/b/c/d.png")
    assert sources(stamp("in", "--out-dir", "out/new")) == ["in/a.png", "in/b/a.PNG", "in/b/c/d.png"]
    assert files("out/new") == ["a.watermarked.png", "b/a.watermarked.png", "b/c/d.watermarked.png"]
    assert files("in") == ["a.png", "b/a.PNG", "b/c/d.png"]


def test_an_image_named_twice_is_one(stamp: Vitnull, put: Any) -> None:
    put("in/a.png")
    assert sources(stamp("in/a.png", "in/../in/a.png", "in", "--out-dir", "out")) == ["in/a.png"]


def test_what_is_no_source_is_passed_over_and_counted(stamp: Vitnull, put: Any) -> None:
    put("in/a.png", "in/.hidden.png", "in/.git/b.png", "in/.ipynb_checkpoints/a.png", "in/__MACOSX/c.png", "in/._a.png")
    put("in/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "in/a.png.part", "in/~$a.png", "in/Thumbs.db")
    Path("in/notes.txt").write_text("no picture")
    outcome = stamp("in", "--out-dir", "in")
    assert sources(outcome) == ["in/a.png"]
    assert "a.watermarked.png" in files("in")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("passed over in in: 1 no image by its name (in/notes.txt); 9 hidden, temporary or other")


def test_results_are_no_sources_and_it_is_said(stamp: Vitnull, put: Any) -> None:
    """Those of images that are there, too; whatever else is called so is an image."""
    put("in/a.png", "in/b.jpg", "in/c/d.png", "in/e.watermarked.png")
    for _ in range(2):
        outcome = stamp("in", "--out-dir", "in", "--force")
        assert sources(outcome) == ["in/a.png", "in/b.jpg", "in/e.watermarked.png", "in/c/d.png"]
    assert outcome.stderr.splitlines() == [
        "left out as results of an earlier run: in/a.watermarked.png and 3 more. "
        "Name such a file itself to have it read."
    ]
    named = stamp("in/a.watermarked.png", "in", "--out-dir", "out")
    assert sources(named)[0] == "in/a.watermarked.png"
    assert "in/b.watermarked.png and 2 more" in named.stderr


def test_links_are_followed_but_not_in_circles(stamp: Vitnull, put: Any) -> None:
    put("elsewhere/a.png", "in/b.png")
    Path("in/link").symlink_to("../elsewhere")
    Path("in/back").symlink_to("../in")
    assert sources(stamp("in", "--out-dir", "out")) == ["in/b.png", "in/link/a.png"]
    assert files("out") == ["b.watermarked.png", "link/a.watermarked.png"]


def test_a_folder_that_cannot_be_listed(stamp: Vitnull, put: Any, no_weights: None) -> None:
    put("in/a.png")
    Path("in/circle").symlink_to("circle")
    assert "Cannot list in/circle: Too many levels" in stamp("in", expect=1).message


@pytest.mark.parametrize("name", ["circle.png", "n" * 300 + ".png", "a\0b.png", "circle/b.png"])
def test_names_that_no_file_can_have(stamp: Vitnull, put: Any, name: str) -> None:
    put("a.png")
    Path("circle.png").symlink_to("circle.png")
    Path("circle").symlink_to("circle")
    Path("list.txt").write_text(f"a.png\n{name}\n")
    outcome = stamp("--files-from", "list.txt", "--out-dir", "out", expect=4)
    assert sources(outcome) == ["a.png"]
    assert [failure["source"] for failure in outcome.document["failures"]] == [name]
    assert files("out") == ["a.watermarked.png"]


def test_an_image_inside_a_folder_that_was_named_too_is_done_once(stamp: Vitnull, put: Any) -> None:
    put("in/a.png", "b.png")
    assert sources(stamp("in/a.png", "in", "b.png", "b.png", "--out-dir", "out")) == ["in/a.png", "b.png"]


def test_a_folder_without_a_folder_for_its_results(stamp: Vitnull, put: Any) -> None:
    """Sub-folders are made below the current directory only as far as they are there: nothing else is created."""
    put("in/a.png")
    assert sources(stamp("in")) == ["in/a.png"]
    assert files() == ["a.watermarked.png", "in/a.png"]


@pytest.mark.parametrize("inside", [[], ["notes.txt"], [".a.png"]], ids=["nothing", "a text", "hidden"])
def test_a_folder_without_images(stamp: Vitnull, no_weights: None, put: Any, inside: list[str]) -> None:
    Path("in").mkdir()
    put(*(f"in/{name}" for name in inside))
    assert "the folder in holds no images" in stamp("in", expect=2).message


def test_two_images_of_one_stem_have_results_by_their_whole_names(stamp: Vitnull, put: Any) -> None:
    put("in/a.png", "in/a.bmp", "in/a.bmp.png", "in/b/a.png", "in/c.png")
    names = ["a.bmp.png.watermarked.png", "a.bmp.watermarked.png", "a.png.watermarked.png"]
    for _ in range(2):  # and they are known for results
        outcome = stamp("in", "--out-dir", "in", "--force")
        assert sources(outcome) == ["in/a.bmp", "in/a.bmp.png", "in/a.png", "in/c.png", "in/b/a.png"]
        results = [name for name in files("in") if "watermarked" in name]
        assert results == sorted([*names, "b/a.watermarked.png", "c.watermarked.png"])


def test_two_results_of_one_name(stamp: Vitnull, no_weights: None, put: Any) -> None:
    put("in/a.png", "other/a.png")
    before = files()
    outcome = stamp("in", "other", "--out-dir", "out", expect=2)
    assert "several results would be written to out/a.png.watermarked.png" in outcome.message
    assert files() == before


def test_an_image_that_is_not_readable_among_others_is_named(stamp: Vitnull, put: Any) -> None:
    put("in/a.png", "in/b.png")
    Path("in/cut.png").write_bytes(Path("in/a.png").read_bytes()[:5000])
    Path("in/empty.jpg").touch()
    outcome = stamp("in", "--out-dir", "out", expect=4)
    assert sources(outcome) == ["in/a.png", "in/b.png"]
    assert sorted(failure["source"] for failure in outcome.document["failures"]) == ["in/cut.png", "in/empty.jpg"]
    for failure in outcome.document["failures"]:
        assert f"vitnull: error: {failure['error']}" in outcome.stderr
        assert failure["error"].startswith(f"Cannot read {failure['source']}: ")
    assert files("out") == ["a.watermarked.png", "b.watermarked.png"]


# Lists


def test_a_list_in_a_file(stamp: Vitnull, put: Any) -> None:
    put("a.png", "in/b.png", "name with space.png")
    Path("list.txt").write_text("in\n\nname with space.png\n")
    outcome = stamp("a.png", "--files-from", "list.txt", "--out-dir", "out")
    assert sources(outcome) == ["a.png", "in/b.png", "name with space.png"]
    assert len(files("out")) == 3


def test_a_list_with_a_missing_file(stamp: Vitnull, put: Any) -> None:
    put("a.png")
    Path("list.txt").write_text("a.png\nmissing.png\n")
    outcome = stamp("--files-from", "list.txt", expect=4)
    assert sources(outcome) == ["a.png"]
    assert outcome.document["summary"]["failed"] == 1
    assert "vitnull: error: Cannot read missing.png: there is no such file" in outcome.stderr


@pytest.mark.parametrize("content", ["", "\n \n"], ids=["empty", "blank"])
def test_a_list_of_nothing(stamp: Vitnull, no_weights: None, content: str) -> None:
    Path("list.txt").write_text(content)
    assert "no image was named" in stamp("--files-from", "list.txt", expect=2).message


def test_lists_that_cannot_be_read(stamp: Vitnull, no_weights: None) -> None:
    for name in ("missing.txt", "."):
        assert f"cannot read the list {name}" in stamp("--files-from", name, expect=2).message
    Path("line").write_bytes(b"a.png\n" + b"a" * 100_000)
    assert "name 2 in line is of 100000 bytes" in stamp("--files-from", "line", expect=2).message


def test_a_list_from_a_stdin_that_is_closed(stamp: Vitnull, no_weights: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "sys", SimpleNamespace(stdin=None))
    assert "stdin is closed" in stamp("--files-from", "-", expect=2).message


ODD = (b"a\nb.png", b"caf\xe9.png", " \u2028 \x0b.png".encode(), b"--model.png")
"""Names that a line, a text or an option could not be told from."""


@pytest.mark.parametrize("nul", [True, False])
def test_names_of_any_bytes(stamp: Vitnull, photo: Path, nul: bool) -> None:
    names = [name for name in ODD if nul or b"\n" not in name]
    for name in names:
        shutil.copy(photo, os.fsdecode(name))
    Path("list").write_bytes(b"".join(name + (b"\0" if nul else b"\r\n") for name in names))
    outcome = stamp("--files-from", "list", *(["-0"] if nul else []), "--out-dir", "out")
    assert sources(outcome) == [os.fsdecode(name) for name in names]
    assert files("out") == sorted(os.fsdecode(name.replace(b".png", b".watermarked.png")) for name in names)


def test_a_list_that_ends_its_names_otherwise_than_said(stamp: Vitnull, no_weights: None) -> None:
    Path("list").write_bytes(b"a.png\0b.png\0")
    assert (
        "the names in list end with NULs, as of find -print0; add -0" in stamp("--files-from", "list", expect=2).message
    )
    assert "is about the list of --files-from" in stamp("a.png", "-0", expect=2).message


# What is there already


def test_what_is_there_already_is_left_out(stamp: Vitnull, put: Any) -> None:
    put("a.png", "b.png", "a.watermarked.png")
    before = Path("a.watermarked.png").read_bytes()
    outcome = stamp("a.png", "b.png", "--skip-existing")
    assert sources(outcome) == ["b.png"]
    assert outcome.document["summary"]["skipped"] == 1
    assert Path("a.watermarked.png").read_bytes() == before


def large_profile(data: bytes) -> bytes:
    """What an earlier version wrote: Pillow refuses a profile that unpacks to more than 1 MiB."""
    packed = b"x\0\0" + zlib.compress(bytes(2**21))
    chunk = struct.pack(">I", len(packed)) + b"iCCP" + packed + struct.pack(">I", zlib.crc32(b"iCCP" + packed))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize("broken", [lambda data: b"precious", lambda data: data[:5000], large_profile])
def test_what_is_there_and_cannot_be_opened_is_not_done(
    stamp: Vitnull, put: Any, photo: Path, broken: Callable[[bytes], bytes]
) -> None:
    """Nor is it overwritten, unless that is asked for."""
    put("a.png", "b.png")
    there = broken(photo.read_bytes())
    Path("a.watermarked.png").write_bytes(there)
    outcome = stamp("a.png", "b.png", "--skip-existing", expect=4)
    assert sources(outcome) == ["b.png"]
    ((failure),) = outcome.document["failures"]
    assert failure["source"] == "a.png"
    assert failure["error"].startswith("a.png: Cannot read a.watermarked.png: ")
    assert failure["error"].endswith("It is left as it is: remove it, or use --force.")
    assert Path("a.watermarked.png").read_bytes() == there
    assert stamp("a.png", "--skip-existing", expect=4).document["images"] == []
    outcome = stamp("a.png", "b.png", "--skip-existing", "--force")
    assert sources(outcome) == ["a.png"]
    Image.open("a.watermarked.png").load()


def test_a_second_run_does_nothing(stamp: Vitnull, put: Any, request: pytest.FixtureRequest) -> None:
    put("in/a.png", "in/b/c.png")
    stamp("in", "--out-dir", "out", "--skip-existing")
    before = {name: Path("out", name).stat().st_mtime_ns for name in files("out")}
    request.getfixturevalue("no_weights")
    outcome = stamp("in", "--out-dir", "out", "--skip-existing")
    check_keys(outcome.document, WATERMARK)
    summary = outcome.document["summary"]
    assert (summary["count"], summary["failed"], summary["skipped"], outcome.document["images"]) == (0, 0, 2, [])
    assert outcome.stderr == ""
    assert {name: Path("out", name).stat().st_mtime_ns for name in files("out")} == before


def test_nothing_to_do_for_people(vitnull: Vitnull, put: Any, tiny_vit: tuple[str, ...], logo: Path) -> None:
    put("a.png", "a.watermarked.png", "b.png", "b.watermarked.png")
    outcome = vitnull("watermark", "a.png", "b.png", logo, "--skip-existing", "--model", *tiny_vit)
    (line,) = outcome.stdout.splitlines()
    assert line.startswith("0 images done, 0 failed, 2 there already")


def test_without_it_nothing_is_done_where_one_is_there(stamp: Vitnull, no_weights: None, put: Any) -> None:
    put("a.png", "b.png")
    Path("b.watermarked.png").write_text("precious")
    assert "b.watermarked.png exists already" in stamp("a.png", "b.png", expect=1).message
    assert files() == ["a.png", "b.png", "b.watermarked.png"]
