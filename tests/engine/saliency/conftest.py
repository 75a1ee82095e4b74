"""A small ViT, its twin in numpy for the golden tests of token methods, and a small CNN."""

import pytest
from torch import Tensor

from nullspace_cli.engine.models.model import Model
from tests.engine.saliency.literal_lrp import LiteralViT
from tests.engine.saliency.tiny import images_for, load, tiny


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny("plain", embed_dim=12)


@pytest.fixture(scope="module")
def images(model: Model) -> Tensor:
    return images_for(model, 2)


@pytest.fixture(scope="module")
def literal(model: Model) -> LiteralViT:
    return LiteralViT.of(model.module.state_dict())


@pytest.fixture(scope="module")
def cnn() -> Model:
    return load("resnet10t", channels=(16, 32, 64, 128), stem_width=16, num_classes=10)
