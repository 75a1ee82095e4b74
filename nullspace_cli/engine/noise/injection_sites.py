"""Where noise enters a network (paper, section 4): on the image, or on the patch embeddings behind its first layer.

Both are used alike: `read` what enters there, add a noise to it, and ask for the `answer`.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.model import Model, Outputs
from nullspace_cli.engine.runtime.module_copies import rewired, standing_in

Level = Literal["encoder", "input"]


@runtime_checkable
class InjectionSite(Protocol):
    """One place where noise can be added.

    Attributes:
        shape: of what enters there for one image: (m, d) at encoder level, (c, h, w) at input level.
    """

    level: Level
    shape: tuple[int, ...]

    def read(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b *shape"]:
        """What enters for normalised images, as float32 on the model's device."""
        ...

    def answer(self, values: Float[Tensor, "b *shape"]) -> Outputs:
        """What the network says of it, with gradients where the caller wants them."""
        ...

    def on(self, model: Model) -> "InjectionSite":
        """The same entry of a copy of the model."""
        ...


def injection_site(model: Model, level: Level) -> InjectionSite:
    """The entry of a model at a level.

    Raises:
        ModelError: encoder level was asked for and the model has no patch tokens.
    """
    return InputSite(model) if level == "input" else EncoderSite(model)


class InputSite:
    """f_omega: noise [c, h, w] on the normalised image. Every model has this entry."""

    level: Level = "input"

    def __init__(self, model: Model) -> None:
        self._model = model
        self.shape: tuple[int, ...] = model.transform.input_size

    def read(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return images.to(self._model.device, torch.float32)

    def answer(self, values: Float[Tensor, "b c h w"]) -> Outputs:
        # Convolutions take up to 13% less time over this layout on a CPU, and transformers no more.
        return self._model.forward(values.contiguous(memory_format=torch.channels_last))

    def on(self, model: Model) -> "InputSite":
        return InputSite(model)


class EncoderSite:
    """f_phi: noise [m, d] on the patch embeddings, before class token and position embedding are added.

    The network is run as it is, but for a layer that stands in for its patch embedding: registers, distillation tokens,
    rotary embeddings and whatever else follows are the model's own business.
    """

    level: Level = "encoder"

    def __init__(self, model: Model) -> None:
        self._model = model
        self._layer = _patch_layer(model)
        with torch.no_grad():
            probe = self._output(torch.zeros(1, *model.transform.input_size))
        self._layout = _Layout(probe, self._layer)
        self.shape: tuple[int, ...] = tuple(self._layout.tokens(probe).shape[1:])

    def read(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m d"]:
        return self._layout.tokens(self._output(images)).float()

    def answer(self, values: Float[Tensor, "b m d"]) -> Outputs:
        blank = torch.zeros((), device=self._model.device).expand(len(values), *self._model.transform.input_size)
        # A copy: what follows may write into what it is given, as NaFlexViT does.
        return self._forward(blank, lambda *_, **__: self._layout.output(values.clone()))

    def on(self, model: Model) -> "EncoderSite":
        name = next(name for name, layer in self._model.module.named_modules() if layer is self._layer)
        other = copy.copy(self)
        other._model, other._layer = model, model.module.get_submodule(name)
        return other

    def _output(self, images: Tensor) -> Any:
        """What the patch embedding makes of images; the rest of the network is not run."""

        def stop(*args: Any, **kwargs: Any) -> Any:
            raise _Reached(self._layer(*args, **kwargs))

        try:
            self._forward(images, stop)
        except _Reached as reached:
            return reached.output
        raise ModelError(f"{self._model.name} does not run its patch embedding; use input level.")

    def _forward(self, images: Tensor, instead: Callable[..., Any]) -> Outputs:
        """Run the network with `instead` in the place of its patch embedding."""
        stand_ins = {self._layer: standing_in(self._layer, instead)}
        return replace(self._model, module=rewired(self._model.module, stand_ins)).forward(images)


class _Reached(Exception):  # noqa: N818 - not an error
    """Carries a layer's output out of a forward pass."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class _Layout:
    """How a patch embedding hands on its tokens: [b, m, d], NHWC or NCHW, alone or first in a tuple."""

    def __init__(self, probe: Any, layer: nn.Module) -> None:
        self._rest: tuple[Any, ...] | None = tuple(probe[1:]) if isinstance(probe, tuple) else None
        tensor = _first(probe)
        self._grid = tuple(tensor.shape[1:]) if tensor.ndim == 4 else None
        self._channels_first = tensor.ndim == 4 and _channels_first(tensor, layer)

    def tokens(self, output: Any) -> Float[Tensor, "b m d"]:
        tensor = _first(output)
        if self._grid is None:
            return tensor
        return tensor.flatten(2).mT if self._channels_first else tensor.flatten(1, 2)

    def output(self, tokens: Float[Tensor, "b m d"]) -> Any:
        if self._grid is not None:
            tokens = (tokens.mT if self._channels_first else tokens).reshape(len(tokens), *self._grid)
        return tokens if self._rest is None else (tokens, *self._rest)


def _first(output: Any) -> Tensor:
    tensor = output[0] if isinstance(output, tuple) else output
    if not isinstance(tensor, Tensor) or tensor.ndim not in (3, 4):
        raise ModelError("The model's patch embedding gives no patch tokens [b, m, d]; use input level.")
    return tensor


def _channels_first(tensor: Tensor, layer: nn.Module) -> bool:
    """Whether a map of four dimensions is NCHW: its channels are those of the last layer that makes channels."""
    if isinstance(layer, nn.Conv2d):
        return True
    made = [part for part in layer.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    width = made[-1].weight.shape[0] if made else None
    return tensor.shape[-1] != width and tensor.shape[1] == width


def _patch_layer(model: Model) -> nn.Module:
    """timm's `patch_embed`, or else the one linear layer of disjoint patches that reads the image."""
    layer = getattr(model.module, "patch_embed", None)
    if isinstance(layer, nn.Module) and not isinstance(layer, nn.ModuleList):
        return layer
    stem = model.stem()
    layer = None if stem.weight is None else model.module.get_submodule(stem.names[0])
    # The output of a layer that is a whole patch map has the embedding's width; others are parts of such a map.
    if layer is None or stem.weight is None or len(layer.get_parameter("weight")) != len(stem.weight):
        raise ModelError(
            f"{model.name} has no patch tokens that noise could be added to: it reads the image by "
            f"{'; '.join(stem.layers)}.",
            hint='Use noise at input level (`site="input"`).',
        )
    return layer
