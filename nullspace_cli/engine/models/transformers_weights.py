"""The tensors of transformers' vision transformers under timm's names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BASE_MODEL = re.compile(
    r"(vit|deit|dinov2|dinov2_with_registers|model)\.(?=(embeddings|encoder|layers?|layernorm|norm)\.)"
)
"""What stands before the names of the network in those of a model with a head."""
BLOCK = r"^(?:encoder\.)?layers?\.(\d+)\."
NAMES = (
    (BLOCK, r"blocks.\1."),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.(cls|mask)_token$", r"\1_token"),
    (r"^embeddings\.(?:register_tokens|distillation_token)$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^layernorm\.", "norm."),
    (r"^(?:cls_)?classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
)
"""Names of all families, in the order in which they are replaced; what is in none of these keeps its name."""


@dataclass(frozen=True)
class Layout:
    """Where a family's tensors go, beyond `NAMES`.

    Attributes:
        names: further replacements, as `NAMES`.
        zeros: of each block, biases that the network lacks and its twin has.
        grid: rows and columns of the position embeddings.
        prefix: how many position embeddings stand before those of patches.
        plain_prefix: whether the twin adds none to its class token and registers.
        antialias: how transformers resamples position embeddings for another size of images.
    """

    grid: tuple[int, int]
    names: tuple[tuple[str, str], ...] = ()
    zeros: tuple[str, ...] = ()
    prefix: int = 1
    plain_prefix: bool = False
    antialias: bool = False


def converted(state: Mapping[str, Tensor], layout: Layout, module: nn.Module) -> dict[str, Tensor]:
    """A state of transformers' network as its twin's; tensors that have no place in it keep their names.

    Args:
        module: the twin, with the grid that its position embeddings are resampled to.
    """
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        inner = BASE_MODEL.sub("", key, count=1)
        name = _renamed(inner, (*NAMES, *layout.names))
        named[key if name in named else name] = value
    if named.get("reg_token") is not None and named["reg_token"].numel() == 0:
        del named["reg_token"]
    own, embed = module.state_dict(), cast("Any", module.patch_embed)
    for block in _blocks(own):
        _fill_biases(named, block, layout.zeros)
        _merge_attention(named, block, own)
        _merge(named, [f"{block}mlp.{name}" for name in ("gate_proj", "up_proj")], f"{block}mlp.fc1")
    _place_positions(named, layout, tuple(embed.grid_size))
    return named


def _renamed(name: str, replacements: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in replacements:
        name = re.sub(pattern, replacement, name)
    return name


def _blocks(own: Iterable[str]) -> list[str]:
    """The beginnings of the names of each block's tensors: "blocks.0."."""
    return list(dict.fromkeys(match[0] for name in own if (match := re.match(r"blocks\.\d+\.", name))))


def _fill_biases(state: dict[str, Tensor], block: str, zeros: Iterable[str]) -> None:
    for name in zeros:
        weight = state.get(f"{block}{name}.weight")
        if weight is not None and weight.ndim:
            state.setdefault(f"{block}{name}.bias", weight.new_zeros(weight.shape[0]))


def _merge_attention(state: dict[str, Tensor], block: str, own: Mapping[str, Tensor]) -> None:
    """Query, key and value as one layer, whose bias timm has in one or, where the key has none, in two."""
    if f"{block}attn.q_bias" in own:
        for part in ("q", "v"):
            if f"{block}attn.{part}.bias" in state:
                state[f"{block}attn.{part}_bias"] = state.pop(f"{block}attn.{part}.bias")
    _merge(state, [f"{block}attn.{part}" for part in ("q", "k", "v")], f"{block}attn.qkv")


def _merge(state: dict[str, Tensor], layers: list[str], merged: str) -> None:
    """Layers that read the same as one; left alone where they are not all there, or do not fit together."""
    for kind in ("weight", "bias"):
        names = [f"{layer}.{kind}" for layer in layers]
        parts = [state[name] for name in names if name in state]
        if len(parts) == len(names) and parts[0].ndim and len({(part.shape[1:], part.dtype) for part in parts}) == 1:
            state[f"{merged}.{kind}"] = torch.cat(parts)
            for name in names:
                del state[name]


def _place_positions(state: dict[str, Tensor], layout: Layout, grid: tuple[int, int]) -> None:
    """Position embeddings for the twin's grid, resampled as transformers does with `interpolate_pos_encoding`."""
    positions = state.get("pos_embed")
    rows, columns = layout.grid
    if positions is None or not positions.is_floating_point():
        return
    if positions.ndim != 3 or positions.shape[:2] != (1, layout.prefix + rows * columns):
        return  # of another network; the caller says that it does not fit
    first, patches = positions[:, : layout.prefix], positions[:, layout.prefix :]
    if layout.plain_prefix:
        token = state.get("cls_token")
        if token is None or token.shape != first.shape or not token.is_floating_point():
            return
        state["cls_token"], first = token.float() + first.float(), first[:, :0]
    if grid != layout.grid:
        maps = patches.float().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        maps = F.interpolate(maps, size=grid, mode="bicubic", align_corners=False, antialias=layout.antialias)
        first, patches = first.float(), maps.permute(0, 2, 3, 1).flatten(1, 2)
    state["pos_embed"] = torch.cat((first, patches), dim=1)
