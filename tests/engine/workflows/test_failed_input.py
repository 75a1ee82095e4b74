"""Which of many images cannot be done."""

from pathlib import Path

import pytest
from PIL import Image

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.workflows.failed_input import refused


def test_sources_are_looked_at_before_anything_slow(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (8, 8)).save(good)
    bad.write_bytes(b"no picture")
    assert list(refused([good, bad], alone=False)) == [bad]
    assert "not a PNG" in refused([bad], alone=False)[bad]
    assert refused([good], alone=True) == {}
    with pytest.raises(ImageError):
        refused([bad], alone=True)
