"""The config.json of a folder with a model, as far as it decides what is built and how images are read."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from nullspace_cli.engine.documents.base import Document, Natural
from nullspace_cli.engine.documents.shared import MAX_MEAN, MAX_STD

MAX_SIZE = 2**20
"""Nothing that is counted in a model (pixels of a side, layers, classes, channels) is more than a million."""

Counted = Annotated[int, Field(ge=0, le=MAX_SIZE)]
Dimension = Annotated[int, Field(ge=1, le=MAX_SIZE)]
Size = Annotated[list[Dimension], Field(min_length=3, max_length=3)]
Mean = Annotated[float, Field(ge=-MAX_MEAN, le=MAX_MEAN)]
Std = Annotated[float, Field(ge=1 / MAX_STD, le=MAX_STD)]
Layers = str | list[str] | None


class PretrainedConfig(Document):
    """timm's pretrained_cfg; null stands for timm's default."""

    input_size: Size | None = None
    test_input_size: Size | None = None
    min_input_size: Size | None = None
    fixed_input_size: bool | None = None
    interpolation: str | None = None
    crop_pct: Annotated[float, Field(gt=0, le=MAX_SIZE)] | None = None
    crop_mode: str | None = None
    mean: Annotated[list[Mean], Field(min_length=1)] | None = None
    std: Annotated[list[Std], Field(min_length=1)] | None = None
    num_classes: Counted | None = None
    label_offset: Counted | None = None
    label_names: list[str] | None = None
    label_descriptions: dict[str, str] | list[str] | None = None
    first_conv: Layers = None
    classifier: Layers = None
    tag: str | None = None


class ModelFolder(PretrainedConfig):
    """config.json as timm writes it for the hub; older ones hold the keys of `pretrained_cfg` themselves."""

    architecture: Annotated[str, Field(min_length=1, max_length=200)]
    num_features: Natural | None = None
    global_pool: str | None = None
    model_args: dict[str, Any] | None = None
    pretrained_cfg: PretrainedConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        configs: list[PretrainedConfig] = [self, *([self.pretrained_cfg] if self.pretrained_cfg else [])]
        for config in configs:
            channels = config.input_size[0] if config.input_size else None
            for name in ("mean", "std"):
                values = getattr(config, name)
                if values is not None and channels is not None and len(values) not in (1, channels):
                    raise ValueError(f"{name} has {len(values)} numbers; expected one for each of {channels} channels")
        return self
