"""One process at a time is at work on a file, and none that has ended keeps others from it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nullspace_cli.engine.files.work_locks import at_work_on

HOLDS = """
import sys, time
from pathlib import Path
from nullspace_cli.engine.files.work_locks import at_work_on
with at_work_on(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    with at_work_on(tmp_path / "a") as mine, at_work_on(tmp_path / "a") as again, at_work_on(tmp_path / "b") as other:
        assert (mine, again, other) == (True, False, True)
    assert list(tmp_path.iterdir()) == []
    with at_work_on(tmp_path / "a") as mine:
        assert mine


def test_the_longest_name(tmp_path: Path) -> None:
    with at_work_on(tmp_path / ("x" * 255)) as mine, at_work_on(tmp_path / ("x" * 255)) as again:
        assert (mine, again) == (True, False)


def test_whoever_waits_is_next(tmp_path: Path) -> None:
    told: list[bool] = []

    def wait() -> None:
        with at_work_on(tmp_path / "a", wait=True) as mine:
            told.append(mine)

    with at_work_on(tmp_path / "a"):
        waiting = [threading.Thread(target=wait) for _ in range(3)]
        for thread in waiting:
            thread.start()
        assert told == []
    for thread in waiting:
        thread.join(60)
    assert told == [True] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_keeps_nobody_waiting(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path / "a"], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        assert process.stdout.readline() == "True\n"
        with at_work_on(tmp_path / "a") as mine:
            assert not mine
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(list(tmp_path.iterdir())) == 1
    with at_work_on(tmp_path / "a") as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_gives_up_leaves_no_lock(tmp_path: Path) -> None:
    leaves = "import os; from nullspace_cli.engine.files.writing import give_up; give_up(); os._exit(130)"
    code = HOLDS.replace("time.sleep(600)", leaves)
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (130, "True\n")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opened the file before it was removed would hold what nobody else looks at."""
    lock, removed = fcntl.flock, list[int]()

    def flock(descriptor: int, how: int) -> None:
        if not removed:
            removed.append(descriptor)
            next(tmp_path.iterdir()).unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with at_work_on(tmp_path / "a") as mine, at_work_on(tmp_path / "a") as again:
        assert (mine, again) == (True, False)
    assert removed


def test_without_locks_everybody_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with at_work_on(tmp_path / "a") as mine, at_work_on(tmp_path / "a") as again:
        assert (mine, again) == (True, True)
    with at_work_on(tmp_path / "no folder" / "a") as mine:
        assert mine


def test_errors_within_are_not_those_of_locks(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), at_work_on(tmp_path / "a"):
        raise OSError("mine")
    assert list(tmp_path.iterdir()) == []
