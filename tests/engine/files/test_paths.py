"""What is at a path, for any name that a user can give."""

import os
from pathlib import Path

import pytest

from nullspace_cli.engine.files.paths import NO_FILE, identity, is_folder, status, why_unreadable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("circle").symlink_to("circle")
    Path("dangling").symlink_to("nowhere")
    Path("link").symlink_to("file")
    os.link("file", "hard")
    os.mkfifo("pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", None),
        ("link", None),
        ("missing", NO_FILE),
        ("missing/deeper", NO_FILE),
        ("file/deeper", NO_FILE),
        ("dangling", NO_FILE),
        (".", "it is a folder, not a regular file"),
        ("pipe", "it is a pipe, not a regular file"),
        ("/dev/null", "it is a device, not a regular file"),
        ("circle", "Too many levels of symbolic links"),
        ("circle/deeper", "Too many levels of symbolic links"),
        ("n" * 256, "File name too long"),
        ("n/" * 4000, "File name too long"),
        ("a\0b", "no file can have this name (embedded null byte)"),
    ],
)
def test_why_a_file_cannot_be_read(folder: Path, name: str, why: str | None) -> None:
    assert why_unreadable(Path(name)) == why
    assert is_folder(Path(name)) == (name == ".")


def test_a_name_that_the_system_cannot_encode(folder: Path) -> None:
    assert "no file can have this name" in str(why_unreadable(Path("\ud800")))
    with pytest.raises(OSError, match="no file can have this name"):
        status(Path("\ud800"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("file", "link", True),
        ("file", "hard", True),
        ("file", "./x/../file", True),
        ("dangling", "nowhere", True),
        ("new", "./new", True),
        ("file", "new", False),
        ("new", "newer", False),
        ("circle", "file", False),
        ("circle", "circle", True),
    ],
)
def test_two_names_of_one_file(folder: Path, one: str, other: str, same: bool) -> None:
    Path("x").mkdir()
    assert (identity(Path(one)) == identity(Path(other))) == same
