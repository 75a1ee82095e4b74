"""Texts of figures: names that are no formulas, that no font has, or that have no end."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from nullspace_cli.engine.plots.figure import plain_ticks, save_figure

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


@pytest.mark.parametrize("values", [(2.7, 8.7), (0.14, 0.22), (1e-4, 3.0), (1e-10, 1e5), (5.0, 5.1)])
def test_a_logarithmic_axis_has_numbers_wherever_it_lies(tmp_path: Path, values: tuple[float, float]) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.semilogy(values)
    plain_ticks(axes.yaxis, values)
    save_figure(tmp_path / "a.png", figure)
    low, high = axes.get_ylim()
    inside = [label for label, at in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True) if low <= at <= high]
    assert len(inside) >= 2
    assert [float(label.get_text()) for label in inside] == sorted({float(label.get_text()) for label in inside})
