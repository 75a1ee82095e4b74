"""timm's data configuration of a model, and the evaluation transform that it describes."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from nullspace_cli.engine.documents.shared import DataConfig
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.transforms.eval_transform import EvalTransform


def data_config_of(module: nn.Module, name: str) -> dict[str, Any]:
    """timm's data configuration, with the input size of the model as it was built, not as it was once trained.

    Raises:
        ModelError: a value in it is not of the type that it should be.
    """
    import timm
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(module)
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    DataConfig.read(lists, f"The data config of {name}", ModelError)
    embedding, first = _patch_embedding(module), _first_convolution(module)
    channels = getattr(module, "in_chans", getattr(first, "in_channels", config["input_size"][0]))
    built = getattr(embedding, "img_size", None) or (getattr(module, "_traits", None) or {}).get("img_size")
    size = built or config["input_size"][1:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    config["input_size"] = (int(channels), *size)
    for key in ("mean", "std"):
        values = tuple(config[key])
        if len(values) != channels:  # those of pictures in colour, which no loader of timm's could take
            config[key] = (sum(values) / len(values),) if channels == 1 else (values * channels)[:channels]
    height, width = (math.floor(side / config["crop_pct"]) for side in config["input_size"][1:])
    if config["crop_mode"] == "center" and height != width and version_of(timm.__version__) < (1, 0, 31):
        config["interpolation"] = "bilinear"  # that timm resizes so, whatever it is told
    return config


def version_of(text: str) -> tuple[int, ...]:
    """The three numbers that a version starts with."""
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


def _patch_embedding(module: nn.Module) -> nn.Module | None:
    """What cuts the image into patches, where there is such a layer: older timm leaves the size to it alone."""
    named, first = dict(module.named_modules()), _name_of_first_convolution(module)
    places = ["patch_embed", *([first.rpartition(".")[0]] if first else [])]
    return next((named[place] for place in places if hasattr(named.get(place), "img_size")), None)


def _first_convolution(module: nn.Module) -> nn.Module | None:
    """What reads the image in a patch embedding: older timm leaves the number of channels to it alone.

    In a hybrid it is not the projection. Elsewhere what timm names may read a rearranged image, as TResNet's does.
    """
    first = _name_of_first_convolution(module) or ""
    place = first if first.startswith("patch_embed.") else "patch_embed.proj"
    return dict(module.named_modules()).get(place)


def _name_of_first_convolution(module: nn.Module) -> str | None:
    name = (getattr(module, "pretrained_cfg", None) or {}).get("first_conv")
    return name if isinstance(name, str) else None


def transform_of(config: Mapping[str, Any], name: str) -> EvalTransform:
    """The evaluation transform of a model's data configuration; what is wrong with that names the model."""
    try:
        return EvalTransform.from_data_config(config)
    except ModelError as error:
        raise ModelError(f"{name} cannot read images. {error}") from error
