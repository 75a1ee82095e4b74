"""Files appear whole or not at all, and nothing is lost."""

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.files import writing


def write_bytes(path: Path, data: bytes, **options: bool) -> Path:
    return writing.write_file(path, lambda temporary: temporary.write_bytes(data), **options)


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "x", b"old")
    with pytest.raises(ArtifactError, match=r"exists already.*`overwrite=True`"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert write_bytes(path, b"new", force=True).read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def slow(temporary: Path) -> None:
        temporary.write_bytes(b"late")
        path.write_bytes(b"first")

    with pytest.raises(ArtifactError, match="another process"):
        writing.write_file(path, slow)
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    write_bytes(tmp_path / "x", b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        writing.write_file(tmp_path / "x", fail, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_system_errors_are_put_into_words(tmp_path: Path) -> None:
    def full(temporary: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match="No space left on device"):
        writing.write_file(tmp_path / "x", full)
    assert not list(tmp_path.iterdir())


def test_output_is_checked_beforehand(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"folder .* does not exist"):
        writing.check_output(tmp_path / "no" / "x", force=True)
    with pytest.raises(ArtifactError, match="is a folder"):
        writing.check_output(tmp_path, force=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="exists already"):
        writing.check_output(tmp_path / "dangling", force=False)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="Cannot create the folder"):
        writing.make_folder(tmp_path / "file" / "x")


def test_a_device_is_written_into_and_never_replaced(tmp_path: Path) -> None:
    null = Path("/dev/null")
    for force in (False, True):
        writing.check_output(null, force=force)
        write_bytes(null, b"x", force=force)
        assert null.is_char_device()
    (tmp_path / "null").symlink_to(null)
    write_bytes(tmp_path / "null", b"x", force=True)
    assert (tmp_path / "null").readlink() == null
    with pytest.raises(ArtifactError, match=r"Cannot write /dev/full: No space left on device\. Make room"):
        write_bytes(Path("/dev/full"), b"x" * 100_000)


def test_a_pipe_is_written_into_where_somebody_reads(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ArtifactError, match="a pipe that nobody reads from"):
        write_bytes(pipe, b"x")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_bytes(pipe, b"whole", force=True)
        assert os.read(reader, 100) == b"whole"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_what_is_neither_file_nor_stream_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for force in (False, True):
            with pytest.raises(ArtifactError, match="Cannot write socket: it is a socket"):
                write_bytes(Path("socket"), b"x", force=force)
    assert Path("socket").is_socket()
    for folder in (".", "..", "/", ""):
        with pytest.raises(ArtifactError, match="it is a folder"):
            writing.check_output(Path(folder), force=True)


def test_the_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, file = tmp_path / "link", tmp_path / "disk" / "file"
    link.symlink_to("disk/file")
    with pytest.raises(ArtifactError, match="exists already"):
        write_bytes(link, b"x")
    assert not file.exists()
    for data in (b"new", b"newer"):  # dangling at first
        write_bytes(link, data, force=True)
        assert file.read_bytes() == data
        assert str(link.readlink()) == "disk/file"
    link.unlink()
    link.symlink_to("no/file")
    with pytest.raises(ArtifactError, match=r"the folder .*/no does not exist"):
        writing.check_output(link, force=True)


@pytest.mark.parametrize("name", ["circle", "circle/x", "n" * 256, "é" * 128, "a\0b", "\ud800"])
@pytest.mark.parametrize("force", [False, True])
def test_names_that_no_file_can_have(tmp_path: Path, name: str, force: bool) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for act in (
        lambda: writing.check_output(tmp_path / name, force=force),
        lambda: write_bytes(tmp_path / name, b""),
    ):
        with pytest.raises(ArtifactError, match="Cannot write"):
            act()
    if "/" not in name:
        with pytest.raises(ArtifactError, match="Cannot create the folder"):
            writing.make_folder(tmp_path / name / "deeper")
    assert [file.name for file in tmp_path.iterdir()] == ["circle"]


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127])
def test_the_longest_names_are_written(tmp_path: Path, name: str) -> None:
    writing.check_output(tmp_path / name, force=False)
    assert write_bytes(tmp_path / name, b"x").read_bytes() == b"x"
    assert write_bytes(tmp_path / name, b"y", force=True).read_bytes() == b"y"


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """Else a power cut may leave an empty file of the right name, where the old one was."""
    happened: list[str] = []

    def spy(module: object, name: str, note: Callable[..., str]) -> None:
        real = getattr(module, name)

        def seen(*arguments: Any) -> Any:
            happened.append(note(*arguments))
            return real(*arguments)

        monkeypatch.setattr(module, name, seen)

    spy(os, "fsync", lambda file: f"sync {Path(f'/proc/self/fd/{file}').resolve().suffix or 'folder'}")
    spy(os, "link", lambda *_: "name")
    spy(Path, "replace", lambda *_: "name")
    write_bytes(tmp_path / "x", b"data", force=force)
    assert happened == ["sync .part", "name", "sync folder"]


def test_what_killed_processes_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old = [tmp_path / name for name in (".vitnull-0123456789ab.part", ".vitnull-0123456789ab.lock")]
    others = [tmp_path / name for name in (".vitnull-ab.part.png", "vitnull-ab.part", ".vitnull-new.part")]
    for path in (*old, *others):
        path.touch()
        if "new" not in path.name:
            os.utime(path, (0, time.time() - writing.OLD - 60))
    writing.check_output(tmp_path / "a.png", force=False)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_disk_that_cannot_sync_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(file: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unable)
    assert write_bytes(tmp_path / "x", b"x").read_bytes() == b"x"


def test_a_disk_that_is_full_when_it_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_bytes(tmp_path / "x", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"Cannot write .*x: No space left on device\. Make room"):
        write_bytes(tmp_path / "x", b"new", force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_permissions_of_what_is_overwritten_stay(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "x", b"secret")
    path.chmod(0o600)
    assert write_bytes(path, b"new", force=True).stat().st_mode & 0o777 == 0o600


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        path = write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_json_takes_no_nan(tmp_path: Path) -> None:
    writing.write_json(tmp_path / "x.json", {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    with pytest.raises(ValueError, match="Out of range float"):
        writing.write_json(tmp_path / "y.json", {"a": float("nan")})
