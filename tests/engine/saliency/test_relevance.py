"""Relevance against a literal propagation in numpy, and by what it conserves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.saliency.attribution_rules import RelevanceRules
from nullspace_cli.engine.saliency.relevance import attribution, full_lrp, partial_lrp
from nullspace_cli.engine.saliency.transformer import WatchedTransformer
from tests.engine.saliency.literal_lrp import Array, LiteralViT
from tests.engine.saliency.tiny import images_for, tiny

CLASSES = torch.tensor([2, 1])


def close(ours: Tensor, expected: list[Array]) -> None:
    golden = torch.from_numpy(np.stack(expected)).reshape(ours.shape)
    torch.testing.assert_close(ours, golden, rtol=1e-10, atol=1e-10 * float(golden.abs().max()))


# Against the literal propagation


@pytest.mark.parametrize("start_layer", [0, 1])
def test_attribution(model: Model, images: Tensor, literal: LiteralViT, start_layer: int) -> None:
    pairs = zip(images.numpy(), CLASSES.tolist(), strict=True)
    expected = [literal.attribution(image, index, start_layer) for image, index in pairs]
    options = {"start_layer": start_layer} if start_layer else {}  # the first layer is the default
    close(attribution(model, images, CLASSES, **options), expected)


def test_partial_lrp(model: Model, images: Tensor, literal: LiteralViT) -> None:
    pairs = zip(images.numpy(), CLASSES.tolist(), strict=True)
    last = [literal.relevance(image, index)[0][-1] for image, index in pairs]
    close(partial_lrp(model, images, CLASSES), [np.maximum(A, 0).mean(0)[0, 1:] for A in last])


def test_full_lrp(model: Model, images: Tensor, literal: LiteralViT) -> None:
    pairs = zip(images.numpy(), CLASSES.tolist(), strict=True)
    close(full_lrp(model, images, CLASSES), [literal.relevance(image, index)[1].sum(0) for image, index in pairs])


@pytest.mark.parametrize("method", [attribution, full_lrp])
def test_without_a_head_each_feature_starts_with_its_share_of_the_squared_norm(method: Callable[..., Tensor]) -> None:
    headless, headed = tiny("plain", num_classes=0), tiny("plain", num_classes=4)
    headed.module.load_state_dict(headless.module.state_dict(), strict=False)
    headed.module.head.bias.zero_()  # type: ignore[union-attr, operator]
    images = images_for(headless, 4)
    headed.module.head.weight.copy_(headless(images).features)  # type: ignore[union-attr, operator]
    expected = method(headed, images, torch.arange(4))  # f_i . f, of which feature k accounts for f_ik^2
    torch.testing.assert_close(method(headless, images), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


# Conservation


def numbers(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


OPERATIONS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "linear": (lambda x: F.linear(x, numbers(5, 40), numbers(5)), (numbers(2, 3, 40),)),
    "convolution": (lambda x: F.conv2d(x, numbers(5, 3, 4, 4), numbers(5), stride=4), (numbers(2, 3, 8, 8),)),
    "product": (torch.matmul, (numbers(2, 3, 4, 5), numbers(2, 3, 5, 4))),
    "gate": (lambda a, b: F.silu(a) * b, (numbers(2, 3, 4), numbers(2, 3, 4))),
    "sum": (torch.add, (numbers(2, 3, 4), numbers(2, 3, 4))),
    "rotation": (lambda x: x * 0.8 + torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape) * numbers(4), ()),
    "mean": (lambda x: x.mean(dim=1), (numbers(2, 3, 4),)),
    "scale": (lambda x: (x * numbers(4) + numbers(4)) / 3, (numbers(2, 3, 4),)),
    "norm": (lambda x: F.layer_norm(x, (4,), numbers(4), numbers(4)), (numbers(2, 3, 4),)),
    "softmax": (lambda x: x.softmax(-1), (numbers(2, 3, 4),)),
    "activation": (F.gelu, (numbers(2, 3, 4),)),
    "copies": (lambda x: torch.cat([x, x], 1), (numbers(2, 3, 4),)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_hands_on_all_relevance_image_by_image(name: str) -> None:
    operation, inputs = OPERATIONS[name]
    leaves = [x.clone().requires_grad_() for x in inputs or (numbers(2, 3, 4),)]
    with RelevanceRules("a model"):
        result = operation(*leaves)
    assert torch.equal(result, operation(*leaves))
    R = numbers(*result.shape)
    handed = torch.autograd.grad(result, leaves, R)
    total = sum(r.flatten(1).sum(1) for r in handed)
    torch.testing.assert_close(total, R.flatten(1).sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["plain", "oblong", "gap", "registers", "distilled", "rotary"])
def test_relevance_sums_to_one_at_every_step_of_every_image(kind: str) -> None:
    model = tiny(kind)
    steps: list[Tensor] = []
    for block in model.module.blocks:  # type: ignore[union-attr]
        for norm in (block.norm1, block.norm2):  # their input is all that there is: skip and branch start from it
            norm.register_forward_pre_hook(lambda _, args: steps.append(args[0]))
    with RelevanceRules(model.name):
        answer = WatchedTransformer(model).trace(images_for(model)).answer
    answered = answer.detach()
    start = F.one_hot(torch.tensor([2, 0, 3]), 4).double() if model.has_head else answered.square()
    relevances = torch.autograd.grad(answer, steps, start / start.sum(1, keepdim=True))
    assert len(relevances) == 4
    for relevance in relevances:
        torch.testing.assert_close(relevance.sum((1, 2)), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_pixels_hold_all_relevance_where_nothing_learned_is_added() -> None:
    bare = tiny("gap", pos_embed="none")
    total = full_lrp(bare, images_for(bare)).sum((1, 2))
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-9)


# What has no rule


def test_an_operation_without_a_rule_is_refused() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    with RelevanceRules("some model"), pytest.raises(ModelError, match=r"some model.*'cumsum'.*Use rollout"):
        x.cumsum(1)


def test_constants_may_go_through_any_operation() -> None:
    with RelevanceRules("some model"):
        assert torch.ones(3).cumsum(0).tolist() == [1, 2, 3]


def test_a_convolutional_stem_has_attention_to_explain_but_no_relevance_of_pixels() -> None:
    arguments: dict[str, Any] = {"depth": 1, "num_classes": 4, "img_size": 64}
    hybrid = load_model(ModelRequest("vit_tiny_r_s16_p8_224", pretrained=False, kwargs=arguments, device="cpu"))
    images = images_for(hybrid, 1)
    assert attribution(hybrid, images).shape == (1, 2, 2)
    with pytest.raises(ModelError, match="relevance cannot be carried"):
        full_lrp(hybrid, images)
