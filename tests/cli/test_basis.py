"""`vitnull basis`: its document, its files held against the model's own weight, and every way it can be refused."""

import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.contract import BASIS, SHARED, check_keys
from tests.conftest import Outcome, Vitnull, contents

Array = NDArray[np.float64]
NAME = "deit_tiny_patch16_224.basis"
ARTEFACT, PREVIEW = f"{NAME}.safetensors", f"{NAME}.png"
STD = np.array([0.229, 0.224, 0.225])  # of the tiny ViT's data config, ImageNet's


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny ViT with weights of its own."""
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        module = timm.create_model("deit_tiny_patch16_224", depth=1, img_size=64)
    save_file(module.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_basis(tiny_vit: tuple[str, ...], weights: Path) -> tuple[str, ...]:
    """Arguments for the basis of those weights, without what takes time."""
    return ("basis", *tiny_vit, "--checkpoint", str(weights), "--no-preview", "--no-check")


def tensors_of(path: str) -> dict[str, Array]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary


def provenance_of(path: str) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        (text,) = file.metadata().values()
    provenance: dict[str, Any] = json.loads(text)
    return provenance


def kernel_of(weights: Path) -> Array:
    return load_file(weights)["patch_embed.proj.weight"].double().numpy()


# The document and the files


def test_the_document_has_all_keys(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    document = vitnull("basis", *tiny_vit, "--json").document
    check_keys(document, BASIS)
    assert document["model"] == "deit_tiny_patch16_224.fb_in1k"
    assert (document["kind"], document["space"], document["in_chans"]) == ("patch", "pixel", 3)
    assert (document["patch_size"], document["patch_dim"], document["embed_dim"]) == ([16, 16], 768, 192)
    assert (document["rank"], document["nullity"]) == (192, 576)
    assert document["nullity_per_channel"] == [64, 64, 64]
    assert document["check"]["passed"]
    assert document["check"]["null_logit_mse"] < 1e-6 * document["check"]["random_logit_mse"]
    assert document["check"]["residual"] < 1e-12
    assert (document["basis"], document["preview"]) == (ARTEFACT, PREVIEW)
    assert contents() == [PREVIEW, ARTEFACT]


@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_the_basis_is_the_weights_nullspace(
    vitnull: Vitnull, tiny_basis: tuple[str, ...], weights: Path, space: str
) -> None:
    document = vitnull(*tiny_basis, "--space", space, "--json").document
    tensors, kernel = tensors_of(ARTEFACT), kernel_of(weights)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "basis": (576, 3, 16, 16),
        "row_space": (192, 3, 16, 16),
        "singular_values": (192,),
    }
    B, R = (tensors[name].reshape(-1, 768) for name in ("basis", "row_space"))
    both = np.concatenate([B, R])
    assert np.abs(both @ both.T - np.eye(768)).max() < 1e-12
    maps = {"pixel": kernel / STD[:, None, None], "normalized": kernel}
    A, other = (maps[name].reshape(192, 768) for name in (space, {"pixel", "normalized"}.difference([space]).pop()))
    assert np.abs(A @ B.T).max() < 1e-12
    assert np.abs(other @ B.T).max() > 1e-4  # the spaces do differ
    sigma = np.linalg.svd(A, compute_uv=False)
    assert np.allclose(tensors["singular_values"], sigma, rtol=1e-10)
    assert document["space"] == space
    assert (document["sigma_max"], document["sigma_min"]) == pytest.approx((sigma[0], sigma[-1]))


def test_per_channel(vitnull: Vitnull, tiny_basis: tuple[str, ...], weights: Path) -> None:
    document = vitnull(*tiny_basis, "--per-channel", "--json").document
    assert (document["rank"], document["nullity"], document["nullity_per_channel"]) == (576, 192, [64, 64, 64])
    basis, kernel = tensors_of(ARTEFACT)["basis"], kernel_of(weights)
    assert basis.shape == (192, 3, 16, 16)
    touched = basis.any(axis=(2, 3))
    assert (touched.sum(1) == 1).all()
    assert touched.sum(0).tolist() == [64, 64, 64]
    for channel in range(3):
        assert np.abs(np.einsum("kij,dij->kd", basis[:, channel], kernel[:, channel])).max() < 1e-12
    assert provenance_of(ARTEFACT)["parameters"]["per_channel"] is True


def test_compact_leaves_the_basis_out(vitnull: Vitnull, tiny_basis: tuple[str, ...]) -> None:
    vitnull(*tiny_basis)
    vitnull(*tiny_basis, "--compact", "-o", "compact.safetensors")
    whole, compact = tensors_of(ARTEFACT), tensors_of("compact.safetensors")
    assert set(compact) == {"row_space", "singular_values"}
    assert all(np.array_equal(compact[name], whole[name]) for name in compact)


def test_rtol_is_the_cut_off(vitnull: Vitnull, tiny_basis: tuple[str, ...]) -> None:
    vitnull(*tiny_basis)
    sigma = tensors_of(ARTEFACT)["singular_values"]
    rtol = float((sigma[99] + sigma[100]) / 2 / sigma[0])
    document = vitnull(*tiny_basis, "--rtol", str(rtol), "-o", "near.safetensors", "--json").document
    assert (document["rank"], document["nullity"]) == (100, 668)
    assert document["rtol"] == rtol
    assert document["output_bound"] == pytest.approx(sigma[100])
    exact = vitnull(*tiny_basis, "--force", "--json").document
    assert exact["output_bound"] == 0
    assert exact["spectrum"] == document["spectrum"]
    assert exact["spectrum"][0]["share_below"]["0.1"] == ((sigma <= 0.1 * sigma[0]).sum() + 768 - len(sigma)) / 768
    assert [provenance_of(name)["parameters"]["near"] for name in (ARTEFACT, "near.safetensors")] == [False, True]
    assert tensors_of("near.safetensors")["basis"].shape[0] == 668


def test_provenance(vitnull: Vitnull, tiny_basis: tuple[str, ...]) -> None:
    document = vitnull(*tiny_basis, "--rtol", "0.001", "--json").document
    provenance = provenance_of(ARTEFACT)
    assert {"schema", "kind", "space", "model", "weights_sha256", "seed", "parameters", "parents"} == set(provenance)
    assert (provenance["schema"], provenance["kind"], provenance["space"]) == ("vitnull/basis/1", "basis", "pixel")
    assert provenance["model"] == document["model"]
    assert provenance["weights_sha256"] == document["weights_sha256"]
    assert re.fullmatch("[0-9a-f]{64}", provenance["weights_sha256"])
    assert provenance["parameters"]["rtol"] == 0.001


def test_the_same_bytes_in_another_process(vitnull: Vitnull, process: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    here = vitnull("basis", *tiny_vit, "-o", "here.safetensors", "--json")
    there = process("basis", *tiny_vit, "-o", "there.safetensors", "--json")
    assert there.stderr == ""
    for kind in ("safetensors", "png"):
        assert Path(f"here.{kind}").read_bytes() == Path(f"there.{kind}").read_bytes()
    changing = {"seconds", "basis", "preview"}
    first, second = ({k: v for k, v in outcome.document.items() if k not in changing} for outcome in (here, there))
    assert first == second


def test_the_seed_draws_the_random_weights(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    arguments = ("basis", *tiny_vit, "--no-preview", "--force", "--json")
    hashes = [vitnull(*arguments, "--seed", seed).document["weights_sha256"] for seed in ("0", "1", "0")]
    assert hashes[0] == hashes[2] != hashes[1]


def test_without_check_and_preview(vitnull: Vitnull, tiny_basis: tuple[str, ...]) -> None:
    document = vitnull(*tiny_basis, "--json").document
    assert (document["check"], document["preview"]) == (None, None)
    assert contents() == [ARTEFACT]


def test_out_names_both_files(vitnull: Vitnull, tiny_vit: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    document = vitnull("basis", *tiny_vit, "--out", "folder/v1.basis.safetensors", "--json").document
    assert (document["basis"], document["preview"]) == ("folder/v1.basis.safetensors", "folder/v1.basis.png")
    assert contents("folder") == ["v1.basis.png", "v1.basis.safetensors"]


def test_the_preview_shows_something(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    vitnull("basis", *tiny_vit)
    with Image.open(PREVIEW) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"), np.float64)
    height, width, _ = pixels.shape
    assert min(height, width) >= 300
    # All four quarters are drawn on.
    for rows in (pixels[: height // 2], pixels[height // 2 :]):
        for quarter in (rows[:, : width // 2], rows[:, width // 2 :]):
            assert quarter.std() > 5


def test_a_check_that_fails(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    outcome = vitnull("basis", *tiny_vit, "--rtol", "0.9", "--no-preview", "--json", expect=3)
    assert outcome.document["check"]["passed"] is False
    assert "--rtol" in outcome.message
    assert contents() == [ARTEFACT]


def test_a_check_that_says_nothing(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    outcome = vitnull("basis", *tiny_vit, "--model-kwargs", "weight_init=jax", "--no-preview", "--json")
    assert outcome.document["check"]["passed"] is None
    assert outcome.message.startswith("vitnull: warning: ")


def test_a_model_without_a_head_is_checked_by_its_features(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    document = vitnull("basis", *tiny_vit, "--model-kwargs", "num_classes=0", "--no-preview", "--json").document
    assert document["check"]["passed"]


# Nothing is lost


@pytest.mark.parametrize("name", [ARTEFACT, PREVIEW])
def test_no_file_is_overwritten(vitnull: Vitnull, no_model: None, tiny_vit: tuple[str, ...], name: str) -> None:
    Path(name).write_text("precious")
    outcome = vitnull("basis", *tiny_vit, expect=1)
    assert f"{name} exists already" in outcome.message
    assert "--force" in outcome.message
    assert contents() == [name]
    assert Path(name).read_text() == "precious"


def test_force_overwrites(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    for name in (ARTEFACT, PREVIEW):
        Path(name).write_text("precious")
    vitnull("basis", *tiny_vit, "--force")
    assert "basis" in tensors_of(ARTEFACT)
    assert Path(PREVIEW).read_bytes().startswith(b"\x89PNG")
    assert contents() == [PREVIEW, ARTEFACT]


def test_a_failure_keeps_what_force_would_overwrite(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    Path(ARTEFACT).write_text("precious")
    vitnull("basis", *tiny_vit, "--checkpoint", "missing.pth", "--force", expect=1)
    assert Path(ARTEFACT).read_text() == "precious"


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("missing/basis.safetensors", "the folder missing does not exist"),
        ("file/basis.safetensors", "Cannot write file/basis.safetensors"),
        ("folder", "it is a folder"),
    ],
)
def test_output_that_cannot_be_written(
    vitnull: Vitnull, no_model: None, tiny_vit: tuple[str, ...], out: str, reason: str
) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    outcome = vitnull("basis", *tiny_vit, "-o", out, expect=1)
    assert reason in outcome.message
    assert contents() == ["file", "folder"]


def test_the_preview_does_not_take_the_basis_name(vitnull: Vitnull, no_model: None, tiny_vit: tuple[str, ...]) -> None:
    assert "basis.png" in vitnull("basis", *tiny_vit, "-o", "basis.png", expect=2).message
    assert contents() == []


def test_two_processes_write_one_file(tmp_path: Path, tiny_basis: tuple[str, ...]) -> None:
    # Each has written its temporary file, and waits for the other before it moves that into place.
    code = """
