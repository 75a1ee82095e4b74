"""Settings of the whole process, held while somebody needs them and given back by whoever is the last to leave."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack


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
