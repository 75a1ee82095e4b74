"""Documentation that is made from the code is up to date."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_cli_reference_is_current() -> None:
    made = subprocess.run([sys.executable, "docs/make_cli.py"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert made.stdout == (ROOT / "docs/cli.md").read_text(encoding="utf-8"), "run `make docs`"
