"""Texts of figures: names that are no formulas, that no font has, or that have no end."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from nullspace_cli.engine.plots.figure import save_figure

NAMES = [
    "$x^{",
    "cost $5 and $6",
    r"\frac{a}",
    "a_b^c",
    "日本",
    "\x1b[31m",
    "a\nb",
    "x" * 5000,
    "%s {} \\",
    "\ud800",
    "$$",
]


def titled(name: str) -> Figure:
    figure = Figure(layout="constrained")
    figure.suptitle(name)
    axes = figure.subplots()
    axes.semilogy([1, 2], [1e-9, 1], label=name)
    axes.set(title=name, xlabel=name, ylabel=name)
    axes.annotate(name, (1, 1))
    figure.legend(loc="outside lower center")
    return figure


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:12])
def test_any_name_is_drawn_as_it_is(tmp_path: Path, name: str) -> None:
    figure = titled(name)
    save_figure(tmp_path / "a.png", figure)
    title = figure.get_suptitle()
    assert (title == name) == ((name.isprintable() and len(name) < 50) or name == "a\nb")
    assert len(title) < 100


def test_powers_of_ten_are_set_as_such(tmp_path: Path) -> None:
    figure = titled("cost $5")
    save_figure(tmp_path / "a.png", figure)
    (axes,) = figure.axes
    assert not axes.title.get_parse_math()
    labels = axes.yaxis.get_ticklabels()
    assert any("10^" in label.get_text() for label in labels)
    assert all(label.get_parse_math() for label in labels)


def test_names_make_no_difference_to_what_is_drawn_of_them(tmp_path: Path) -> None:
    """A dollar is a dollar: the picture is another one with another name."""
    pictures = {
        save_figure(tmp_path / f"{i}.png", titled(name)).read_bytes() for i, name in enumerate(("$a$", "$b$", "a"))
    }
    assert len(pictures) == 3
