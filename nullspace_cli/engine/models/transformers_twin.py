"""transformers' vision transformers as timm's: which of timm's networks computes what a config.json says."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nullspace_cli.engine.documents.base import read_json
from nullspace_cli.engine.documents.transformers_folder import (
    ImageProcessorConfig,
    Sides,
    TransformersConfig,
    TransformersModel,
)
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.transformers_images import data_config, read_processor
from nullspace_cli.engine.models.transformers_weights import Layout

logger = logging.getLogger(__name__)

CLASS_AND_MEAN = "token+avg"
"""The `global_pool` of a network that reads its answer from the class token and from the mean of all patches."""
CLOSEST = {
    "aimv2": "aimv2_large_patch14_224",
    "beit": "beit_base_patch16_224",
    "bit": "resnetv2_50x1_bit",
    "clip": "vit_base_patch16_clip_224",
    "clip_vision_model": "vit_base_patch16_clip_224",
    "convnext": "convnext_base",
    "convnextv2": "convnextv2_base",
    "data2vec-vision": "beit_base_patch16_224",
    "dinov3_convnext": "convnext_base.dinov3_lvd1689m",
    "efficientformer": "efficientformer_l1",
    "efficientnet": "efficientnet_b0",
    "focalnet": "focalnet_tiny_srf",
    "hgnet_v2": "hgnetv2_b0",
    "hiera": "hiera_base_224",
    "ijepa": "vit_huge_patch14_gap_224.in22k_ijepa",
    "levit": "levit_256",
    "metaclip_2": "vit_base_patch16_clip_224",
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilevit": "mobilevit_s",
    "mobilevitv2": "mobilevitv2_100",
    "poolformer": "poolformer_s12",
    "pvt_v2": "pvt_v2_b0",
    "regnet": "regnety_040",
    "resnet": "resnet50",
    "siglip": "vit_base_patch16_siglip_224",
    "siglip_vision_model": "vit_base_patch16_siglip_224",
    "siglip2": "vit_base_patch16_siglip_256.v2_webli",
    "siglip2_vision_model": "vit_base_patch16_siglip_256.v2_webli",
    "swiftformer": "swiftformer_xs",
    "swin": "swin_base_patch4_window7_224",
    "swinv2": "swinv2_base_window8_256",
    "vit_mae": "vit_base_patch16_224.mae",
}
"""A model of timm's for types of transformers' that have no twin here."""


class Head(NamedTuple):
    """How an architecture answers.

    Attributes:
        pooling: which tokens its answer is read from; "distilled" is from class and distillation token by a head each.
        classes: whether it answers with logits.
    """

    pooling: str
    classes: bool


FEATURES, LOGITS, BOTH_HEADS, CLASS_AND_MEAN_LOGITS = (
    Head("token", False), Head("token", True), Head("distilled", True), Head(CLASS_AND_MEAN, True),
)  # fmt: skip


class _Network(NamedTuple):
    """A name and arguments for timm, the activation between the layers of an MLP, and where tensors go."""

    architecture: str
    arguments: dict[str, Any]
    activation: str
    layout: Layout


@dataclass(frozen=True)
class Family:
    """A type of transformers' models.

    Attributes:
        build: what timm is asked for.
        heads: the architectures that there is a twin of.
        processor: transformers' image processor of such models.
        defaults: what an absent key of their config.json stands for.
    """

    build: Callable[[TransformersConfig, Head], _Network]
    heads: Mapping[str, Head]
    processor: str
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class Twin:
    """timm's network for a folder of transformers'.

    Attributes:
        architecture: timm's name of one that differs from it by `arguments` alone.
        activation: between the layers of an MLP, by transformers' name.
        pooling: which tokens the answer is read from, by timm's name or `CLASS_AND_MEAN`.
        layout: where its tensors go.
        labels: the names of its classes, where they have any.
    """

    architecture: str
    arguments: dict[str, Any]
    activation: str
    pooling: str
    layout: Layout
    labels: tuple[str, ...] | None

    def finish(self, module: nn.Module) -> None:
        """What no argument of timm's says: the activation, and the head on class token and mean."""
        for block in module.blocks:  # type: ignore[union-attr]
            block.mlp.act = ACTIVATIONS[self.activation]()
        if self.pooling == CLASS_AND_MEAN:
            network: Any = module
            network.global_pool, network.pool_include_prefix = CLASS_AND_MEAN, True
            network.attn_pool = ClassAndMean(network.num_prefix_tokens)
            network.head_hidden_size = 2 * network.embed_dim
            if network.num_classes:
                network.head = nn.Linear(network.head_hidden_size, network.num_classes)


