"""Which model, with which weights, where."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.models.model import Amp


@dataclass(frozen=True)
class ModelRequest:
    """Which model, with which weights, where.

    Attributes:
        name: a timm name with or without tag, "hf-hub:org/name", "local-dir:path", "demo" or "demo-cnn".
        checkpoint: a weights file (safetensors, pth, ckpt, npz, ...) to load instead of the published weights.
        pretrained: False for random weights, drawn from `seed`.
        kwargs: further arguments of `timm.create_model`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        amp: precision of forward passes under autocast.
        batch_size: images in one forward pass; None for 32, or on a card for as many as its memory has room for.
        offline: use cached weights only.
        checkpoint_key: which of the checkpoint's dictionaries, or behind which prefix; found by fitting if None.
        class_names: a file with the names of the classes, in place of the model's own.
    """

    name: str
    checkpoint: Path | None = None
    pretrained: bool = True
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    amp: Amp = "none"
    batch_size: int | None = None
    offline: bool = False
    seed: int = 0
    checkpoint_key: str | None = None
    class_names: Path | None = None

    def __post_init__(self) -> None:
        if self.checkpoint_key is not None and self.checkpoint is None:
            raise UsageError("`checkpoint_key` chooses within a checkpoint; none is given.", hint="Give `checkpoint`.")
