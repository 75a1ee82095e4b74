"""Text from elsewhere: nothing that a terminal would obey is left in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nullspace_cli.engine.text import shortened, shortest, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photo.png", "photo.png"),
        ("naïve 日本 – ½ 🐈", "naïve 日本 – ½ 🐈"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("gpj\u202e.exe", r"gpj\u202e.exe"),
        ("\u2066\u2069\u2028", r"\u2066\u2069\u2028"),
        (r"\x1b", r"\x1b"),
        ("\udce9", "\udce9"),  # for stdout's own escapes
    ],
)
def test_what_a_terminal_would_obey(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_may_stay() -> None:
    assert visible("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


@given(st.text())
def test_nothing_unprintable_is_left(text: str) -> None:
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in visible(text))
    assert visible(visible(text)) == visible(text)


@given(st.text(), st.integers(5, 50))
def test_long_texts_keep_both_ends(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) <= most
    if len(text) <= most:
        assert short == text
    else:
        assert len(short) == most
        assert text.startswith(short.partition("…")[0]) or "…" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (1.0, "1"),
        (2, "2"),
        (1e-7, "1e-07"),
        (0.1234567, "0.1234567"),
        (0.12345671, "0.12345671"),
        (1234567.0, "1234567.0"),
        (1 / 3, "0.3333333333333333"),
    ],
)
def test_numbers_in_the_fewest_digits(value: float, text: str) -> None:
    assert shortest(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_told_apart(value: float) -> None:
    assert float(shortest(value)) == value
