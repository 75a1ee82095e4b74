"""Nothing that a terminal would obey reaches it: neither by a file's name, nor by an argument, a label or a library."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.options import OutputOptions
from tests.conftest import Outcome, Vitnull

EVIL = "\x1b]0;pwned\x07\x1b[31m\x9b1A\u202egnp.\nvitnull: error: no\r"
SHOWN = r"\x1b]0;pwned\x07\x1b[31m\x9b1A\u202egnp.\nvitnull: error: no\r"


def harmless(outcome: Outcome) -> str:
    """All that was shown, which is seen to hold lines and nothing else that is not printed."""
    text = outcome.stdout + outcome.stderr
    assert set(text) & set("\x1b\x07\x9b\u202e\r") == set()
    assert "\nvitnull: error: no" not in text
    return text


@pytest.mark.parametrize(
    "command",
    [
        ("basis", EVIL),
        ("basis", "demo", "--device", EVIL),
        ("basis", "demo", "--rtol", EVIL),
        ("basis", "demo", "--space", EVIL),
        ("basis", "demo", "--out", f"no/{EVIL}"),
        ("basis", "demo", "--out", f"{EVIL}/"),
        ("basis", "demo", "--out", f"{EVIL}.png"),
        ("basis", "demo", "--checkpoint", EVIL),
        ("basis", "demo", "--model-kwargs", EVIL),
        ("basis", "demo", "--model-kwargs", f"{EVIL}=1"),
        ("basis", f"local-dir:{EVIL}"),
        ("basis", "demo", "--no-pretrained", f"--{EVIL}"),
        ("basis", "demo", EVIL),
        (EVIL,),
        (f"--{EVIL}",),
        ("learn-noise", "demo", "--data", EVIL),
        ("eval", "demo", EVIL, "--data", "demo"),
        ("eval", "demo", "x", "--data", "demo", "--controls", EVIL),
        ("eval", "--results", EVIL, "--plot", "x.png"),
        ("watermark", EVIL, EVIL, "--model", "demo"),
        ("watermark", "there.png", "--text", EVIL, "--model", "demo"),
        ("watermark", "--files-from", EVIL, "x.png"),
        ("fool", EVIL, "x.png"),
        ("fool", "x.png", "--sources", EVIL),
        ("fool", "x.png", "y.png", "--strength", EVIL),
        ("explain", EVIL, "--model", "demo"),
        ("explain", "x.png", "--method", EVIL),
        ("explain", "x.png", "--faithfulness", "--plot", EVIL),
    ],
    ids=lambda command: " ".join(command).replace(EVIL, "EVIL"),
)
def test_arguments(run: Vitnull, command: tuple[str, ...]) -> None:
    Image.new("RGB", (300, 300)).save("there.png")
    outcome = run(*command)
    assert outcome.exit_code in (1, 2)
    assert r"\x1b" in harmless(outcome)


def test_names_of_images_and_results(vitnull: Vitnull, tiny_vit: tuple[str, ...], photo: Path, logo: Path) -> None:
    Path("in").mkdir()
    name = EVIL.replace("/", "")
    for i in range(2):
        shutil.copy(photo, f"in/{i}{name}.png")
    Path(f"in/{name}.png").write_text("no picture")
    quick = ("--nullspace", "resize", "--no-verify", "--scale", "0.2", "--model", *tiny_vit)
    for options in ((), ("--json",), ("--jsonl",), ("--verbose",)):
        outcome = vitnull("watermark", "in", logo, *quick, "--force", *options, expect=4)
        text = harmless(outcome)
        assert SHOWN in text
        if options == ("--json",):
            assert outcome.document["images"][0]["source"] == f"in/0{name}.png"
        if options == ("--jsonl",):
            named = {json.loads(line)["source"] for line in outcome.stdout.splitlines()}
            assert named == {f"in/{number}{name}.png" for number in ("0", "1", "")}
    assert SHOWN in harmless(vitnull("watermark", f"in/0{name}.png", logo, *quick, "--force"))
    assert SHOWN in harmless(vitnull("explain", "in", "--method", "gradient", "--model", *tiny_vit, expect=4))


def test_debug_shows_lines(vitnull: Vitnull) -> None:
    outcome = vitnull("basis", EVIL, "--debug", expect=1)
    assert len(outcome.stderr.splitlines()) > 5
    assert set(outcome.stderr) & set("\x1b\x07\x9b\u202e\r") == set()


def test_tables_stay_tables(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(OutputOptions())
    console.table([("name", "c\td"), ("x", EVIL)])
    console.grid(["head\n"], [["a\nb"], [EVIL]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0] == r"name  c\td"
    assert lines[1] == f"x     {SHOWN}"
    assert lines[2].rstrip() == r"head\n"