import sys
from nullspace_cli.engine.files import writing
link = writing.os.link
def wait_and_link(*arguments):
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.readline()
    link(*arguments)
writing.os.link = wait_and_link
from nullspace_cli.__main__ import main
main()
"""
    command = [sys.executable, "-c", code, *tiny_basis, "-o", "basis.safetensors", "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        for process in processes:
            assert process.stderr.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        ended = [Outcome(0, *process.communicate(timeout=300)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1]
    loser = ended[codes.index(1)]
    assert loser.stdout == ""
    assert "basis.safetensors was written by another process" in loser.message
    assert ended[codes.index(0)].document["nullity"] == 576
    assert contents(tmp_path) == ["basis.safetensors"]
    assert tensors_of(str(tmp_path / "basis.safetensors"))["basis"].shape == (576, 3, 16, 16)


# Models without an exact nullspace: exit code 5


@pytest.mark.parametrize(
    ("arguments", "kind", "nullity", "reason"),
    [
        (["demo-cnn"], "affine", 0, "first layers read 150528 numbers by "),
        (["resnet10t", "--no-pretrained"], "affine", 0, "and the rank is proven to be full"),
        (["demo-cnn", "--per-channel"], "affine", None, "overlapping windows"),
        (["{tiny}", "--model-kwargs", "patch_size=8"], "patch", 0, "192 numbers to 192 with full rank"),
        (["{tiny}", "--model-kwargs", "patch_size=12", "--per-channel"], "patch", 0, "leave out --per-channel"),
    ],
    ids=["demo-cnn", "resnet", "no patches", "full rank", "full rank per channel"],
)
def test_models_without_a_nullspace(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], arguments: list[str], kind: str, nullity: int | None, reason: str
) -> None:
    given = [word for argument in arguments for word in (tiny_vit if argument == "{tiny}" else [argument])]
    outcome = vitnull("basis", *given, "--json", expect=5)
    document = outcome.document
    check_keys(document, SHARED)
    assert document["schema"] == "vitnull/basis/1"
    assert (document["kind"], document["nullity"]) == (kind, nullity)
    looked_at = "--per-channel" not in given
    picture = f"{given[0]}.basis.png" if looked_at else None
    assert (document["check"], document["basis"], document["preview"]) == (None, None, picture)
    assert ("spectrum" in document) is (looked_at or kind == "patch")
    assert reason.casefold() in outcome.message.casefold()
    assert outcome.stderr.startswith(f"vitnull: error: {document['model']} has no exact ")
    assert outcome.stderr.count("\n") == 1
    assert contents() == [picture] * looked_at
    shown = vitnull("basis", *given, "--force", "--no-preview", expect=5).stdout
    assert ("spectrum" in shown) is bool(shown) is ("spectrum" in document)


def test_the_near_nullspace_of_a_cnn(vitnull: Vitnull) -> None:
    """Where there is no exact nullspace: how little is read is proven, what it does to the logits is measured."""
    outcome = vitnull("basis", "demo-cnn", "--rtol", "0.3", "--json", expect=3)
    document, check = outcome.document, outcome.document["check"]
    assert (document["kind"], document["nullity_proof"]["method"]) == ("affine", "inertia")
    assert document["nullity"] == 150528 - document["rank"]
    assert document["output_bound"] == pytest.approx(0.3 * document["sigma_max"])
    assert 0 < check["residual"] <= 0.3
    assert 0 < check["null_change"] < check["random_change"]
    assert contents() == ["demo-cnn.basis.png", "demo-cnn.basis.safetensors"]
    assert provenance_of("demo-cnn.basis.safetensors")["kind"] == "near_basis"
    shown = vitnull("basis", "demo-cnn", "--rtol", "0.3", "--no-preview", "--no-check", "--force").stdout
    assert "of its noise at most 0.3 of the largest is read" in shown
    assert "nullity" not in shown


def test_pixels_that_no_patch_holds(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    """Images of 70 have a border of 6 beside patches of 16."""
    given = ("basis", *tiny_vit, "--model-kwargs", "img_size=70", "--no-preview")
    assert vitnull(*given, "--json").document["unread"] == 3 * (70 * 70 - 64 * 64)
    assert "2412 numbers of an image lie in no patch" in vitnull(*given, "--force").stdout


# Models that cannot be had: exit code 1, nothing written


def refused(vitnull: Vitnull, *arguments: str | Path) -> str:
    """The one message with which `vitnull basis` refuses, having written nothing."""
    before = contents()
    outcome = vitnull("basis", *arguments, "--json", expect=1)
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("vitnull: error: ")
    assert outcome.stderr.count("vitnull: error: ") == 1
    assert "Traceback" not in outcome.stderr
    assert contents() == before
    return outcome.message


@pytest.mark.parametrize("options", [[], ["--no-pretrained"]], ids=["pretrained", "random"])
def test_unknown_names_bring_a_suggestion(vitnull: Vitnull, options: list[str]) -> None:
    message = refused(vitnull, "vit_smal_patch32_224", *options)
    assert "vit_smal_patch32_224" in message
    assert "vit_small_patch32_224" in message


@pytest.mark.parametrize("options", [[], ["--no-pretrained"]], ids=["pretrained", "random"])
def test_unknown_tags_bring_the_known_ones(vitnull: Vitnull, options: list[str]) -> None:
    message = refused(vitnull, "vit_small_patch32_224.laion7b", *options)
    assert "laion7b" in message
    assert "augreg_in21k_ft_in1k" in message


@pytest.mark.parametrize("model", ["test_vit", "test_vit.r160_in1k", "hf-hub:timm/test_vit.r160_in1k"])
def test_weights_that_cannot_be_fetched(vitnull: Vitnull, model: str) -> None:
    message = refused(vitnull, model)
    assert f"The weights of {model} could not be fetched" in message
    for way_out in ("--checkpoint", "local-dir:", "demo"):
        assert way_out in message


def test_offline_never_asks_the_network(vitnull: Vitnull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "could not be fetched" in refused(vitnull, "test_vit", "--offline")


def test_a_machine_without_network(vitnull: Vitnull, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", unreachable)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert "could not be fetched" in refused(vitnull, "test_vit")


def test_weights_that_nobody_publishes(vitnull: Vitnull) -> None:
    message = refused(vitnull, "vit_small_patch8_224")
    assert "vit_small_patch8_224" in message
    assert "--checkpoint" in message


def test_arguments_that_the_model_does_not_take(vitnull: Vitnull) -> None:
    message = refused(vitnull, "test_vit", "--no-pretrained", "--model-kwargs", "colour=blue")
    assert "colour" in message
    assert "--model-kwargs" in message


def test_cached_weights_are_found_offline(vitnull: Vitnull, tmp_path: Path) -> None:
    """In the folder that VITNULL_CACHE names, laid out as the hub's client does."""
    repository = tmp_path / "cache" / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    snapshot.mkdir(parents=True)
    save_file(timm.create_model("test_vit").state_dict(), snapshot / "model.safetensors")
    environment = {"VITNULL_CACHE": str(tmp_path / "cache")}
    document = vitnull("basis", "test_vit", "--offline", "--no-preview", "--json", env=environment).document
    assert document["model"] == "test_vit.r160_in1k"
    expected = load_file(snapshot / "model.safetensors")["patch_embed.proj.weight"].flatten(1).double().numpy()
    B = tensors_of("test_vit.basis.safetensors")["basis"].reshape(704, 768)
    assert np.abs(expected @ B.T).max() < 1e-12


