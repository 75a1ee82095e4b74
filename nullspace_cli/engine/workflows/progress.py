"""How far a run is, for whoever shows it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Given what is counted and how many there are: whom to tell of each that is done."""


@contextmanager
def unwatched(what: str, total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None
