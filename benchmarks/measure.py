"""What a benchmark reports, and how time and memory are taken."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Row:
    """One comparison; the ratio is ours over theirs, in seconds of one run on one machine."""

    what: str
    ours: float
    reference: str
    theirs: float
    bound: str = "-"

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


@dataclass(frozen=True)
class Figure:
    """One measurement that has no reference program; `besides` says what else was seen."""

    what: str
    measured: str
    bound: str = "-"
    besides: str = ""


class Ran(NamedTuple):
    """A run of the command line: its JSON document, seconds from start to end, and peak resident memory in bytes.

    `processor` are the seconds of all processors, which a busy machine lengthens less.
    """

    document: dict[str, Any]
    seconds: float
    processor: float
    memory: int


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of each, after one round that warms both up; in turns, so that a busy moment hits both."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    first, second = (statistics.median(values) for values in zip(*pairs, strict=True))
    return first, second


LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
"""Between us and the command, because a process's peak counts what its parent held when it was forked."""


def vitnull(*arguments: object) -> Ran:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "nullspace_cli", *map(str, arguments), "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own arguments
    elapsed = time.perf_counter() - start
    document, used = done.stdout.rstrip().rsplit("\n", 1)
    processor, peak = used.split()
    return Ran(json.loads(document), elapsed, float(processor), int(peak) * (1 if sys.platform == "darwin" else 1024))