def test_a_local_folder(vitnull: Vitnull, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    arguments = {"num_classes": 7, "embed_dim": 32, "num_heads": 2}
    config = {"architecture": "test_vit", "model_args": arguments, "pretrained_cfg": {"std": [0.5, 0.25, 0.2]}}
    (folder / "config.json").write_text(json.dumps(config))
    module = timm.create_model("test_vit", **arguments)
    save_file(module.state_dict(), folder / "model.safetensors")
    document = vitnull("basis", "local-dir:./models/mine", "--no-preview", "--json").document
    assert document["model"] == "local-dir:./models/mine"
    assert (document["rank"], document["basis"]) == (32, "mine.basis.safetensors")
    B = tensors_of("mine.basis.safetensors")["basis"].reshape(736, 768)
    kernel = module.state_dict()["patch_embed.proj.weight"].double().numpy()
    A = (kernel / np.array([0.5, 0.25, 0.2])[:, None, None]).reshape(32, 768)
    assert np.abs(A @ B.T).max() < 1e-12


@pytest.mark.parametrize("make", [False, True], ids=["no folder", "no config"])
@pytest.mark.parametrize("options", [[], ["--no-pretrained"]], ids=["pretrained", "random"])
def test_a_local_folder_without_a_model(vitnull: Vitnull, tmp_path: Path, make: bool, options: list[str]) -> None:
    if make:
        (tmp_path / "empty").mkdir()
    message = refused(vitnull, "local-dir:empty", *options)
    assert "local-dir:empty" in message
    assert "config.json" in message


# Checkpoints


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_checkpoints(vitnull: Vitnull, tiny_vit: tuple[str, ...], weights: Path, tmp_path: Path, suffix: str) -> None:
    path = weights
    if suffix == ".pth":
        path = tmp_path / "own.pth"
        torch.save(load_file(weights), path)
    arguments = ("basis", *tiny_vit, "--checkpoint", str(path), "--no-preview", "--no-check", "--json")
    document = vitnull(*arguments).document
    B = tensors_of(ARTEFACT)["basis"].reshape(576, 768)
    A = (kernel_of(weights) / STD[:, None, None]).reshape(192, 768)
    assert np.abs(A @ B.T).max() < 1e-12
    # They are other weights than the random ones.
    random = vitnull("basis", *tiny_vit, "--no-preview", "--no-check", "--json", "--force").document
    assert random["weights_sha256"] != document["weights_sha256"]


class Malicious:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ".bin"])
def test_code_in_a_checkpoint_is_never_run(vitnull: Vitnull, tiny_vit: tuple[str, ...], suffix: str) -> None:
    path = Path(f"evil{suffix}")
    for write in (lambda file: torch.save({"weight": Malicious()}, file), lambda file: pickle.dump(Malicious(), file)):
        with path.open("wb") as file:
            write(file)
        assert path.name in refused(vitnull, *tiny_vit, "--checkpoint", path)
        assert not Path("executed").exists()


