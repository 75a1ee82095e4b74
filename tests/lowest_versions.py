"""Print what pyproject.toml allows at the lowest, as pip's constraints: `python tests/lowest_versions.py`."""

import re
import sys
import tomllib
from pathlib import Path


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["test"]):
        if not (lowest := re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)):
            sys.exit(f"pyproject.toml: {requirement} does not read name>=version, so it has no lowest version")
        sys.stdout.write("==".join(lowest.groups()) + "\n")


if __name__ == "__main__":
    main()
