"""Models: timm's by their names, and any `torch.nn.Module`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nullspace_cli.engine.documents.shared import Interpolation
from nullspace_cli.engine.errors import ModelError, UsageError, first_line, is_out_of_memory
from nullspace_cli.engine.files.hashes import hash_state
from nullspace_cli.engine.models.checkpoints import require_finite
from nullspace_cli.engine.models.loading import load_model as _load
from nullspace_cli.engine.models.model import AMP_TYPES, IMAGES, Amp, Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.runtime.autograd import ordinary
from nullspace_cli.engine.runtime.module_copies import copied
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.library.arguments import require_choice, require_count, wrong


def load_model(
    name: str,
    *,
    checkpoint: Path | str | None = None,
    checkpoint_key: str | None = None,
    pretrained: bool = True,
    device: str | torch.device = "auto",
    batch_size: int | None = None,
    amp: Amp = "none",
    seed: int = 0,
    offline: bool = False,
    **timm_kwargs: Any,
) -> Model:
    """A timm model with its weights, in evaluation mode on its device.

    Args:
        name: a timm name with or without tag, "hf-hub:org/name", "local-dir:path", "demo" or "demo-cnn".
        checkpoint: a weights file (safetensors, pth, pt, ckpt, bin, npz, or the index of several) in place of the
            published weights. Wherever a training run has put them in it, they are found by their names and shapes.
        checkpoint_key: the dictionary of the checkpoint, or the prefix of its names, to take them from: "teacher".
        pretrained: False for random weights, drawn from `seed`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch_size: images in one forward pass, fewer where memory is short; None for 32, or on a card for as many as
            its memory has room for.
        amp: precision of forward passes that need not be exact.
        offline: take cached weights only.
        timm_kwargs: further arguments of `timm.create_model`, such as `img_size=224`.

    Raises:
        ModelError: the name is unknown, or the weights could not be had or do not fit.
        UsageError: a setting makes no sense.
    """
    if not isinstance(name, str):
        raise wrong("name", name, "a model's name; for a network of your own there is wrap")
    require_choice("amp", amp, ("none", *AMP_TYPES))
    if batch_size is not None:
        require_count("batch_size", batch_size)
    if checkpoint_key is not None and not isinstance(checkpoint_key, str):
        raise wrong("checkpoint_key", checkpoint_key, "a text, or None")
    path, place = None if checkpoint is None else Path(checkpoint), str(device)
    request = ModelRequest(
        name, path, pretrained, timm_kwargs, place, amp, batch_size, offline, seed, checkpoint_key=checkpoint_key
    )
    return _load(request)


def wrap(
    module: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: tuple[int, int, int],
    crop_pct: float = 1.0,
    interpolation: Interpolation = "bicubic",
    classes: Sequence[str] | int | None = None,
    batch_size: int | None = None,
    name: str | None = None,
) -> Model:
    """Any network as a model, where its parameters are.

    The module itself is neither switched nor hooked: what is run is a copy in evaluation mode that shares its weights.

    Args:
        module: takes normalised images [b, c, h, w] and gives logits or features [b, k]; or a tuple that begins with
            them, or an object or dictionary that has them as `logits`.
        mean, std: of its normalisation (x - mean) / std, one number a channel, in [0, 1] pixel units.
        input_size: (channels, height, width).
        crop_pct, interpolation: how its images are resized, by timm's names.
        classes: their names, or how many there are. None: the answer is logits if the network's last layer that gives
            them is linear, and features if not.
        batch_size: as of `load_model`.
        name: what messages and files call it; by default its class.

    Raises:
        ModelError: the weights are not finite, not float32 or on several devices, the module does not take an image
            of that size, or it gives another number of classes.
        UsageError: a setting makes no sense.
    """
    if not isinstance(module, nn.Module):
        raise wrong("module", module, "a torch.nn.Module; for the name of a model there is load_model")
    if batch_size is not None:
        require_count("batch_size", batch_size)
    called = name or type(module).__name__
    try:
        size: Any = tuple(input_size)
        means, stds = tuple(map(float, mean)), tuple(map(float, std))
    except (TypeError, ValueError) as error:
        raise UsageError(f"mean, std or input_size is no sequence of numbers: {first_line(error)}.") from error
    transform = EvalTransform(size, means, stds, interpolation, crop_pct)
    state = module.state_dict()
    if not state or next(module.parameters(), None) is None:
        raise ModelError(f"{called} has no weights.")
    other = sorted({str(value.dtype) for value in state.values() if value.is_floating_point()} - {"torch.float32"})
    if other:
        raise ModelError(f"{called} has weights of {other[0]}; expected torch.float32. Give `module.float()`.")
    devices = {value.device for value in module.parameters()}
    if len(devices) > 1:
        raise ModelError(f"{called} lies on several devices: {', '.join(sorted(map(str, devices)))}. Move it to one.")
    require_finite(state, called)
    device = devices.pop()
    copy = copied(module, lambda tensor: ordinary(tensor.detach()), requires_grad=False).eval()
    probe = torch.zeros(1, *transform.input_size, device=device)
    with torch.no_grad():
        answer, head = _asked(copy, probe, called)
    labels, count = _classes(classes)
    if count is not None and count != answer.shape[1]:
        raise ModelError(f"{called} gives {answer.shape[1]} numbers an image, and {count} classes were named.")
    number = answer.shape[1] if count is not None or head is not None else 0
    return Model(
        module=copy if _is_timms(copy, number) else _Wrapped(copy, number, head),
        name=called,
        weights="given",
        weights_sha256=hash_state(state),
        transform=transform,
        device=device,
        amp="none",
        batch_size=batch_size or IMAGES,
        seed=0,
        labels=labels,
        by_memory=batch_size is None,
    )


def _classes(classes: Sequence[str] | int | None) -> tuple[tuple[str, ...] | None, int | None]:
    """Their names, where they are known, and how many there are, where somebody said so."""
    if classes is None:
        return None, None
    if isinstance(classes, int):
        return None, classes
    labels = () if isinstance(classes, str) else tuple(classes)
    if not labels or not all(isinstance(label, str) for label in labels):
        raise wrong("classes", classes, "their names, one text each, or how many there are")
    return labels, len(labels)


def _is_timms(module: nn.Module, num_classes: int) -> bool:
    """Whether a network can be asked as timm's are: then all that explains by tokens or features is there for it."""
    parts = ("get_classifier", "forward_features", "forward_head", "num_features")
    return all(hasattr(module, part) for part in parts) and getattr(module, "num_classes", None) == num_classes


