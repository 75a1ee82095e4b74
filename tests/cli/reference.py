"""Models that were built without this package, and timm's own transform for them, to hold the commands against."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from nullspace_cli.demo.models import DEMO_MODELS, WEIGHTS

Array = NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """A model that was built without this package, and timm's own transform for it."""

    arguments: tuple[str, ...]
    module: nn.Module
    config: dict[str, Any]

    @property
    def size(self) -> int:
        return int(self.config["input_size"][1])

    @property
    def kernel(self) -> Tensor:
        return self.module.get_parameter("patch_embed.proj.weight").detach().double()

    def input(self, path: Path | str) -> Tensor:
        with Image.open(path) as image:
            batch: Tensor = create_transform(**self.config)(image.convert("RGB"))[None]
        return batch

    def visible(self, path: Path | str) -> Array:
        """What the model sees of an image, in [0, 1]: [3, size, size]."""
        mean, std = (np.array(self.config[name])[:, None, None] for name in ("mean", "std"))
        return np.asarray(self.input(path)[0].double().numpy() * std + mean)

    def embeddings(self, path: Path | str) -> Tensor:
        """The patch embeddings, without their bias."""
        return F.conv2d(self.input(path).double(), self.kernel, stride=self.kernel.shape[-1])

    def logits(self, path: Path | str) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self.module(self.input(path))[0]
        return logits

    def answer(self, path: Path | str) -> tuple[int, float]:
        probabilities = self.logits(path).double().softmax(0)
        return int(probabilities.argmax()), float(probabilities.max())


def random_vit(arguments: tuple[str, ...]) -> Reference:
    """The model that the fixture `tiny_vit` has the command build."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model("deit_tiny_patch16_224", depth=1, img_size=64).eval()
    return Reference(arguments, module, resolve_data_config({"input_size": (3, 64, 64)}, model=module))


def embedded(name: str) -> Reference:
    model = DEMO_MODELS[name]
    module = timm.create_model(model.architecture, **model.model_kwargs).eval()
    module.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS / model.weights).items()})
    return Reference((name,), module, model.data_config)


def pixels_of(path: Path | str) -> Array:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)
