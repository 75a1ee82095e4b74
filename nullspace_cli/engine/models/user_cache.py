"""What is remembered of timm from run to run: importing it takes longer than most commands.

It lies in the user's cache, one file for each kind. What cannot be read or written is done without.
"""

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from nullspace_cli import __version__
from nullspace_cli.engine.documents.base import Document, read_json
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.files.writing import write_bytes

D = TypeVar("D", bound=Document)


def versions() -> list[str] | None:
    """Those of timm and vitnull, on which everything hangs that is remembered; None of a timm that is worked on."""
    try:
        timm = version("timm")
    except PackageNotFoundError:
        return None
    return None if "dev" in timm else [timm, __version__]


def recalled(name: str, kind: type[D]) -> D | None:
    """What has been kept under a file's name."""
    path = _place() / name
    try:
        return kind.read(read_json(path, "what vitnull remembers"), f"{path}") if path.is_file() else None
    except (OSError, VitnullError):
        return None


def keep(name: str, kind: type[Document], content: Mapping[str, Any]) -> None:
    """Keep it under a file's name, in place of what was there.

    Raises:
        ValueError: it is not of that kind, which is a bug.
    """
    text = kind.checked(content, indent=2)
    try:
        _place().mkdir(parents=True, exist_ok=True)
        write_bytes(_place() / name, text.encode(), force=True)
    except (OSError, VitnullError):
        pass


def _place() -> Path:
    place = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - which fails where there is no home
    return Path(place, "vitnull")
