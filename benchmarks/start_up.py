"""How long `vitnull --help` takes, against the imports that no Typer program with rich can do without."""

import subprocess
import sys

from benchmarks.measure import Row, in_turns


def rows() -> list[Row]:
    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: S603 - our own arguments

    ours, theirs = in_turns(
        lambda: run("-m", "nullspace_cli", "--help"), lambda: run("-c", "import typer, rich"), rounds=9
    )
    return [Row("vitnull --help", ours, 'python -c "import typer, rich"', theirs, "<= 2")]
