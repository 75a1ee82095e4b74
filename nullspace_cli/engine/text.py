"""Text that came from elsewhere, made fit to be shown: names of files and classes, what other libraries say."""

import re

_COMMANDS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1, among them the escapes that move a terminal's cursor, or rename its window
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing, and so hides a file's ending
    "\u2028\u2029]"  # line and paragraph separator
)


def visible(text: str, *, lines: bool = False) -> str:
    """The text with all that a terminal would obey, and not show, as escapes: ESC as \\x1b, a new line as \\n.

    Args:
        lines: whether several lines may stay several.
    """

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        if lines and character in "\n\t":
            return character
        return character.encode("unicode_escape").decode("ascii")

    return _COMMANDS.sub(escaped, text)


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters, the middle of a longer one left out."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 1]}…{text[-end:]}"


def shortest(value: float) -> str:
    """A number in the fewest digits that tell it apart from every other, as 0.5, 1 and 0.1234567."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)
