"""Settings of the whole process, held while somebody needs them and given back by whoever is the last to leave."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared:
    """A context manager that all threads share: the first to enter changes a setting, the last to leave restores it.

    Python's own managers of such settings (`warnings.catch_warnings`, say) put back whatever they found when they were
    entered. Two threads whose times overlap then leave the process as one of them had changed it.

    Args:
        make: the context manager that changes the setting, made anew whenever nobody is within.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make, self._lock, self._within, self._restore = make, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._within == 0:
                self._restore.enter_context(self._make())
            self._within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0:
                self._restore.close()


class InTurns(Generic[T]):
    """As `Shared`, for a setting that not everybody wants alike: those who want the same share it, others wait for it.

    A thread must not ask for one value within another.

    Args:
        make: the context manager that changes the setting to a value.
    """

    def __init__(self, make: Callable[[T], AbstractContextManager[object]]) -> None:
        self._make, self._turn = make, threading.Condition()
        self._value: T | None = None
        self._within, self._restore = 0, ExitStack()

    @contextmanager
    def __call__(self, value: T) -> Iterator[None]:
        with self._turn:
            self._turn.wait_for(lambda: self._within == 0 or self._value == value)
            if self._within == 0:
                self._restore.enter_context(self._make(value))
                self._value = value
            self._within += 1
        try:
            yield
        finally:
            with self._turn:
                self._within -= 1
                if self._within == 0:
                    self._restore.close()
                    self._turn.notify_all()


@contextmanager
def _ignoring() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


WITHOUT_WARNINGS = Shared(_ignoring)
"""Other people's warnings are not shown within. One for all: two such would restore each other's filters."""
