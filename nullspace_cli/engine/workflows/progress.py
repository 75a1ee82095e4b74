"""How far a run is, for whoever shows it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[str, str, int], AbstractContextManager[Callable[[], None]]]
"""Given what is done, what is counted and how many there are: whom to tell of each that is done."""


@contextmanager
def unwatched(doing: str, what: str, total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None
