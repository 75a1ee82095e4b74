"""The examples of the documentation run, and print what stands below them."""

import contextlib
import io
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")


def blocks(text: str) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def promised(block: str) -> list[str]:
    """The lines of # that follow a print, also one that was indented."""
    lines, printing = [], False
    for line in block.splitlines():
        if printing and line.startswith("# "):
            lines.append(line[2:])
        else:
            printing = line.strip().startswith("print(")
    return lines


def alike(printed: str, line: str) -> bool:
    """The same words, and numbers within some percent: the last digits are the machine's."""
    numbers, expected = ([float(each) for each in NUMBER.findall(text)] for text in (printed, line))
    same_words = NUMBER.sub("#", printed) == NUMBER.sub("#", line)
    return same_words and numbers == pytest.approx(expected, rel=0.05, abs=1e-6)


def run(page: Path) -> list[tuple[str, list[str], list[str]]]:
    """Each block of a page, what it printed, and what it promises."""
    namespace: dict[str, Any] = {"__name__": "page"}
    done = []
    for block in blocks(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page.name, "exec"), namespace)  # noqa: S102 - our own documentation
        done.append((block, printed.getvalue().splitlines(), promised(block)))
    return done


def test_the_library_page_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    done = run(ROOT / "docs/library.md")
    assert len(done) > 10
    for block, printed, lines in done:
        assert len(printed) == len(lines), f"{block}\nprinted:\n" + "\n".join(printed)
        for ours, theirs in zip(printed, lines, strict=True):
            assert alike(ours, theirs), f"{block}\nprinted: {ours}\nexpected: {theirs}"
    assert [path.name for path in tmp_path.iterdir() if not path.is_dir()] == []


def test_the_library_page_names_all_that_there_is_to_call() -> None:
    import nullspace_cli

    text = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    functions = [name for name in nullspace_cli.__all__ if name.islower() and not name.startswith("_")]
    assert [name for name in functions if f"vn.{name}(" not in text] == []


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples/library.py"))
    assert "proved" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


# That pages are read as they are meant


def test_promises_are_told_from_comments() -> None:
    block = "# why\nx = 1\nprint(x)  # one\n# 1\n# 2\ny = 2\n# not this\nfor i in x:\n    print(i)\n# 3\n"
    assert promised(block) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("printed", "line", "same"),
    [
        ("mse 1.02e-03", "mse 1.0e-03", True),
        ("mse 2.0e-03", "mse 1.0e-03", False),
        ("null 3e-11", "null 9e-11", True),
        ("star 99%", "ring 99%", False),
        ("[2, 7]", "[2, 7, 7]", False),
    ],
)
def test_numbers_are_compared_as_numbers(printed: str, line: str, same: bool) -> None:
    assert alike(printed, line) == same


def test_the_code_of_a_page_is_found() -> None:
    assert blocks("a\n```python\nx = 1\n```\n```sh\nls\n```\n```python\ny = 2\n```\n") == ["x = 1\n", "y = 2\n"]
