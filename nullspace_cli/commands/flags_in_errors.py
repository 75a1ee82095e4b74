"""What the engine says, in the words of the command line: parameters as flags."""

import re

_PARAMETER = re.compile(r"`(\w+)(?:=([^`]*))?`")
_FLAGS = {"overwrite": "force", "timm_kwargs": "model-kwargs", "site": "level", "p": "norm", "memory": "cache-limit"}
"""Options that the library knows by another name."""
_KNOWN = (
    *("amp", "batch_size", "bounded", "channels", "checkpoint", "checkpoint_key", "column", "compile", "data"),
    *("device", "font", "level", "lr", "pairs", "per_channel", "pretrained", "reveal"),
    *("reading", "realise", "resume", "rtol", "size", "skip_existing", "strength", "workers", *_FLAGS),
)
_KEYWORDS = ("depth", "img_size", "in_chans", "num_classes", "patch_size")
"""Parameters of timm's that the library takes as its own."""


def in_flags(text: str) -> str:
    """`overwrite=True` as --force, `size="model"` as --size model, `num_classes=7` as --model-kwargs num_classes=7."""
    return _PARAMETER.sub(_flag, text)


def _flag(match: re.Match[str]) -> str:
    name, value = match.groups()
    if name in _KEYWORDS and value is not None:
        return f"--model-kwargs {name}={value}"
    if name not in _KNOWN:
        return match[0]
    flag = _FLAGS.get(name, name).replace("_", "-")
    if name == "bounded" and value == "False":
        return "--unbounded"
    if value in ("True", "False"):
        return f"--{flag}" if value == "True" else f"--no-{flag}"
    return f"--{flag}" if value is None else f"--{flag} {value.strip(chr(34))}"
