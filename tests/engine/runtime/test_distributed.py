"""Sharing a job among processes: every item once, the first decides, and nobody waits for one that has failed."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from nullspace_cli.engine.errors import ImageError, UsageError, VitnullError
from nullspace_cli.engine.runtime import distributed
from nullspace_cli.engine.runtime.distributed import Meeting, Ranks, joined_ranks
from tests.ranks import in_ranks, same

WORKER = """
import json
from nullspace_cli.engine.runtime.distributed import joined_ranks

with joined_ranks() as ranks:
    part = [(ranks.rank, item) for item in ranks.share(list(range(5)))]
    print(json.dumps([ranks.rank, ranks.world, ranks.local, ranks.first, ranks.gather(part)]))
"""


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_every_item_goes_to_one_process(world: int, count: int) -> None:
    items = list(range(count))
    shares = [Ranks(rank, world).share(items) for rank in range(world)]
    assert sorted(item for share in shares for item in share) == items
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_ranks() as ranks:
        assert ranks == Ranks(0, 1, 0)
        assert ranks.first
        assert ranks.share("abc") == ["a", "b", "c"]
        assert ranks.gather({"part": 1}) == [{"part": 1}]
        assert not torch.distributed.is_initialized()


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Ranks(3 + i, 8, i).device("auto") for i in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert Ranks(1, 2, 1).device("cuda") == "cuda:1"
    assert Ranks(1, 2, 0, 1).device("cuda:0") == "cuda:0"  # one on each machine
    assert Ranks().device("cuda:0") == "cuda:0"
    assert Ranks(1, 2, 1).device("cpu") == "cpu"
    assert Ranks().device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Ranks(1, 2, 1).device("auto") == "auto"


@pytest.mark.parametrize("ranks", [Ranks(0, 2), Ranks(1, 2, 1, 2), Ranks(3, 4, 1, 2)])
def test_several_processes_do_not_share_a_gpu_by_its_number(ranks: Ranks) -> None:
    with pytest.raises(UsageError, match=r'2 processes would share cuda:0\. Use `device="cuda"`,'):
        ranks.device("cuda:0")


# Who comes


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    return number


def test_one_whom_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, port: int
) -> None:
    """torch itself says it in pages on stderr."""
    monkeypatch.setattr(distributed, "JOIN_SECONDS", 0.5)
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(VitnullError) as error, joined_ranks():
        pass
    assert str(error.value).startswith(
        f"Process 1 of 2 has not found the others at 127.0.0.1:{port}: they did not all come within 0.5 seconds, and "
        f"nobody answers there (Connection refused). See that MASTER_ADDR"
    )
    assert error.value.exit_code == 1
    assert caplog.messages == [f"process 1 of 2 waits for the others at 127.0.0.1:{port}, for 0.5 seconds at most"]
    assert capfd.readouterr().err == ""


# Who decides


def test_parts_that_are_none_are_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def gathered(parts: list[Any], part: Any) -> None:
        parts[:] = [part, None, 0, ""]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    assert Ranks(0, 4).gather(None) == [None, None, 0, ""]
    assert Ranks(0, 4).gather("a") == ["a", None, 0, ""]


def test_the_first_process_decides_and_the_others_are_not_asked() -> None:
    asked: list[int] = []

    def run(ranks: Ranks) -> list[Any]:
        def decide() -> Any:
            asked.append(ranks.rank)
            return ("taken", ranks.rank)

        return [ranks.lead(decide), ranks.lead(lambda: None)]

    assert in_ranks(run, 3) == [[("taken", 0), None]] * 3
    assert asked == [0]
    assert Ranks().lead(lambda: "alone") == "alone"


def test_what_all_must_see_alike_is_compared() -> None:
    assert in_ranks(lambda ranks: ranks.agree("data", "7 images"), 3) == [None] * 3
    errors = in_ranks(lambda ranks: ranks.agree("data", "7 images" if ranks.rank < 2 else "8 images"), 3)
    assert all(isinstance(error, VitnullError) and error.exit_code == 1 for error in errors)
    text = same([str(error) for error in errors])
    assert text.startswith("The processes see different data: process 0 has 7 images, process 2 has 8 images. Give all")


# Who waits for whom


class MemoryStore:
    """`torch.distributed.Store`, for threads."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.lock, self.gone = threading.Lock(), False

    def _open(self) -> None:
        if self.gone:
            raise RuntimeError("Broken pipe")

    def set(self, key: str, value: str) -> None:
        self._open()
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        self._open()
        value: bytes = self.values[key]
        return value

    def add(self, key: str, amount: int) -> int:
        self._open()
        with self.lock:
            self.values[key] = self.values.get(key, 0) + amount
        count: int = self.values[key]
        return count

    def check(self, keys: list[str]) -> bool:
        self._open()
        return all(key in self.values for key in keys)

    def delete_key(self, key: str) -> bool:
        return self.values.pop(key, None) is not None


@pytest.fixture
def meet() -> Iterator[Callable[..., Meeting]]:
    made: list[Meeting] = []

    def meet(store: MemoryStore, rank: int, world: int = 2, **options: float) -> Meeting:
        made.append(Meeting(store, rank, world, **{"beat": 0.01, "lost": 30.0, **options}))
        return made[-1]

    yield meet
    for meeting in made:
        meeting.close()


