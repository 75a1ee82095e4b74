"""Weights out of what training runs write: by fitting, whatever wraps them; and what does not fit, by cause."""

import json
import logging
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nullspace_cli.engine.errors import ModelError, UsageError
from nullspace_cli.engine.files.hashes import hash_state
from nullspace_cli.engine.models.checkpoints import load_checkpoint
from nullspace_cli.engine.models.closest_names import closest_names
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest

State = Mapping[str, Tensor]
SIZES = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 10}


def build(**changes: Any) -> nn.Module:
    module: nn.Module = timm.create_model("vit_tiny_patch16_224", **{**SIZES, **changes})
    return module.eval()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return build()


def behind(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in state.items()}


def bare(state: State) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def optimizer_of(module: nn.Module) -> dict[str, Any]:
    """The state of an optimiser that has taken a step: tensors of the shapes of the weights, under numbers."""
    copy = build()
    copy.load_state_dict(module.state_dict())
    optimizer = torch.optim.AdamW(copy.parameters())
    for value in copy.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return optimizer.state_dict()


EXTRA = torch.ones(4, 48)
WRAPPED: dict[str, Callable[[State], dict[str, Any]]] = {
    "plain": dict,
    "lightning": lambda s: {"state_dict": behind("model.", s), "hyper_parameters": {"lr": 0.1}, "epoch": 3},
    "lightning, deeper": lambda s: {"state_dict": {**behind("net.encoder.", s), "criterion.weight": EXTRA}},
    "model_state_dict": lambda s: {"model_state_dict": dict(s), "best": np.float64(0.5), "random": np.arange(3)},
    "net": lambda s: {"net": dict(s), "acc": 1.0, "args": Namespace(lr=0.1, out=Path("runs"))},
    "module": lambda s: {"state_dict": behind("module.", s)},
    "compiled": lambda s: behind("_orig_mod.module.", s),
    "compiled by block": lambda s: {n.replace("blocks.0.", "blocks.0._orig_mod."): v for n, v in s.items()},
    "average": lambda s: {"model": other(s), "model_ema": {**behind("module.", s)}},
    "average, first": lambda s: {"state_dict_ema": dict(s), "state_dict": other(s)},
    "averaged model": lambda s: {"model": {"n_averaged": torch.tensor(3), **behind("module.", s)}},
    "teacher": lambda s: {"student": other(s), "teacher": dict(s)},
    "two words that nobody has used": lambda s: {"a": {"b": behind("c.d.", s)}},
}
HEADLESS: dict[str, Callable[[State], dict[str, Any]]] = {
    "dino": lambda s: {
        "student": {**behind("module.backbone.", other(s)), "module.head.mlp.0.weight": EXTRA},
        "teacher": {**behind("backbone.", s), "head.mlp.0.weight": EXTRA},
        "dino_loss": {"center": EXTRA},
    },
    "mae": lambda s: {"model": {**s, "mask_token": EXTRA, "decoder_embed.weight": EXTRA, "decoder_pred.bias": EXTRA}},
    "a classifier": lambda s: {"model": {**s, "head.weight": EXTRA, "head.bias": EXTRA[:, 0].clone()}},
}


def assert_same(module: nn.Module, reference: nn.Module) -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(module(x), reference(x))


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("ending", [".pth", ".ckpt"])
def test_wrappings(wrapping: str, ending: str, trained: nn.Module, tmp_path: Path) -> None:
    saved = {"optimizer_states": [optimizer_of(trained)]} if ending == ".ckpt" and wrapping != "plain" else {}
    torch.save({**WRAPPED[wrapping](trained.state_dict()), **saved}, tmp_path / f"w{ending}")
    module = build()
    load_checkpoint(module, tmp_path / f"w{ending}")
    assert_same(module, trained)


@pytest.mark.parametrize("wrapping", HEADLESS)
def test_wrappings_of_networks_without_a_head(wrapping: str, trained: nn.Module, tmp_path: Path) -> None:
    reference, module = build(num_classes=0), build(num_classes=0)
    reference.load_state_dict(bare(trained.state_dict()))
    torch.save(HEADLESS[wrapping](reference.state_dict()), tmp_path / "w.pt")
    load_checkpoint(module, tmp_path / "w.pt")
    assert_same(module, reference)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".safetensors"])
def test_endings_and_half_precision(ending: str, trained: nn.Module, tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in trained.state_dict().items()}
    path = tmp_path / f"w{ending}"
    (save_file if ending == ".safetensors" else torch.save)(behind("model.", halves), path)
    module, reference = build(), build()
    reference.load_state_dict({name: value.float() for name, value in halves.items()})
    load_checkpoint(module, path)
    assert_same(module, reference)


