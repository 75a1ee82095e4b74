"""timm's names of models."""

import re
from importlib.util import find_spec
from pathlib import Path

from nullspace_cli.demo.models import DEMO_MODELS

_REGISTERED = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)


def known_names() -> list[str]:
    """The embedded models, then timm's as its source registers them, without tags; whatever of it can be read.

    In some hundredths of a second: importing timm takes longer than a shell may wait.
    """
    found = find_spec("timm")
    places = (found and found.submodule_search_locations) or ()
    files = [file for place in places for file in Path(place, "models").glob("*.py")]
    names = {name for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8"))}
    return [*DEMO_MODELS, *sorted(names)]


def is_timms_own(name: str) -> bool:
    """Whether a registered name is that of one of timm's networks, and nobody has put another in its place."""
    import timm

    return timm.model_entrypoint(name).__module__.startswith("timm.models.")
