"""How models of timm's look at images, remembered from run to run: importing timm takes longer than most commands.

A view is found once, by building the model without memory, and kept in the user's cache under the versions of timm and
vitnull, the name and the arguments. A cache that cannot be read or written is done without.
"""

import json
import os
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nullspace_cli import __version__
from nullspace_cli.engine.documents.base import Document, read_json
from nullspace_cli.engine.documents.shared import DataConfig
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.files.writing import write_bytes
from nullspace_cli.engine.models.model import ModelView
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

MOST = 2000
"""Views that are kept: more than timm has names."""


class KnownView(Document):
    """What is remembered of one model."""

    name: str
    data_config: DataConfig
    has_head: bool


class KnownViews(Document):
    """The file: views by `_key`."""

    views: dict[str, KnownView]


def recall(request: ModelRequest) -> ModelView | None:
    """The view of a model, where it has been found before; None once timm is imported, which then knows best."""
    key = None if "timm" in sys.modules else _key(request)
    known = _read().get(key) if key else None
    return None if known is None else _view(known)


def remember(request: ModelRequest, view: ModelView) -> None:
    """Keep the view of a model for later runs; not of names that somebody has given networks of their own."""
    import timm

    key = _key(request)
    if key is None or not timm.model_entrypoint(request.name).__module__.startswith("timm.models."):
        return
    known = _read()
    if key in known and _view(known[key]) == view:
        return
    found = {"name": view.name, "data_config": asdict(view.transform), "has_head": view.has_head}
    views = {other: one.model_dump() for other, one in known.items()} | {key: found}
    try:
        text = KnownViews.checked({"views": dict(list(views.items())[-MOST:])}, indent=2)
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_bytes(_file(), text.encode(), force=True)
    except (OSError, VitnullError):
        pass


def _view(known: KnownView) -> ModelView:
    return ModelView(known.name, EvalTransform.from_data_config(known.data_config.model_dump()), known.has_head)


def _key(request: ModelRequest) -> str | None:
    """What a view hangs on; None where it also hangs on files, or on a timm that is being worked on."""
    try:
        timm = version("timm")
        key = json.dumps([timm, __version__, request.name, dict(request.kwargs)], sort_keys=True)
    except (PackageNotFoundError, TypeError, ValueError):
        return None
    return None if ":" in request.name or "dev" in timm else key


def _read() -> dict[str, KnownView]:
    path = _file()
    try:
        if not path.is_file():
            return {}
        document: Any = read_json(path, "the views of models")
        return dict(KnownViews.read(document, f"{path}").views)
    except (OSError, VitnullError):
        return {}


def _file() -> Path:
    place = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - which fails where there is no home
    return Path(place, "vitnull", "views.json")
