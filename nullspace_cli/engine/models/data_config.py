"""timm's data configuration of a model, and the evaluation transform that it describes."""

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
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(module)
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    DataConfig.read(lists, f"The data config of {name}", ModelError)
    channels = getattr(module, "in_chans", config["input_size"][0])
    built = getattr(getattr(module, "patch_embed", None), "img_size", None)
    built = built or (getattr(module, "_traits", None) or {}).get("img_size")
    size = built or config["input_size"][1:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    config["input_size"] = (int(channels), *size)
    for key in ("mean", "std"):
        values = tuple(config[key])
        if len(values) != channels:  # those of pictures in colour, which no loader of timm's could take
            config[key] = (sum(values) / len(values),) if channels == 1 else (values * channels)[:channels]
    return config


def transform_of(config: Mapping[str, Any], name: str) -> EvalTransform:
    """The evaluation transform of a model's data configuration; what is wrong with that names the model."""
    try:
        return EvalTransform.from_data_config(config)
    except ModelError as error:
        raise ModelError(f"{name} cannot read images. {error}") from error
