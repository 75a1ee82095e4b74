"""Why torch refuses to unpickle a weights file: which class it would have to run, and how its owner saves it safely."""

import pickle
import pickletools
import re
import zipfile
from pathlib import Path

import torch

from nullspace_cli.engine.errors import ModelError

_NAMED = re.compile(r"(?:GLOBAL|Unsupported class|disallowed function) ([\w.]+)")
HOLDERS = ("state_dict", "model_state_dict", "model", "module", "net", "teacher", "student", "weights", "params")
"""Under what training runs keep a network's weights, for the advice alone."""


def refusal(path: Path, error: Exception) -> ModelError | None:
    """What to say of a file that only running code would open, if `torch.load` has failed for that."""
    if "TorchScript" in str(error):
        what, saved = "it is a TorchScript program, which would have to be run", "saved.state_dict()"
        loading = f'saved = torch.jit.load("{path.name}", map_location="cpu")'
    elif isinstance(error, pickle.UnpicklingError):
        blocking = _blocking(path, error)
        if not blocking:  # torch's own text would have the user lower the guard
            return ModelError(
                f"{path} is not a readable weights file (it is damaged, or torch.save has not written it). Nothing in "
                f"it was executed."
            )
        what, saved = f"it holds more than tensors, and would have to run {', '.join(blocking)}", _weights_of(path)
        loading = f'saved = torch.load("{path.name}", map_location="cpu", weights_only=False)'
    else:
        return None
    return ModelError(
        f"{path} is not a readable weights file ({what}). Nothing in it was executed.",
        hint=f"If you trust whoever made it, save its weights alone with two lines of Python, the first of which runs "
        f'what the file says: {loading} and torch.save({saved}, "{path.stem}.weights.pth").',
    )


def _blocking(path: Path, error: Exception) -> list[str]:
    """The classes and functions that torch does not know to be harmless."""
    ask = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    try:
        found = ask(str(path)) if ask else []
    except Exception:  # noqa: BLE001 - of whatever kind: the error itself names one
        found = []
    names = found or _NAMED.findall(str(error))
    return [name if len(name) <= 100 else f"{name[:97]}..." for name in dict.fromkeys(names)][:3]


def _weights_of(path: Path) -> str:
    """Where in such a file the weights are, as far as its opcodes tell without being run."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                data = archive.read(name)
        else:
            return 'saved["state_dict"]'
        opcodes = list(pickletools.genops(data))
    except Exception:  # noqa: BLE001 - a damaged pickle, or one that is too large
        return 'saved["state_dict"]'
    first, first_argument = next((c, argument) for c, argument, _ in opcodes if c.name not in ("PROTO", "FRAME"))
    if first.name == "GLOBAL" and "OrderedDict" not in str(first_argument):  # an object, no dictionary: a network
        return "saved.state_dict()"
    words = {argument for code, argument, _ in opcodes if code.name in ("BINUNICODE", "SHORT_BINUNICODE")}
    return f'saved["{next((name for name in HOLDERS if name in words), "state_dict")}"]'