def test_code_in_a_local_folder_is_never_run(vitnull: Vitnull) -> None:
    Path("evil").mkdir()
    Path("evil/config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": {}}))
    torch.save({"weight": Malicious()}, "evil/pytorch_model.bin")
    assert "local-dir:evil" in refused(vitnull, "local-dir:evil")
    assert not Path("executed").exists()


def test_code_in_a_file_of_the_hub_is_never_run(vitnull: Vitnull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITNULL_CACHE", "cache")
    repository = Path("cache/models--org--evil")
    snapshot = repository / "snapshots" / "1"
    for folder in (snapshot, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("1")
    config = {"architecture": "test_vit", "pretrained_cfg": {"hf_hub_filename": "evil.bin"}}
    (snapshot / "config.json").write_text(json.dumps(config))
    torch.save({"weight": Malicious()}, snapshot / "evil.bin")
    assert "hf-hub:org/evil" in refused(vitnull, "hf-hub:org/evil")
    assert not Path("executed").exists()


def test_code_in_a_numpy_checkpoint_is_never_run(vitnull: Vitnull) -> None:
    np.savez("evil.npz", **{"embedding/kernel": np.array([Malicious()], dtype=object)})  # type: ignore[arg-type]
    assert "evil.npz" in refused(
        vitnull, "vit_tiny_patch16_224", "--model-kwargs", "depth=1", "--checkpoint", "evil.npz"
    )
    assert not Path("executed").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numpy leaves a cut off .npz open
@pytest.mark.parametrize("kind", ["missing", "folder", "noise", "cut off", "empty", "list", "foreign", "other shape"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_checkpoints_that_do_not_fit(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], weights: Path, kind: str, suffix: str
) -> None:
    path = Path(f"bad{suffix}")
    state = load_file(weights)
    foreign = {"encoder.weight": torch.ones(3, 4)}
    reshaped = {**state, "patch_embed.proj.weight": torch.ones(192, 3, 8, 8), "norm.weight": torch.ones(5)}

    def save(tensors: Any) -> None:
        if suffix == ".safetensors":
            save_file(tensors, path)
        elif suffix == ".pth":
            torch.save(tensors, path)
        else:
            np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})

    if kind == "folder":
        path.mkdir()
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(4096))
    elif kind == "cut off":
        save(state)
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "empty":
        path.touch()
    elif kind == "list":
        if suffix != ".pth":
            pytest.skip("a format of named tensors")
        save([torch.ones(3)])
    elif kind == "foreign":
        save(foreign)
    elif kind == "other shape":
        save(reshaped)
    message = refused(vitnull, *tiny_vit, "--checkpoint", path)
    assert path.name in message


def test_a_checkpoint_of_another_architecture(vitnull: Vitnull, tiny_vit: tuple[str, ...], tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "other.safetensors")
    message = refused(vitnull, *tiny_vit, "--checkpoint", "other.safetensors")
    assert "other.safetensors" in message
    assert "--model-kwargs" in message


def test_a_checkpoint_gives_every_tensor(vitnull: Vitnull, tiny_vit: tuple[str, ...], weights: Path) -> None:
    state = load_file(weights)
    del state["blocks.0.attn.qkv.weight"]
    save_file(state, "lacking.safetensors")
    assert "blocks.0.attn.qkv.weight" in refused(vitnull, *tiny_vit, "--checkpoint", "lacking.safetensors")
    shutil.copy(weights, "whole.safetensors")
    vitnull("basis", *tiny_vit, "--checkpoint", "whole.safetensors", "--no-preview", "--no-check")
