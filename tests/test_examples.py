"""The examples: what they say of wrong arguments, and that one failure does not cost the table."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from nullspace_cli.demo.drawing import draw

EXAMPLES = Path(__file__).parent.parent / "examples"
NO_SCRIPTS = {"library.py", "ownership_attacks.py", "ownership_summary.py"}
"""What takes no arguments, and parts of others."""
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in NO_SCRIPTS)
NEEDED = {"choosing_sources.py", "first_layers.py", "jpeg_story.py", "jpeg_table.py", "native_watermarks.py"}
NEEDED |= {"mark_dataset.py", "mark_with_ray.py", "readers.py", "several_readers.py"}
"""Those that cannot do without an argument."""


LIBRARIES = {"mark_dataset.py": "datasets", "mark_with_ray.py": "ray"}
"""Those that are not ours to install."""


def run(script: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """What a script ends with."""
    if library := LIBRARIES.get(script):
        pytest.importorskip(library)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(EXAMPLES)  # as Python does itself
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return end.value.code


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(script, monkeypatch, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: {script}")


@pytest.mark.parametrize("script", sorted(NEEDED))
def test_arguments_that_are_missing(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, monkeypatch) == 2
    assert "the following arguments are required" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failure_does_not_cost_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["native_watermarks.py", "demo", str(tmp_path), "--scale", "0.2"])
    Image.fromarray(draw("val", 1, size=400)[0]).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    runpy.run_path(str(EXAMPLES / "native_watermarks.py"), run_name="__main__")
    told = capsys.readouterr()
    assert "| demo | 1 | 1 |" in told.out
    assert "1 more could not be done" in told.err
