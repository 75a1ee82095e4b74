"""What a terminal shows while something goes on, and that nothing else is shown it."""

import io
import sys
from collections.abc import Sequence

import pytest

from nullspace_cli.commands.console import Console, pace
from nullspace_cli.commands.options import OutputOptions
from nullspace_cli.engine.runtime.stages import stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("total", "ended", "now", "said"),
    [
        (10, [], 5.0, ""),
        (3, [27.0], 30.0, "27.0 s each, 0:51 left"),
        (3, [27.0, 27.1], 27.1, "13.6 s each, 0:14 left"),  # a burst of two threads is no rate
        (100, [0.1] * 50, 0.1, "500.0 images/s, 0:00 left"),
        (100, [2.0] * 4, 2.0, "2.0 images/s, 0:48 left"),
        (2, [1.0], 90.0, "1.0 images/s, 0:00 left"),
    ],
)
def test_the_pace_is_that_of_all(total: int, ended: Sequence[float], now: float, said: str) -> None:
    assert pace("images", total, ended, now) == said


@pytest.mark.parametrize("total", [1, 2])
def test_what_is_shown(monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("_TYPER_FORCE_DISABLE_TERMINAL", raising=False)
    with Console(OutputOptions()).progress("stamping", "images", total) as advance:
        stage("solving, step 3")
        advance()
    shown = terminal.getvalue()
    assert "stamping" in shown
    assert ("stamping: solving, step 3" in shown) == (total == 1)
    assert ("1/2" in shown) == (total == 2)


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_shown_to_others(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    stream = Terminal() if quiet else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Console(OutputOptions(quiet=quiet)).progress("stamping", "images", 2) as advance:
        stage("solving")
        advance()
    assert stream.getvalue() == ""
