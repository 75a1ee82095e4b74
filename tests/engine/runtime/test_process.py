"""Settings of the whole process that threads hold together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nullspace_cli.engine.runtime.process import Shared


class Setting:
    def __init__(self) -> None:
        self.value, self.changes = "usual", 0

    @contextmanager
    def held(self) -> Iterator[None]:
        before, self.value = self.value, "held"
        self.changes += 1
        try:
            yield
        finally:
            self.value = before


def test_the_last_to_leave_restores() -> None:
    setting = Setting()
    shared = Shared(setting.held)
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with shared:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with shared:
        thread.start()
        assert entered.wait(10)
    assert setting.value == "held"  # the other thread, which came later, is still within
    leave.set()
    thread.join(10)
    assert (setting.value, setting.changes) == ("usual", 1)


def test_it_can_be_entered_again_and_within_itself() -> None:
    setting = Setting()
    shared = Shared(setting.held)
    for _ in range(2):
        with shared, shared:
            assert setting.value == "held"
        assert setting.value == "usual"
    assert setting.changes == 2


def test_it_is_restored_when_the_work_fails() -> None:
    setting = Setting()
    with pytest.raises(KeyError), Shared(setting.held):
        raise KeyError
    assert setting.value == "usual"
