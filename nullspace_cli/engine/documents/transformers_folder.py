"""What transformers writes beside a vision transformer's weights, as far as it decides what the network computes."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from nullspace_cli.engine.documents.base import Document
from nullspace_cli.engine.documents.model_folder import MAX_SIZE, Counted, Dimension, Mean, Std

Sides = Dimension | Annotated[list[Dimension], Field(min_length=2, max_length=2)]
"""One number for both, or height and width."""


class TransformersModel(Document):
    """config.json as transformers writes it, of whatever type of model."""

    model_type: Annotated[str, Field(min_length=1, max_length=200)]


class TransformersConfig(TransformersModel):
    """config.json of a vision transformer as transformers writes it; null stands for transformers' default."""

    architectures: Annotated[list[str], Field(min_length=1)] | None = None
    problem_type: str | None = None
    id2label: Annotated[dict[str, str], Field(max_length=MAX_SIZE)] | None = None
    num_labels: Counted | None = None
    image_size: Sides | None = None
    patch_size: Sides | None = None
    num_channels: Dimension | None = None
    hidden_size: Dimension | None = None
    num_hidden_layers: Dimension | None = None
    num_attention_heads: Dimension | None = None
    intermediate_size: Dimension | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=MAX_SIZE)] | None = None
    hidden_act: str | None = None
    layer_norm_eps: Annotated[float, Field(ge=0, le=1)] | None = None
    qkv_bias: bool | None = None
    use_swiglu_ffn: bool | None = None
    num_register_tokens: Counted | None = None
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    query_bias: bool | None = None
    key_bias: bool | None = None
    value_bias: bool | None = None
    proj_bias: bool | None = None
    mlp_bias: bool | None = None
    use_gated_mlp: bool | None = None

    @model_validator(mode="after")
    def _numbers_its_classes(self) -> Self:
        if self.id2label is not None and self.id2label.keys() != {str(index) for index in range(len(self.id2label))}:
            raise ValueError(f"id2label does not number its {len(self.id2label)} classes from 0 on")
        return self


class Extent(Document):
    """A size of images, in pixels; which keys there are says how it is meant."""

    height: Dimension | None = None
    width: Dimension | None = None
    shortest_edge: Dimension | None = None
    longest_edge: Dimension | None = None
    max_height: Dimension | None = None
    max_width: Dimension | None = None


class ImageProcessorConfig(Document):
    """preprocessor_config.json as transformers writes it; null stands for the default of that image processor."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool | None = None
    size: Sides | Extent | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None
    do_center_crop: bool | None = None
    crop_size: Sides | Extent | None = None
    do_rescale: bool | None = None
    rescale_factor: Annotated[float, Field(gt=1e-6, lt=1e6)] | None = None
    do_normalize: bool | None = None
    image_mean: Annotated[list[Mean], Field(min_length=1)] | Mean | None = None
    image_std: Annotated[list[Std], Field(min_length=1)] | Std | None = None
    do_pad: bool | None = None