class ClassAndMean(nn.Module):
    """Pools tokens [b, n, d] to [b, 2 d]: the class token, and behind it the mean of all patches."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat((tokens[:, 0], tokens[:, self.prefix :].mean(1)), dim=1)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    **dict.fromkeys(("gelu", "gelu_python"), nn.GELU),
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
        partial(nn.GELU, approximate="tanh"),
    ),
    **dict.fromkeys(("silu", "swish"), nn.SiLU),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
"""By transformers' names; those that approximate GELU by tanh differ by rounding alone."""


def is_transformers(config: Any) -> bool:
    """Whether the content of a config.json is transformers', and of no model that timm can build from it."""
    return isinstance(config, dict) and "model_type" in config and "architecture" not in config


def twin_of(folder: Path) -> Twin:
    """The network of a folder with a config.json of transformers'.

    Raises:
        ModelError: one of its files cannot be read, or timm has no network that computes the same.
    """
    path = folder / "config.json"
    document = read_json(path, "a config.json of transformers", ModelError)
    kind = TransformersModel.read(document, str(path), ModelError).model_type
    family = FAMILIES.get(kind)
    if family is None:
        closest = CLOSEST.get(kind)
        raise ModelError(
            f"{path} is of a transformers {kind!r}; "
            + (f"vitnull reads timm's: {closest}." if closest else "vitnull cannot read it.")
            + f" Of transformers' models it reads {', '.join(FAMILIES)}."
        )
    config = TransformersConfig.read(document, str(path), ModelError)
    given = config.model_dump(exclude_none=True)
    config = config.model_copy(update={key: value for key, value in family.defaults.items() if key not in given})
    head = _head(config, family, path)
    classes, labels = _classes(config, path) if head.classes else (0, None)
    network = family.build(config, head)
    if network.activation not in ACTIVATIONS:
        raise ModelError(
            f"{path}: hidden_act is {network.activation!r}; expected one of {', '.join(sorted(ACTIVATIONS))}."
        )
    images = _images(folder, config, family)
    return Twin(
        architecture=network.architecture,
        arguments={
            "img_size": images["input_size"][1:],
            "num_classes": classes,
            "pretrained_cfg": {
                "num_classes": classes,
                "first_conv": "patch_embed.proj",
                "classifier": ("head", "head_dist") if head.pooling == "distilled" else "head",
                **images,
            },
            **network.arguments,
        },
        activation=network.activation,
        pooling=head.pooling,
        layout=network.layout,
        labels=labels,
    )


