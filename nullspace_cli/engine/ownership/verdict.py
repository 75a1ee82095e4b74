"""What is said of a suspect."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["derived", "not shown", "says nothing"]
DEFAULT_LEVEL = 0.01
"""Largest p-value that is called derived."""


@dataclass(frozen=True)
class Finding:
    """A verdict, and why."""

    verdict: Verdict
    reason: str
