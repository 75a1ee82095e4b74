"""How many problems are solved at once."""

import pytest
import torch

from nullspace_cli.engine.solvers import side_by_side as room
from nullspace_cli.engine.solvers.side_by_side import ON_CPU, side_by_side


@pytest.mark.gpu
def test_a_quarter_of_what_a_card_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory", lambda device: 32_000)
    found = [side_by_side(torch.device("cuda"), numbers) for numbers in (1, 10, 999, 1001)]
    assert found == [1000, 100, 1, 1]
    assert side_by_side(torch.device("cpu"), 1) == ON_CPU
