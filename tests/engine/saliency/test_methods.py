"""The registry: which methods a model has, what is refused, and that each gives a map on its grid."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from nullspace_cli.engine.errors import ModelError, UsageError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.saliency.methods import METHODS, choose, default_methods, explain, supported, upsampled
from tests.engine.saliency.tiny import load

TOKENS = ("attribution", "raw", "rollout", "attention-gradcam", "token-gradcam", "partial-lrp", "full-lrp")
PIXELS = ("gradient", "input-x-gradient", "integrated-gradients", "smoothgrad")


@pytest.fixture(scope="module")
def vit() -> Model:
    return load("vit_tiny_patch16_224", depth=2, img_size=64, num_classes=10)


def test_which_models_have_which_methods(vit: Model, cnn: Model) -> None:
    assert tuple(METHODS) == (*TOKENS, *PIXELS, "gradcam")
    assert supported(vit) == (*TOKENS, *PIXELS)
    assert supported(cnn) == (*PIXELS, "gradcam")
    assert supported(load("mixer_s32_224")) == PIXELS
    assert {name: METHODS[name].family for name in ("rollout", "gradient", "gradcam")} == {
        "rollout": "tokens",
        "gradient": "pixels",
        "gradcam": "features",
    }


def test_what_relevance_cannot_be_carried_through_is_known_beforehand() -> None:
    hybrid = load("vit_tiny_r_s16_p8_224", depth=1, img_size=64)
    assert supported(hybrid) == (*TOKENS[:-1], *PIXELS)  # its stem has no rule; its blocks have
    elsewhere = load("vit_tiny_patch16_224", depth=1, img_size=64, act_layer="hard_swish")
    assert supported(elsewhere) == (*TOKENS[1:5], *PIXELS)
    with pytest.raises(ModelError, match=r"full-lrp cannot explain vit_tiny_r"):
        choose(hybrid, ("full-lrp",))


def test_the_default_is_found_with_one_look(vit: Model, cnn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def look(name: str, _: Model) -> bool:
        looks.append(name)
        return True

    for name, method in METHODS.items():
        monkeypatch.setitem(METHODS, name, replace(method, needs=method.needs and partial(look, name)))
    assert [method.name for method in default_methods(vit, most=1)] == ["attribution"] == looks
    assert [method.name for method in default_methods(vit)] == ["attribution", "rollout", "token-gradcam"]
    assert [method.name for method in default_methods(cnn)] == ["gradcam"]
    assert [method.name for method in default_methods(load("mixer_s32_224"))] == ["gradient"]
    choose(vit, ("rollout", "raw"))
    assert looks == ["attribution"] * 2


def test_choosing(vit: Model, cnn: Model) -> None:
    assert [method.name for method in choose(vit, ("all",))] == [*TOKENS, *PIXELS]
    assert [method.name for method in choose(cnn, ("gradcam", "gradient", "gradcam"))] == ["gradcam", "gradient"]
    with pytest.raises(UsageError, match=r"'grad-cam'.*gradcam.*all"):
        choose(cnn, ("gradient", "grad-cam"))
    with pytest.raises(ModelError, match=r"rollout cannot explain resnet10t.*smoothgrad, gradcam"):
        choose(cnn, ("gradient", "rollout"))
    with pytest.raises(ModelError, match=r"gradcam cannot explain vit_tiny.*attribution.*smoothgrad"):
        choose(vit, ("gradcam",))


@pytest.mark.parametrize("name", METHODS)
def test_maps_and_their_class(name: str, vit: Model, cnn: Model) -> None:
    model = cnn if name == "gradcam" else vit
    grid = (2, 2) if name == "gradcam" else (64, 64) if name in (*PIXELS, "full-lrp") else (4, 4)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = explain(model, x, METHODS[name])
    assert (maps.shape, maps.dtype, maps.device.type) == ((2, *grid), torch.float64, "cpu")
    assert bool(maps.isfinite().all())
    chosen = torch.tensor([1, 4])
    same = torch.equal(explain(model, x, METHODS[name], chosen), maps)
    assert same == (name in ("raw", "rollout"))


def test_a_class_that_the_model_lacks_is_refused(vit: Model) -> None:
    x = torch.zeros(1, 3, 64, 64)
    for index in (10, -1):
        with pytest.raises(UsageError, match=rf"vit_tiny.* no class {index}.* 10 classes"):
            explain(vit, x, METHODS["gradient"], torch.tensor([index]))
    headless = load("vit_tiny_patch16_224", depth=1, img_size=64, num_classes=0)
    with pytest.raises(UsageError, match=r"no class 0.* 0 classes"):
        explain(headless, x, METHODS["gradient"], torch.tensor([0]))
    assert explain(headless, x, METHODS["gradient"]).shape == (1, 64, 64)


def test_upsampling_is_bilinear() -> None:
    coarse = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    assert upsampled(coarse, (1, 4)).tolist() == [[[0, 0.25, 0.75, 1]]]
    maps = torch.rand(2, 5, 6)
    assert torch.equal(upsampled(maps, (5, 6)), maps)
