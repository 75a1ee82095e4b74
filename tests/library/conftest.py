"""A small network by three roads, and pictures for it."""

from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nullspace_cli import Model, load_model
from nullspace_cli.demo.drawing import draw

SMALL: dict[str, Any] = {"depth": 1, "img_size": 32, "num_classes": 10}


@pytest.fixture(scope="session")
def model() -> Model:
    """A small ViT whose three std differ, and whose transform crops."""
    return load_model("deit_tiny_patch16_224", pretrained=False, device="cpu", seed=3, **SMALL)


@pytest.fixture(scope="session")
def plain(model: Model) -> nn.Module:
    """The same network as timm builds it, with the same weights: nothing of ours."""
    module: nn.Module = timm.create_model("deit_tiny_patch16_224", pretrained=False, **SMALL)
    module.load_state_dict(model.module.state_dict())
    return module.eval()


@pytest.fixture(scope="session")
def mean_std() -> tuple[Tensor, Tensor]:
    """ImageNet's, by which that network's images are normalised."""
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return mean, std


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Drawings [6, 3, 32, 32] in [0, 1]."""
    drawn = [torch.from_numpy(draw("val", i, size=32)[0]) for i in range(6)]
    return torch.stack(drawn).movedim(-1, 1) / 255


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """A drawing, not square, three times as large as what the small network reads."""
    pixels: NDArray[np.uint8] = draw("val", 3, size=110)[0][:96].copy()
    return pixels


def network_input(pixels: NDArray[np.uint8]) -> Tensor:
    """The network's normalised input, by timm's own transform of its data config."""
    transform = timm.data.create_transform(
        input_size=(3, 32, 32),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bicubic",
        crop_pct=0.9,
    )
    return transform(Image.fromarray(pixels))
