"""The engine's hints in the words of the command line."""

import re
from pathlib import Path

import pytest

from nullspace_cli.commands.flags_in_errors import in_flags
from nullspace_cli.engine.errors import MemoryShortError, NoNullspaceError, VitnullError
from tests.conftest import Vitnull

ENGINE = Path(__file__).parents[2] / "nullspace_cli" / "engine"


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("Use `overwrite=True` to replace it.", "Use --force to replace it."),
        ("Use `pretrained=False`.", "Use --no-pretrained."),
        ('Use `size="model"`, or `bounded=False`.', "Use --size model, or --unbounded."),
        ("A smaller `batch_size`; see `timm_kwargs`.", "A smaller --batch-size; see --model-kwargs."),
        ("Name it: `data=/a b/c`.", "Name it: --data /a b/c."),
        ("Made by `vitnull eval --out`, of `photo.png`.", "Made by `vitnull eval --out`, of `photo.png`."),
    ],
)
def test_parameters_are_flags(hint: str, expected: str) -> None:
    assert in_flags(hint) == expected


def test_every_parameter_that_the_engine_names_is_a_flag(vitnull: Vitnull) -> None:
    """Whatever stands in backticks in a hint is worded, by an option that there is."""
    commands = ("basis", "learn-noise", "eval", "watermark", "check", "fool", "explain", "demo")
    claims = ("claim commit", "claim probes", "claim check")
    helped = (vitnull(*command.split(), "--help").stdout for command in commands + claims)
    options = set(re.findall(r"--[a-z-]+", " ".join(helped)))
    for path in ENGINE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for hint in re.findall(r"hint=[^\n]*(?:\n\s+f?[\"'][^\n]*)*", source):
            for named in re.findall(r"`\w+(?:=[^`]*)?`", hint):
                worded = in_flags(named)
                assert worded.startswith("--"), (path, named)
                assert worded.split()[0] in options, (path, named, worded)


def test_a_hint_is_told_from_the_message() -> None:
    error = NoNullspaceError("There is none.", {"rank": 3}, hint="Use `per_channel=False`.")
    assert (error.hint, error.report, error.exit_code) == ("Use `per_channel=False`.", {"rank": 3}, 5)
    assert str(error) == "There is none. Use `per_channel=False`."
    assert str(VitnullError("No.")) == "No."
    assert MemoryShortError("a.png", "1 GiB").hint.startswith("Try `workers=1`")
