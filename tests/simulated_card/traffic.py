"""What a program moves between the host and a simulated card, and where it waits for the card."""

import sys
import threading
from collections import Counter
from typing import Literal, NamedTuple

Kind = Literal["to_card", "to_host", "waits", "held"]
OURS = ("nullspace_cli", "tests/engine", "tests/cli")


class Counts(NamedTuple):
    """How often.

    Attributes:
        to_card, to_host: tensors that were copied, of whatever size.
        waits: the host needed what the card was still to compute: a number (`.item()`, `bool()`), a copy on the host, a
            shape that depends on values (`nonzero`, a mask as an index), the check that a factorisation succeeded.
        held: of `to_card`, those that hold the host up: not from pinned memory, or not `non_blocking`.
    """

    to_card: int
    to_host: int
    waits: int
    held: int

    def __sub__(self, other: tuple[int, ...]) -> "Counts":
        return Counts(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


class Traffic:
    """Counts from the start; `counts()` before and after a piece of work tell what it cost."""

    def __init__(self) -> None:
        self._places: Counter[tuple[Kind, str, str]] = Counter()
        self._lock = threading.Lock()

    def note(self, kind: Kind, operation: str, times: int = 1) -> None:
        if times:
            with self._lock:
                self._places[kind, operation, _place()] += times

    def counts(self) -> Counts:
        with self._lock:
            totals: Counter[Kind] = Counter()
            for (kind, _, _), times in self._places.items():
                totals[kind] += times
        return Counts(totals["to_card"], totals["to_host"], totals["waits"], totals["held"])

    def report(self) -> str:
        """What there was and where it came from, most first: for the message of a test that counts too much."""
        with self._lock:
            lines = [
                f"{times:6} {kind:8} {name:12} {place}" for (kind, name, place), times in self._places.most_common()
            ]
        return "\n".join(lines)


def _place() -> str:
    """The line of this project that the operation was called from."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if any(part in file for part in OURS):
            return f"{file.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
