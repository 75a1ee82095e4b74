"""`vitnull learn-noise`: its files and documents, what it refuses, and runs that are killed, repeated or shared."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from nullspace_cli.demo.drawing import draw
from tests.cli.contract import LEARN_NOISE, check_keys
from tests.conftest import Outcome, Vitnull, contents

QUICK = ("--rounds", "2", "--fraction", "1", "--step-images", "4", "--batch-size", "4")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of five drawings to train on, and two to look at."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 5), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw(split, 10 * i + label, size=70)[0]).save(folder / f"{i}.png")
    return root


@pytest.fixture
def learn(vitnull: Vitnull, tiny_vit: tuple[str, ...], photos: Path) -> Callable[..., Outcome]:
    def learn(*arguments: str | Path, **options: Any) -> Outcome:
        return vitnull("learn-noise", *tiny_vit, "--data", photos, *QUICK, *arguments, **options)

    return learn


def provenance(path: str | Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        document: dict[str, Any] = json.loads(file.metadata()["vitnull"])
    return document


def test_document_and_files(learn: Callable[..., Outcome]) -> None:
    document = learn("--limit", "0.1", "--limit", "1", "--json").document
    check_keys(document, LEARN_NOISE)
    assert (document["level"], document["images"], document["outputs"]) == ("encoder", 10, "logits")
    names = [f"deit_tiny_patch16_224.encoder.lim{limit}.noise.safetensors" for limit in ("0.1", "1")]
    assert contents() == sorted([*names, "deit_tiny_patch16_224.encoder.loss.png"])
    assert [record["noise"] for record in document["noises"]] == names
    for record, limit in zip(document["noises"], (0.1, 1.0), strict=True):
        tensors = load_file(record["noise"])
        assert tensors["noise"].shape == tensors["init"].shape == (1, 16, 192)
        assert tensors["init"].abs().max() <= limit
        assert tensors["init"].abs().max() > 0.99 * limit
        assert record["norm_init"] == pytest.approx(float(tensors["init"].norm()))
        assert record["norm_final"] == pytest.approx(float(tensors["noise"].norm()))
        assert (record["limit"], record["rounds"], record["steps"], record["stopped"]) == (limit, 2, 6, False)
        assert record["loss_first"] == pytest.approx(float(tensors["losses"][0]))
        assert record["loss_last"] == pytest.approx(float(tensors["losses"][3:].mean()))
        about = provenance(record["noise"])
        assert (about["kind"], about["space"], about["model"]) == ("noise", "tokens", document["model"])
        assert about["weights_sha256"] == document["weights_sha256"]
        assert about["parameters"]["limit"] == limit
        assert about["parameters"]["plan"]["data_config"]["crop_mode"] == "center"


def test_table(learn: Callable[..., Outcome]) -> None:
    text = learn("--level", "input", "--no-preview").stdout
    assert "deit_tiny_patch16_224.input.lim0.5.noise.safetensors" in text
    assert "10, 0 left out" in text
    assert contents() == ["deit_tiny_patch16_224.input.lim0.5.noise.safetensors"]
    tensors = load_file(contents()[0])
    assert tensors["noise"].shape == (1, 3, 64, 64)
    assert provenance(contents()[0])["space"] == "normalized"


def test_same_inputs_same_bytes(learn: Callable[..., Outcome]) -> None:
    learn("--out", "a.safetensors", "--no-preview")
    learn("--out", "b.safetensors", "--no-preview")
    learn("--out", "c.safetensors", "--no-preview", "--seed", "1")
    a, b, c = (Path(f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_squash_reads_the_whole_image(learn: Callable[..., Outcome]) -> None:
    learn("--out", "a.safetensors", "--no-preview", "--transform", "squash")
    plan = provenance("a.safetensors")["parameters"]["plan"]
    assert (plan["data_config"]["crop_mode"], plan["data_config"]["crop_pct"]) == ("squash", 1.0)


def test_no_head(learn: Callable[..., Outcome]) -> None:
    document = learn("--model-kwargs", "num_classes=0", "--json").document
    assert document["outputs"] == "features"
    assert document["noises"][0]["loss_first"] > 0
    message = learn("--model-kwargs", "num_classes=0", "--stop-eps", "1", "--force", expect=2).message
    assert "no probabilities" in message


def test_the_largest_change_as_the_loss(learn: Callable[..., Outcome]) -> None:
    """JSON has no infinity: `--norm inf` has a name in documents and files, and a run of it can be gone on with."""
    arguments = ("--norm", "inf", "--checkpoint-every", "1")
    document = learn(*arguments, "--json").document
    assert document["plan"]["norm"] == "inf"
    path = document["noises"][0]["noise"]
    assert provenance(path)["parameters"]["plan"]["norm"] == "inf"
    again = learn(*arguments, "--limit", "0.5", "--limit", "1", "--resume", "--json").document
    assert again["noises"][0] == {**document["noises"][0], "images_per_second": None}
    assert "norm inf (now 3.0)" in learn("--norm", "3", "--resume", expect=1).message
    assert "||f(x with noise) - f(x)||_inf" in learn(*arguments, "--force").stdout


def test_a_loss_that_rises_is_said(learn: Callable[..., Outcome]) -> None:
    assert "the loss rose" not in learn("--lr", "0.001").stderr
    assert "limit.safetensors: the loss rose from" in learn("--lr", "100", "--out", "limit.safetensors").stderr


def test_early_stop(learn: Callable[..., Outcome]) -> None:
    document = learn("--stop-eps", "100", "--json").document
    assert document["noises"][0]["stopped"] is True
    assert document["noises"][0]["rounds"] == 1
    assert "(stopped)" in learn("--stop-eps", "100", "--force").stdout


def test_a_cnn_takes_noise_on_its_input(vitnull: Vitnull, photos: Path) -> None:
    arguments = ("learn-noise", "demo-cnn", "--data", photos, *QUICK)
    message = vitnull(*arguments, expect=1).message
    assert "no patch tokens" in message
    assert "--level input" in message
    document = vitnull(*arguments, "--level", "input", "--json").document
    assert load_file(document["noises"][0]["noise"])["noise"].shape == (1, 3, 224, 224)


def test_limits_that_look_alike_have_files_of_their_own(learn: Callable[..., Outcome]) -> None:
    limits = ("0.5", "2", "0.1234567", "0.12345671")
    arguments = [word for limit in limits for word in ("--limit", limit)]
    names = [Path(noise["noise"]).name for noise in learn(*arguments, "--rounds", "1", "--json").document["noises"]]
    stems = [name.removesuffix(".noise.safetensors").partition(".lim")[2] for name in names]
    assert stems == list(limits)
    assert set(names) <= set(contents())


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "0"), "a number above 0"),
        (("--limit", "nan"), "a number above 0"),
        (("--norm", "0.5"), "a number from 1 to 1,000,000, or inf"),
        (("--limit", "1", "--limit", "2", "--out", "a.safetensors"), "--out-dir"),
        (("--out", "a.png"), "safetensors"),
        (("--protocol", "adam"), "adamw"),
        (("--rounds", "0"), "a whole number from 1"),
    ],
)
def test_usage(learn: Callable[..., Outcome], no_model: None, arguments: tuple[str, ...], words: str) -> None:
    assert words in learn(*arguments, expect=2).message
    assert contents() == []


def test_existing_files_are_kept(learn: Callable[..., Outcome], no_model: None) -> None:
    Path("a.safetensors").write_text("mine")
    assert "--force" in learn("--out", "a.safetensors", expect=1).message
    assert Path("a.safetensors").read_text() == "mine"


def test_no_data(vitnull: Vitnull, no_model: None, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for data, words in (("missing", "no folder missing"), ("empty", "holds no images")):
        assert words in vitnull("learn-noise", "demo", "--data", data, expect=1).message


def test_unreadable_images(vitnull: Vitnull, tiny_vit: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (photos / "train" / "cat").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "bad.png").write_text("no picture")
    arguments = ("learn-noise", *tiny_vit, "--data", str(folder), *QUICK, "--no-preview")
    assert "bad.png" in vitnull(*arguments, expect=1).message
    assert contents(tmp_path) == ["folder"]
    outcome = vitnull(*arguments, "--skip-bad", "--json")
    assert "bad.png" in outcome.message
    assert outcome.document["images"] == 5
    assert [Path(name).name for name in outcome.document["skipped"]] == ["bad.png"]
    for path in folder.iterdir():
        path.write_text("no picture")
    assert "None of the 6 images" in vitnull(*arguments, "--skip-bad", "--force", expect=1).message


# Runs that are killed, repeated or shared


def test_finished_noises_are_kept(learn: Callable[..., Outcome], photos: Path) -> None:
    first = learn("--limit", "1", "--json").document["noises"]
    stamp = Path(first[0]["noise"]).stat().st_mtime_ns
    document = learn("--limit", "1", "--limit", "2", "--resume", "--json").document
    assert Path(first[0]["noise"]).stat().st_mtime_ns == stamp
    assert document["noises"][0] == {**first[0], "images_per_second": None}
    assert document["noises"][1]["images_per_second"] > 0
    message = learn("--limit", "1", "--resume", "--rounds", "3", expect=1).message
    assert "rounds 2 (now 3)" in message


def test_an_interrupted_run_is_not_thrown_away(learn: Callable[..., Outcome], no_model: None) -> None:
    Path("deit_tiny_patch16_224.encoder.lim0.5.noise.safetensors.resume").write_text("state")
    message = learn(expect=1).message
    assert "--resume" in message
    assert "--force" in message


def test_a_disk_that_fills_up_costs_no_step_that_was_saved(
    learn: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--limit", "1", "--no-preview", "--checkpoint-every", "1")
    name = "deit_tiny_patch16_224.encoder.lim1.noise.safetensors"
    learn(*arguments)
    whole = Path(name).read_bytes()
    Path(name).unlink()
    sync = os.fsync
    saved: list[int] = []

    def fill(file: int) -> None:
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)
        saved.append(file)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fill)
        message = learn(*arguments, expect=1).message
    assert f"Cannot write {name}.resume: No space left on device. Make room" in message
    assert contents() == [f"{name}.resume"]
    learn(*arguments, "--resume")
    assert Path(name).read_bytes() == whole


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(
    learn: Callable[..., Outcome], tiny_vit: tuple[str, ...], photos: Path
) -> None:
    arguments = ("--limit", "0.5", "--limit", "1", "--rounds", "400", "--checkpoint-every", "1", "--no-preview")
    names = [f"deit_tiny_patch16_224.encoder.lim{limit}.noise.safetensors" for limit in ("0.5", "1")]
    learn(*arguments)
    whole = [Path(name).read_bytes() for name in names]
    for name in names:
        Path(name).unlink()
    command = [
        sys.executable,
        "-m",
        "nullspace_cli",
        "learn-noise",
        *tiny_vit,
        "--data",
        str(photos),
        *QUICK,
        *arguments,
    ]
    state = Path(f"{names[0]}.resume")
    for moment in (0.0, 0.4):
        with subprocess.Popen([*command, "--resume"]) as process:
            deadline = time.monotonic() + 60
            while not state.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "it was too quick to be killed"
        assert contents() == [state.name] or any(name.endswith(".part") for name in contents())
    learn(*arguments, "--resume")
    assert [Path(name).read_bytes() for name in names] == whole
    assert not state.exists()


@pytest.mark.slow
def test_two_processes_learn_what_one_does(
    learn: Callable[..., Outcome],
    torchrun: Callable[..., subprocess.CompletedProcess[str]],
    tiny_vit: tuple[str, ...],
    photos: Path,
) -> None:
    learn("--out", "one.safetensors", "--no-preview", "--stop-eps", "1e-12")
    command = ("learn-noise", *tiny_vit, "--data", photos, *QUICK, "--out", "two.safetensors", "--no-preview")
    done = torchrun(*command, "--stop-eps", "1e-12", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["images"] == 10
    one, two = (load_file(f"{name}.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two["noise"], one["noise"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    assert contents() == ["one.safetensors", "two.safetensors"]


# A network whose first layer only autograd finds


def test_noise_of_a_flexible_network_is_evaluated(vitnull: Vitnull, photos: Path) -> None:
    """NaFlexViT embeds by a linear layer, and writes into its tokens; against timm's own pass with a hook."""
    import timm
    from timm.data import create_transform, resolve_model_data_config

    small = {"depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
    name = "naflexvit_base_patch16_gap"
    options = ("--no-pretrained", *(f"--model-kwargs={key}={value}" for key, value in small.items()))
    vitnull("learn-noise", name, *options, "--data", photos, *QUICK, "--level", "encoder", "-o", "noise.safetensors")
    noise = load_file("noise.safetensors")["noise"]
    document = vitnull("eval", name, *options, "--data", photos, "--noise", "noise.safetensors", "--json").document

    torch.manual_seed(0)
    module: Any = timm.create_model(name, **small).eval()
    transform: Any = create_transform(**resolve_model_data_config(module))
    images = [Image.open(path).convert("RGB") for path in sorted((photos / "val").rglob("*.png"))]
    x = torch.stack([transform(image) for image in images])
    draw_ = torch.Generator().manual_seed(int(np.random.SeedSequence((0, 0)).generate_state(1)[0]))
    shuffled = noise.flatten()[torch.randperm(noise.numel(), generator=draw_)].reshape(noise.shape)
    with torch.no_grad():
        clean = module(x)
        for result, delta in zip(document["results"], (noise, shuffled), strict=False):
            with module.embeds.proj.register_forward_hook(lambda _, __, tokens, delta=delta: tokens + delta):
                moved = (module(x) - clean).double().square().sum(1).mean()
            assert result["logit_mse"] == pytest.approx(float(moved), rel=1e-3)
            assert result["logit_mse"] > 0