def synsets_of(labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The WordNet synsets of labels that are ImageNet's 1000, by whichever of their names, in its order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    known = info.label_descriptions()
    if labels is None or len(labels) != len(known):
        return None
    same = sum(not _names(label).isdisjoint(_names(other)) for label, other in zip(labels, known, strict=True))
    return tuple(info.label_names()) if same >= 0.99 * len(known) else None  # lists of them differ in a word or two


def _names(label: str) -> set[str]:
    return {name.strip().casefold() for name in label.split(",")}


def _head(config: TransformersConfig, family: Family, path: Path) -> Head:
    known = f"expected one of {', '.join(family.heads)} in architectures"
    if config.architectures is None:
        raise ModelError(f"{path} names no architecture; {known}.")
    head = next((family.heads[name] for name in config.architectures if name in family.heads), None)
    if head is None:
        named = ", ".join(config.architectures)
        raise ModelError(f"{path} names {named}, whose answer is no logits or features of an image; {known}.")
    return head


def _classes(config: TransformersConfig, path: Path) -> tuple[int, tuple[str, ...] | None]:
    """How many classes there are, and their names, where they have other names than transformers' placeholders."""
    if config.problem_type == "regression":
        raise ModelError(f"{path}: problem_type is 'regression'; what such a model answers are no classes.")
    if config.problem_type == "multi_label_classification":
        logger.warning("%s: its classes do not exclude each other; probabilities here are of those that do", path)
    if config.id2label is None:
        return 2 if config.num_labels is None else config.num_labels, None
    labels = tuple(config.id2label[str(index)] for index in range(len(config.id2label)))
    placeholders = tuple(f"LABEL_{index}" for index in range(len(labels)))
    return len(labels), None if labels == placeholders else labels


def _images(folder: Path, config: TransformersConfig, family: Family) -> dict[str, Any]:
    """timm's data configuration of the folder's image processor, or of one that knows the network's size alone."""
    own = _pair(config.image_size)
    processor = read_processor(folder)
    if processor is None:
        logger.warning(
            "%s has no preprocessor_config.json: images are resized to %d x %d and normalised as %s does by default",
            folder, *own, family.processor,
        )  # fmt: skip
        processor = ImageProcessorConfig(size=list(own), do_center_crop=False)
    images = data_config(processor, family.processor, own, config.num_channels or 0)
    if images["crop_mode"] == "center":
        logger.info(
            "%s: crops within a margin of 3, 7, 11, ... pixels begin one pixel later than in transformers", folder
        )
    return images


def _pair(sides: Sides | None) -> tuple[int, int]:
    assert sides is not None, "every family has a default"
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


# The families


def _vision_transformer(config: TransformersConfig) -> dict[str, Any]:
    return {
        "patch_size": _pair(config.patch_size),
        "in_chans": config.num_channels,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "global_pool": "token",
        "norm_layer": partial(nn.LayerNorm, eps=config.layer_norm_eps or 0.0),
    }


def _ratio(hidden: int, config: TransformersConfig) -> float:
    """The mlp_ratio of a hidden layer's width; halfway to the next, since timm rounds the product down."""
    assert config.hidden_size is not None
    return (hidden + 0.5) / config.hidden_size


def _grid(config: TransformersConfig) -> tuple[int, int]:
    (height, width), (rows, columns) = _pair(config.image_size), _pair(config.patch_size)
    return height // rows, width // columns


def _vit(config: TransformersConfig, head: Head) -> _Network:
    arguments = {**_vision_transformer(config), "qkv_bias": config.qkv_bias}
    arguments["mlp_ratio"] = _ratio(config.intermediate_size or 0, config)
    return _Network("vit_base_patch16_224", arguments, config.hidden_act or "", Layout(_grid(config)))


def _deit(config: TransformersConfig, head: Head) -> _Network:
    """Without the second head, the distillation token is one more token that nothing is read from: a register."""
    _, arguments, activation, _ = _vit(config, head)
    if head.pooling != "distilled":
        return _Network(
            "vit_base_patch16_224", {**arguments, "reg_tokens": 1}, activation, Layout(_grid(config), prefix=2)
        )
    layout = Layout(_grid(config), names=(("^reg_token$", "dist_token"),), prefix=2)
    return _Network("deit_base_distilled_patch16_224", arguments, activation, layout)


def _dinov2(config: TransformersConfig, head: Head) -> _Network:
    """With registers, timm adds no position to the class token: its own is added to the token itself."""
    from timm.layers import SwiGLUPacked

    grid = _grid(config)
    if grid[0] != grid[1]:
        raise ModelError(
            f"its config.json has position embeddings of {grid[0]} x {grid[1]}; transformers takes squares."
        )
    registers = config.model_type == "dinov2_with_registers"
    hidden = int((config.hidden_size or 0) * (config.mlp_ratio or 0))
    if config.use_swiglu_ffn:
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)  # two halves, of which one gates the other
    arguments = {
        **_vision_transformer(config),
        "qkv_bias": config.qkv_bias,
        "mlp_ratio": _ratio(hidden, config),
        "reg_tokens": config.num_register_tokens if registers else 0,
        "no_embed_class": registers,
        **({"mlp_layer": SwiGLUPacked} if config.use_swiglu_ffn else {}),
    }
    layout = Layout(
        grid, names=((r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),), plain_prefix=registers, antialias=registers
    )
    activation = "silu" if config.use_swiglu_ffn else config.hidden_act or ""
    return _Network("vit_base_patch14_dinov2", arguments, activation, layout)


