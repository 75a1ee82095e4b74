"""What a computation is at, for whoever shows it: whole images take many seconds. Nobody need listen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


def stage(what: str) -> None:
    """Say what begins: "solving, step 3"."""
    for tell in tuple(_listeners):
        tell(what)


@contextmanager
def stages_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block `tell` is told of each stage, from whichever thread."""
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)
