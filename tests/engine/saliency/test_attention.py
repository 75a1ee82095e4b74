"""Attention maps and GradCAM against a literal ViT in numpy, and by what theory says of other ways to read tokens."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.saliency.attention import attention_gradcam, raw_attention, rollout, token_gradcam
from tests.engine.saliency.literal_lrp import Array, LiteralViT
from tests.engine.saliency.tiny import images_for, tiny

CLASSES = torch.tensor([2, 1])


def grids(rows: list[Array]) -> Tensor:
    return torch.from_numpy(np.stack(rows)).reshape(len(rows), 2, 2)


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


# Against the literal ViT


def test_raw_attention(model: Model, images: Tensor, literal: LiteralViT) -> None:
    runs = [literal.forward(image.numpy()) for image in images]
    close(raw_attention(model, images), grids([run.values["attention"][-1].mean(0)[0, 1:] for run in runs]))


def test_rollout(model: Model, images: Tensor, literal: LiteralViT) -> None:
    expected = []
    for image in images:
        C = np.eye(5)
        for A in literal.forward(image.numpy()).values["attention"]:
            M = 0.5 * A.mean(0) + 0.5 * np.eye(5)
            C = M / M.sum(1, keepdims=True) @ C
        expected.append(C[0, 1:])
    close(rollout(model, images), grids(expected))


def test_attention_gradcam(model: Model, images: Tensor, literal: LiteralViT) -> None:
    expected = []
    for image, index in zip(images.numpy(), CLASSES.tolist(), strict=True):
        A = literal.forward(image).values["attention"][-1][:, 0, 1:]
        dA = literal.derivative(image, index, 1, "attention")[:, 0, 1:]
        heads = [dA[h].mean() * A[h] for h in range(2)]
        expected.append(np.maximum(sum(heads) / 2, 0))
    assert any(map.any() for map in expected)
    close(attention_gradcam(model, images, CLASSES), grids(expected))


def test_token_gradcam(model: Model, images: Tensor, literal: LiteralViT) -> None:
    expected = []
    for image, index in zip(images.numpy(), CLASSES.tolist(), strict=True):
        tokens = literal.forward(image).values["normed1"][-1][1:]
        weights = literal.derivative(image, index, 1, "normed1")[1:].mean(0)
        expected.append(np.maximum(tokens @ weights, 0))
    assert any(map.any() for map in expected)
    close(token_gradcam(model, images, CLASSES), grids(expected))


# Which tokens the answer is read from


def last_attention(model: Model, images: Tensor) -> Tensor:
    """The last block's attention by itself, of a copy made for the purpose: softmax(q k^T / sqrt(d)) of its input."""
    module = copy.deepcopy(model.module).double()
    attention, seen = module.blocks[-1].attn, []  # type: ignore[union-attr, index]
    attention.qkv.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        module(images)
    q, k, _ = seen[0].unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1)


@pytest.mark.parametrize(
    ("kind", "rows", "prefix"),
    [("gap", range(4), 0), ("registers", range(1), 5), ("distilled", range(2), 2)],
    ids=["gap", "registers", "distilled"],
)
def test_rows_are_those_that_the_answer_is_read_from(kind: str, rows: range, prefix: int) -> None:
    model = tiny(kind)
    images = images_for(model)
    expected = last_attention(model, images)[:, list(rows), prefix:].mean(1).reshape(3, 2, 2)
    close(raw_attention(model, images), expected)


def test_mean_pooling_beside_a_class_token() -> None:
    model = tiny("plain", global_pool="avg")
    images = images_for(model)
    close(raw_attention(model, images), last_attention(model, images)[:, 1:, 1:].mean(1).reshape(3, 2, 2))


def test_without_a_head_half_the_squared_norm_is_explained() -> None:
    headless, headed = tiny("plain", num_classes=0), tiny("plain", num_classes=4)
    headed.module.load_state_dict(headless.module.state_dict(), strict=False)
    images = images_for(headless, 4)
    features = headless(images).features
    headed.module.head.weight.copy_(features)  # type: ignore[union-attr, operator]
    maps = attention_gradcam(headless, images)
    assert maps.any()
    expected = attention_gradcam(headed, images, torch.arange(4))  # f_i . f has the gradient f_i
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-5 * float(maps.max()))  # features are float32
