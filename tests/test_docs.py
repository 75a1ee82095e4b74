"""Documentation that is made from the code is up to date."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_cli_reference_is_current() -> None:
    made = subprocess.run([sys.executable, "docs/make_cli.py"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert made.stdout == (ROOT / "docs/cli.md").read_text(encoding="utf-8"), "run `make docs`"


def test_schemas_are_current() -> None:
    made = subprocess.run([sys.executable, "docs/make_schemas.py", "--check"], cwd=ROOT, check=False)
    assert made.returncode == 0, "run `make docs`"


def test_every_schema_is_listed() -> None:
    text = (ROOT / "docs/documents.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs/schemas").iterdir() if f"schemas/{path.name}" not in text] == []
