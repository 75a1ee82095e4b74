"""How models of timm's look at images, remembered from run to run.

A view is found once, by building the model without memory, and kept under the versions of timm and vitnull, the name
and the arguments. A configuration alone would not do: 3 of timm 1.0.31's 3197 names are built for another size than it
says, and 2 are called something else.
"""

import json
import sys
from dataclasses import asdict

from nullspace_cli.engine.documents.base import Document
from nullspace_cli.engine.documents.shared import DataConfig
from nullspace_cli.engine.models.model import ModelView
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.models.timm_names import is_timms_own
from nullspace_cli.engine.models.user_cache import keep, recalled, versions
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

FILE = "views.json"
MOST = 2000
"""Views that are kept, the latest."""


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
    known = _known().get(key) if key else None
    return None if known is None else _view(known)


def remember(request: ModelRequest, view: ModelView) -> None:
    """Keep the view of a model for later runs; not of names that somebody has given networks of their own."""
    key = _key(request)
    if key is None or not is_timms_own(request.name):
        return
    known = _known()
    if key in known and _view(known[key]) == view:
        return
    found = {"name": view.name, "data_config": asdict(view.transform), "has_head": view.has_head}
    views = {other: one.model_dump() for other, one in known.items()} | {key: found}
    keep(FILE, KnownViews, {"views": dict(list(views.items())[-MOST:])})


def _known() -> dict[str, KnownView]:
    document = recalled(FILE, KnownViews)
    return {} if document is None else dict(document.views)


def _view(known: KnownView) -> ModelView:
    return ModelView(known.name, EvalTransform.from_data_config(known.data_config.model_dump()), known.has_head)


def _key(request: ModelRequest) -> str | None:
    """What a view hangs on; None where it also hangs on files, or on a timm that is being worked on."""
    installed = versions()
    if installed is None or ":" in request.name:
        return None
    try:
        return json.dumps([*installed, request.name, dict(request.kwargs)], sort_keys=True)
    except (TypeError, ValueError):
        return None
