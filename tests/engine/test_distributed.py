"""Sharing a job among processes: every item once, and the parts back in the order of the ranks."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from nullspace_cli.engine.distributed import Ranks, joined_ranks

WORKER = """
import json
from nullspace_cli.engine.distributed import joined_ranks

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
    assert Ranks(1, 2, 1).device("cuda:0") == "cuda:0"
    assert Ranks(1, 2, 1).device("cpu") == "cpu"
    assert Ranks().device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Ranks(1, 2, 1).device("auto") == "auto"


@pytest.mark.slow
def test_two_processes() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    gathered = "[[[0, 0], [0, 2], [0, 4]], [[1, 1], [1, 3]]]"
    assert [line.strip() for line in said] == [f"[0, 2, 0, true, {gathered}]", f"[1, 2, 1, false, {gathered}]"]