def test_a_key_chooses_and_what_was_taken_is_said(
    trained: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nullspace_cli")
    path, state = tmp_path / "w.pth", trained.state_dict()
    torch.save({"model_ema": other(state), "model": dict(state)}, path)
    module = build()
    load_checkpoint(module, path, "model")
    assert_same(module, trained)
    assert "took 32 tensors under model; left out model_ema (32)." in caplog.text
    load_checkpoint(module, path)
    assert "under model_ema; model would fit too" in caplog.text
    with pytest.raises(ModelError, match=r"nothing under 'teacher'.*model_ema \(32\), model \(32\).*`checkpoint_key`"):
        load_checkpoint(module, path, "teacher")
    with pytest.raises(UsageError, match="`checkpoint`"):
        ModelRequest("demo", checkpoint_key="model")
    caplog.clear()
    torch.save(dict(state), path)
    load_checkpoint(module, path)
    assert caplog.text == ""


def write_shards(state: State, kind: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """Two files and their index, by the names that are usual; the index's path, and which tensor is where."""
    names, write = sorted(state), save_file if kind == "safetensors" else torch.save
    stem = "model" if kind == "safetensors" else "pytorch_model"
    files = [f"{stem}-{i}-of-2.{kind}" for i in (1, 2)]
    places = {name: files[i % 2] for i, name in enumerate(names)}
    for file in files:
        write({name: state[name] for name in names if places[name] == file}, folder / file)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, places


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_folders_with_several_files(kind: str, trained: nn.Module, tmp_path: Path) -> None:
    config = {"architecture": "vit_tiny_patch16_224", "model_args": SIZES}
    pretrained_cfg = {"num_classes": 10, "classifier": "head"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": pretrained_cfg}))
    write_shards(trained.state_dict(), kind, tmp_path)
    model = load_model(ModelRequest(f"local-dir:{tmp_path}", device="cpu"))
    assert (model.weights, model.weights_sha256) == ("pretrained", hash_state(trained.state_dict()))
    with pytest.raises(ModelError, match=r"head has 10 classes, the model's 7"):
        load_model(ModelRequest(f"local-dir:{tmp_path}", device="cpu", kwargs={"num_classes": 7}))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_several_files_with_an_index(kind: str, trained: nn.Module, tmp_path: Path) -> None:
    index, places = write_shards(behind("model.", trained.state_dict()), kind, tmp_path)
    names, files = sorted(places), sorted(set(places.values()))
    module = build()
    load_checkpoint(module, index)
    assert_same(module, trained)
    for changed, message in (
        ({**places, "model.more": files[0]}, "lacks tensors that .* says it has: model.more"),
        ({**places, names[0]: "../w"}, r"is '\.\./w' \(text\); expected the name of a weights file beside"),
        ({**places, names[0]: "gone.bin"}, "gone.bin"),
        ({}, "weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(ModelError, match=message):
            load_checkpoint(module, index)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 7}, r"head has 7 classes, the model's 10\. Add `num_classes=7`\."),
        ({"num_classes": 0}, r"has no classifier\. Add `num_classes=0`\."),
        ({"patch_size": 32}, r"reads 32x32 pixels, the model's 16x16.*Add `patch_size=32`\."),
        ({"in_chans": 1}, r"reads 1 channels, the model 3\. Add `in_chans=1`\."),
        ({"depth": 3}, r"has 3 blocks, the model 2\. Add `depth=3`\."),
        ({"depth": 1, "num_classes": 7}, r"Add `num_classes=7` and `depth=1`\."),
    ],
)
def test_what_does_not_fit_and_what_would(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save({"state_dict": build(**changes).state_dict()}, tmp_path / "w.pth")
    module = build()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_checkpoint(module, tmp_path / "w.pth")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    load_checkpoint(build(**changes), tmp_path / "w.pth")


def test_parts_that_a_network_lacks_are_refused(trained: nn.Module, tmp_path: Path) -> None:
    for name in ("blocks.0.ls1.gamma", "reg_token", "absolute_pos_embed"):
        torch.save({**trained.state_dict(), name: torch.ones(1, 4, 48)}, tmp_path / "w.pth")
        with pytest.raises(ModelError, match=rf"1 unknown \({name}\)"):
            load_checkpoint(build(), tmp_path / "w.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_small_patch16_224", "resnet50", "swin_base_patch4_window7_224"])
def test_another_architecture_is_named(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert closest_names(behind("state_dict.model.", state), "vision_transformer") == [name]


class Settings:
    """What a training run may save beside its weights."""


def test_the_class_that_blocks_is_named(trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    for saved, blocking, weights in (
        (
            {"state_dict": trained.state_dict(), "settings": Settings()},
            re.escape(f"{__name__}.Settings"),
            'saved["state_dict"]',
        ),
        (trained, r"torch\.nn\.modules|timm\.models", "saved.state_dict()"),
    ):
        torch.save(saved, path)
        with pytest.raises(ModelError) as caught:
            load_checkpoint(build(), path)
        message = str(caught.value)
        assert re.search(blocking, message)
        loading = 'saved = torch.load("run.ckpt", map_location="cpu", weights_only=False)'
        saving = f'torch.save({weights}, "run.weights.pth")'
        assert f"{loading} and {saving}" in message


def test_the_two_lines_save_it_safely(trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": trained.state_dict(), "settings": Settings()}, "run.ckpt")
    with pytest.raises(ModelError) as caught:
        load_checkpoint(build(), Path("run.ckpt"))
    loading, _, saving = str(caught.value).rpartition("says: ")[2].rstrip(".").partition(" and ")
    exec(f"import torch\n{loading}\n{saving}")  # noqa: S102 - that is what they are for
    module = build()
    load_checkpoint(module, Path("run.weights.pth"))
    assert_same(module, trained)


def test_nesting_without_end(trained: nn.Module, tmp_path: Path) -> None:
    endless: dict[str, Any] = {"a": torch.ones(1)}
    endless["itself"] = endless
    torch.save(endless, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="nests dictionaries without end"):
        load_checkpoint(build(), tmp_path / "w.pth")
