"""Archives that are worked on: a few images at a time, by one process, whole or not at all."""

import io
import tarfile
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from nullspace_cli.engine.errors import ImageError, ModelError, VitnullError
from nullspace_cli.engine.files.work_locks import at_work_on
from nullspace_cli.engine.workflows.failed_input import DoneElsewhere, Failed
from nullspace_cli.engine.workflows.image_stores import ArchiveFiles, ArchiveSettings, Look, through_all

COUNT = 20
Results = Generator[list[Any], None, None]


@dataclass(frozen=True)
class Copied:
    """A job of which a file is made that says what was read."""

    source: Path
    output: Path

    def reading(self, source: Path) -> "Copied":
        return replace(self, source=source)

    def files(self) -> list[Path]:
        return [self.output]

    def do(self) -> "str | Failed":
        data = self.source.read_bytes()
        if b"bad" in data:
            return Failed(self.source, ImageError("it is bad"))
        self.output.write_bytes(b"marked " + data)
        return self.source.name


def tar(path: Path, contents: Iterable[bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for number, content in enumerate(contents):
            member = tarfile.TarInfo(f"{number:02d}.png")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def untar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as file:
        found = {member.name: file.extractfile(member) for member in file}
        return {name: content.read() for name, content in found.items() if content}


def run(work: Any, *archives: Path, shared: bool = False, told: list[str] | None = None) -> Generator[Any, None, None]:
    names: dict[str, str] = {}
    settings = ArchiveSettings(
        lambda source, stem: Copied(source, stem.with_suffix(".png")), True, names,
        (told if told is not None else list[str]()).append, shared=shared,
    )  # fmt: skip
    look = Look((), lambda text: None)
    for archive in archives:
        look(archive)
    stores = look.stores([ArchiveFiles(path, path.with_suffix(".out.tar")) for path in archives], settings)
    assert [len(store) for store in stores] == [look.counts[path] for path in archives]
    for group in through_all(stores, work):
        yield from group
    assert names == {}


def do(jobs: Iterable[Copied], shared: bool) -> Results:
    return ([job.do()] for job in jobs)


def test_few_images_are_on_the_disk_at_a_time(tmp_path: Path) -> None:
    most = 0

    def work(jobs: Iterable[Copied], shared: bool) -> Results:
        nonlocal most
        rest = iter(jobs)
        while group := list(islice(rest, 3)):
            most = max(most, sum(path.is_file() for path in group[0].source.parent.iterdir()))
            yield [job.do() for job in group]

    source = tar(tmp_path / "s.tar", (f"{number}".encode() for number in range(COUNT)))
    assert len(list(run(work, source))) == COUNT
    assert most == 3
    assert untar(tmp_path / "s.out.tar") == {f"{i:02d}.png": f"marked {i}".encode() for i in range(COUNT)}


def test_what_others_are_at_work_on_comes_last(tmp_path: Path) -> None:
    first, second = (tar(tmp_path / f"{name}.tar", [name.encode()] * 2) for name in ("a", "b"))
    with at_work_on(tmp_path / "a.out.tar"):
        found = run(do, first, second, shared=True)
        assert [next(found), next(found)] == ["00.png", "01.png"]
        assert not (tmp_path / "a.out.tar").exists()
    assert list(found) == ["00.png", "01.png"]
    again = list(run(do, first, shared=True))
    assert [type(item) for item in again] == [DoneElsewhere]
    assert not list(tmp_path.glob(".vitnull-*"))


@pytest.mark.parametrize("at", ["archive", "work", "nothing done"])
def test_an_archive_is_written_whole_or_not_at_all(tmp_path: Path, at: str) -> None:
    """What is wrong with it is its own failure; what is wrong with the work, that of the run."""
    contents = [b"bad"] * 3 if at == "nothing done" else [b"a", b"bad", b"c"]
    source = tar(tmp_path / "s.tar", contents)

    def work(jobs: Iterable[Copied], shared: bool) -> Results:
        for number, job in enumerate(jobs):
            if at == "work" and number == 1:
                raise ModelError("the model is gone")
            yield [job.do()]
            if at == "archive":
                source.write_bytes(source.read_bytes()[:1000])

    if at == "work":
        with pytest.raises(ModelError):
            list(run(work, source))
    else:
        last = list(run(work, source))[-1]
        assert isinstance(last, Failed)
        assert last.source == source
        assert ("has become shorter" if at == "archive" else "None of the images") in str(last.error)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]


def test_failures_are_counted_and_kept(tmp_path: Path) -> None:
    told: list[str] = []
    source = tar(tmp_path / "s.tar", [b"a", b"bad", b"c"])
    results = list(run(do, source, told=told))
    assert [isinstance(result, Failed) for result in results] == [False, True, False]
    assert list(untar(tmp_path / "s.out.tar").values()) == [b"marked a", b"bad", b"marked c"]
    assert told == [f"{tmp_path / 's.out.tar'} has 1 of the images of {source} as they were"]


def test_threads_that_are_left_do_no_harm(tmp_path: Path) -> None:
    """Whoever takes no more results leaves nothing, though a thread is still at work on a file."""
    go_on, ended = threading.Event(), list[VitnullError | OSError]()

    def late(job: Copied) -> None:
        go_on.wait(60)
        try:
            job.do()
        except OSError as error:
            ended.append(error)

    def work(jobs: Iterable[Copied], shared: bool) -> Results:
        for job in jobs:
            thread = threading.Thread(target=late, args=[job])
            thread.start()
            yield [Failed(job.source, ImageError("slow"))]

    found = run(work, tar(tmp_path / "s.tar", [b"a"] * 2))
    next(found)
    found.close()
    go_on.set()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.name.startswith("Thread"):
            thread.join(60)
    assert len(ended) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]