def test_everybody_waits_for_the_last(meet: Callable[..., Meeting]) -> None:
    store, order = MemoryStore(), list[str]()
    meetings = [meet(store, rank, 3, lost=0.3) for rank in range(3)]

    def take_part(rank: int) -> None:
        for number in range(3):
            if rank == number:
                time.sleep(0.5)  # longer than silence is allowed to be: it is at work, and says so
                order.append(f"last {number}")
            meetings[rank]()
            order.append(f"through {number}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(take_part, range(3)))
    assert order == [text for n in range(3) for text in (f"last {n}", *[f"through {n}"] * 3)]
    assert sum(key.startswith("vitnull/at/") for key in store.values) == 3, "those of the last meeting"


def test_one_that_has_failed_is_not_waited_for(meet: Callable[..., Meeting]) -> None:
    store = MemoryStore()
    first, second, third = (meet(store, rank, 3) for rank in range(3))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(first), pool.submit(third)]
        second.fail(ImageError("Cannot read b.png: it is empty."))
        second.fail(ValueError("what came of it"))
        errors = [future.exception() for future in waiting]
    for error in errors:
        assert isinstance(error, VitnullError)
        assert error.exit_code == 1
        assert str(error) == ("Process 1 of 3 has failed, so that this one stops too: Cannot read b.png: it is empty.")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\nlines"), "ValueError: two"),
        (SystemExit(143), "SystemExit: 143"),
        (KeyboardInterrupt(), "KeyboardInterrupt: KeyboardInterrupt"),
    ],
)
def test_what_others_are_told_of_a_bug(meet: Callable[..., Meeting], error: BaseException, said: str) -> None:
    store = MemoryStore()
    first, second = meet(store, 0), meet(store, 1)
    second.fail(error)
    with pytest.raises(VitnullError, match=rf"Process 1 of 2 has failed.*: {re.escape(said)}$"):
        first()


def test_one_that_is_dead_is_not_waited_for_for_ever(meet: Callable[..., Meeting]) -> None:
    store = MemoryStore()
    first, second = meet(store, 0, lost=0.2), meet(store, 1)
    second.close()
    with pytest.raises(VitnullError, match=r"^Process 1 of 2 has said nothing for 0\.2 seconds: it was killed"):
        first()


def test_when_the_store_is_gone_the_error_is_ours(meet: Callable[..., Meeting]) -> None:
    store = MemoryStore()
    ranks = Ranks(0, 2, meeting=meet(store, 0))
    store.gone = True
    for together in (lambda: ranks.gather(1), lambda: ranks.lead(lambda: 1), lambda: ranks.agree("data", "1")):
        with pytest.raises(VitnullError, match=r"Another process of this run is gone .Broken pipe."):
            together()


def test_a_connection_that_breaks_is_told_by_what_broke_it(
    meet: Callable[..., Meeting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo says that the peer hung up; the peer has said why."""
    store = MemoryStore()
    first, second = meet(store, 0), meet(store, 1)

    def broken(tensor: Any) -> None:
        second.fail(VitnullError("The gradient is not finite."))
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", broken)
    with pytest.raises(VitnullError, match=r"Process 1 of 2 has failed.*: The gradient is not finite"):
        Ranks(0, 2, meeting=first).sum(torch.zeros(1))
    with pytest.raises(VitnullError, match=r"is gone .Connection closed by peer."):
        Ranks(0, 2).sum(torch.zeros(1))


def test_memory_that_is_short_is_not_taken_for_a_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(tensor: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.distributed, "all_reduce", short)
    with pytest.raises(RuntimeError, match="out of memory"):
        Ranks(0, 2).sum(torch.zeros(1))


# Real processes

FAILING = """
import os, signal, sys, time
from nullspace_cli.engine.runtime import distributed
from nullspace_cli.engine.errors import VitnullError
distributed.LOST_SECONDS = 4.0
distributed.Meeting.__init__.__kwdefaults__.update(beat=0.5, lost=4.0)
how, where = sys.argv[1:]
try:
    with distributed.joined_ranks() as ranks:
        print(ranks.gather(None), flush=True)
        if ranks.rank == int(where):
            if how == "error":
                raise VitnullError("no such file")
            if how == "bug":
                1 / 0
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.gather(1)
except VitnullError as error:
    print(error, flush=True)
    sys.exit(1)
"""


def two(script: str, *arguments: str) -> list[tuple[int, str]]:
    """Exit codes and output of two processes that run a script."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "where"), [("error", 1), ("bug", 0), ("killed", 1)])
def test_one_of_two_processes_fails(how: str, where: int) -> None:
    ends = two(FAILING, how, str(where))
    code, said = ends[1 - where]
    assert code == 1
    lines = said.splitlines()
    assert lines[0] == "[None, None]"
    reason = {"error": "no such file", "bug": "ZeroDivisionError: division by zero"}
    if how == "killed":
        assert "has said nothing for 4 seconds" in lines[1] or "is gone" in lines[1]
    else:
        assert lines[1] == f"Process {where} of 2 has failed, so that this one stops too: {reason[how]}"
    assert ends[where][0] == {"error": 1, "bug": 1, "killed": -signal.SIGKILL}[how]


@pytest.mark.slow
def test_two_processes() -> None:
    ends = two(WORKER)
    gathered = "[[[0, 0], [0, 2], [0, 4]], [[1, 1], [1, 3]]]"
    assert [code for code, _ in ends] == [0, 0]
    assert [text.strip() for _, text in ends] == [f"[0, 2, 0, true, {gathered}]", f"[1, 2, 1, false, {gathered}]"]
