"""One of many images that could not be done."""

from pathlib import Path
from typing import NamedTuple

from nullspace_cli.engine.errors import VitnullError


class Failed(NamedTuple):
    """Its file, and why."""

    source: Path
    error: VitnullError