class _Wrapped(nn.Module):
    """A network that answers as timm's do, and says how many classes there are and which layer tells them apart."""

    def __init__(self, module: nn.Module, num_classes: int, head: nn.Module | None) -> None:
        super().__init__()
        self.module, self.num_classes = module, num_classes
        self.answered = _Answered()  # the head of a network whose last layer is none
        self._head = [head]  # in a list, so that it is no second part of this one
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        answer = _answer_of(self.module(images))
        return answer if self._head[0] is not None else self.answered(answer)

    def get_classifier(self) -> nn.Module:
        return self._head[0] or self.answered


class _Answered(nn.Module):
    """Hands on what it is given."""

    def forward(self, answer: Tensor) -> Tensor:
        return answer


def _asked(module: nn.Module, probe: Tensor, name: str) -> tuple[Tensor, nn.Module | None]:
    """What a network answers, and the linear layer that gives it, if the last is one."""
    outputs: dict[nn.Module, Tensor] = {}

    def seen(layer: nn.Module) -> Callable[..., None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            outputs[layer] = output

        return note

    hooks = [part.register_forward_hook(seen(part)) for part in module.modules() if isinstance(part, nn.Linear)]
    try:
        answer = _answer_of(module(probe))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        size = " x ".join(map(str, probe.shape[1:]))
        raise ModelError(f"{name} does not take an image of {size}: {first_line(error)}. See input_size.") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != 1:
        given = f"shape {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise ModelError(f"{name} answers one image with {given}; expected logits or features [1, k].")
    return answer, next((layer for layer, output in outputs.items() if output is answer), None)


def _answer_of(output: Any) -> Any:
    """Logits, however they are wrapped."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list) and output:
        return output[0]
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    return output if logits is None else logits
