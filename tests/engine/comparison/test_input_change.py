"""How much two arrays of levels differ."""

import numpy as np
import pytest

from nullspace_cli.engine.comparison.input_change import ROWS, change_between


@pytest.mark.parametrize("height", [1, ROWS, 2 * ROWS + 3])
def test_the_figures_are_numpys(height: int) -> None:
    rng = np.random.default_rng(height)
    before, after = rng.integers(0, 256, (2, height, 5, 3), dtype=np.uint8)
    after[:, 2] = before[:, 2]
    change = np.abs(before.astype(float) - after)
    found = change_between(before, after)
    assert found == pytest.approx(((change > 0).mean(), np.sqrt((change**2).mean()), change.max()))
    assert change_between(before, before) == (0, 0, 0)