def _dinov3(config: TransformersConfig, head: Head) -> _Network:
    """timm's has a bias for query and value, or for all three; those that transformers' lacks are zero."""
    gated = bool(config.use_gated_mlp)
    biased = {"q": config.query_bias, "k": config.key_bias, "v": config.value_bias}
    arguments = {
        **_vision_transformer(config),
        "mlp_ratio": _ratio(config.intermediate_size or 0, config),
        "qkv_bias": any(biased.values()),
        "attn_type": "rope" if config.key_bias else "eva",
        "num_reg_tokens": config.num_register_tokens,
        "rope_temperature": config.rope_theta,
        "dynamic_img_size": False,  # whose patches have to fill the image
        "swiglu_mlp": gated,
        "swiglu_align_to": int(gated),
    }
    inputs = ("fc1_g", "fc1_x") if gated else ("fc1",)
    parts = ("q", "k", "v") if config.key_bias else ("q", "v")
    zeros = [f"attn.{part}" for part in parts if any(biased.values()) and not biased[part]]
    zeros += [] if config.proj_bias else ["attn.proj"]
    zeros += [] if config.mlp_bias else [f"mlp.{name}" for name in (*inputs, "fc2")]
    names = ((r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"), (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
             (r"\.mlp\.up_proj\.", f".mlp.{inputs[-1]}."))  # fmt: skip
    layout = Layout(_grid(config), names=names, zeros=tuple(zeros))
    return _Network("vit_small_patch16_dinov3", arguments, config.hidden_act or "", layout)


COMMON: Mapping[str, Any] = {
    "image_size": 224, "patch_size": 16, "num_channels": 3, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "mlp_ratio": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "qkv_bias": True, "use_swiglu_ffn": False,
}  # fmt: skip
FAMILIES: Mapping[str, Family] = {
    "vit": Family(
        _vit, {"ViTForImageClassification": LOGITS, "ViTModel": FEATURES}, "ViTImageProcessor", COMMON
    ),
    "deit": Family(
        _deit,
        {
            "DeiTForImageClassification": LOGITS,
            "DeiTForImageClassificationWithTeacher": BOTH_HEADS,
            "DeiTModel": FEATURES,
        },
        "DeiTImageProcessor",
        COMMON,
    ),
    "dinov2": Family(
        _dinov2,
        {"Dinov2ForImageClassification": CLASS_AND_MEAN_LOGITS, "Dinov2Model": FEATURES},
        "BitImageProcessor",
        {**COMMON, "patch_size": 14, "layer_norm_eps": 1e-6},
    ),
    "dinov2_with_registers": Family(
        _dinov2,
        {"Dinov2WithRegistersForImageClassification": CLASS_AND_MEAN_LOGITS, "Dinov2WithRegistersModel": FEATURES},
        "BitImageProcessor",
        {**COMMON, "layer_norm_eps": 1e-6, "num_register_tokens": 4},
    ),
    "dinov3_vit": Family(
        _dinov3,
        {"DINOv3ViTModel": FEATURES},
        "DINOv3ViTImageProcessor",
        {
            **COMMON, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "layer_norm_eps": 1e-5,
            "num_register_tokens": 0, "rope_theta": 100.0, "query_bias": True, "key_bias": False, "value_bias": True,
            "proj_bias": True, "mlp_bias": True, "use_gated_mlp": False,
        },
    ),
}  # fmt: skip
