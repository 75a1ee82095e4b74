"""timm's names of models, in some hundredths of a second: importing timm itself takes longer than a shell may wait."""

import re
from importlib.util import find_spec
from pathlib import Path

from nullspace_cli.demo.models import DEMO_MODELS

_REGISTERED = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)


def known_names() -> list[str]:
    """The embedded models, then timm's as its source registers them, without tags; whatever of it can be read."""
    found = find_spec("timm")
    places = (found and found.submodule_search_locations) or ()
    files = [file for place in places for file in Path(place, "models").glob("*.py")]
    names = {name for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8"))}
    return [*DEMO_MODELS, *sorted(names)]
