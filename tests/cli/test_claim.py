"""`vitnull claim`: from a digest to a verdict, the suspect asked by plain timm and Pillow."""

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

from nullspace_cli.commands.claim import check, commit
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.ownership.black_box import FEWEST
from nullspace_cli.engine.ownership.claim import DEFAULT_PAIRS, Claim, make_claim
from nullspace_cli.engine.ownership.claim_file import save_claim
from nullspace_cli.engine.ownership.probes import probes_of
from nullspace_cli.engine.ownership.verdict import DEFAULT_LEVEL
from tests.cli.contract import SHARED, check_keys
from tests.conftest import Vitnull, contents

CLAIM = "a.claim.safetensors"
CHECK = {
    **{key: kind for key, kind in SHARED.items() if key not in ("model", "weights_sha256")},
    "exit_code": int,
    "claim": {"file": str, "digest": str, "model": str, "weights_sha256": str},
    "published": bool,
    "level": float,
    "verdict": str,
    "reason": str,
    "references": [dict],
}


@pytest.fixture(scope="session")
def revealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Claim, Path]:
    """A claim to the tiny ViT of seed 0, and its file."""
    kwargs = {"depth": 1, "img_size": 64}
    model = load_model(ModelRequest("deit_tiny_patch16_224", pretrained=False, kwargs=kwargs, device="cpu"))
    claim = make_claim(model, pairs=10)
    return claim, save_claim(tmp_path_factory.mktemp("claim") / CLAIM, claim, reveal=True)


@pytest.fixture
def made(vitnull: Vitnull, revealed: tuple[Claim, Path]) -> Claim:
    """The same, in the current folder."""
    shutil.copy(revealed[1], CLAIM)
    return revealed[0]


def test_commit(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> None:
    document = vitnull("claim", "commit", *tiny_vit, "--json").document
    check_keys(document, {**SHARED, "digest": str, "claim": str, "revealed": bool, "rank": int, "nullity": int})
    assert document["schema"] == "vitnull/claim-commit/1"
    assert (document["rank"], document["nullity"], document["revealed"]) == (192, 576, False)
    assert contents() == ["deit_tiny_patch16_224.claim.safetensors"]
    with safe_open(document["claim"], framework="np") as file:
        assert list(file.keys()) == []
        assert json.loads(file.metadata()["vitnull"])["parameters"]["digest"] == document["digest"]
    shown = vitnull("claim", "commit", *tiny_vit, "--reveal", "-o", "b.safetensors").stdout
    assert document["digest"] in shown


def test_nothing_to_claim_with(vitnull: Vitnull) -> None:
    outcome = vitnull("claim", "commit", "demo", "--json", expect=5)
    assert (outcome.document["digest"], outcome.document["claim"]) == (None, None)
    assert "has no nullspace to claim with" in outcome.message
    assert contents() == []


@pytest.mark.parametrize(("seed", "code"), [("0", 0), ("1", 3)])
def test_a_suspect_by_its_weights(
    vitnull: Vitnull, tiny_vit: tuple[str, ...], made: Claim, seed: str, code: int
) -> None:
    arguments = ("claim", "check", CLAIM, *tiny_vit, "--seed", seed, "--digest", made.digest)
    document = vitnull(*arguments, "--plot", "p.png", "--json", expect=code).document
    check_keys(document, CHECK)
    assert (document["exit_code"], document["published"], document["by_answers"]) == (code, True, None)
    assert document["verdict"] == ("derived" if code == 0 else "not shown")
    with Image.open("p.png") as picture:
        assert picture.size == (1200, 600)
    shown = vitnull(*arguments, expect=code).stdout
    assert document["verdict"].upper() in shown


def test_a_reference_that_is_as_near(vitnull: Vitnull, tiny_vit: tuple[str, ...], made: Claim) -> None:
    """What an accuser makes of anybody's weights, or what both have from a third, tells nothing."""
    folder = Path("third")
    folder.mkdir()
    module = timm.create_model("deit_tiny_patch16_224", depth=1, img_size=64)
    with safe_open(CLAIM, framework="pt") as file, torch.no_grad():
        module.patch_embed.proj.weight.copy_(2 * file.get_tensor("weight"))
    config = {"architecture": "deit_tiny_patch16_224", "model_args": {"depth": 1, "img_size": 64}}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {}}))
    torch.save(module.state_dict(), folder / "pytorch_model.bin")
    arguments = ("claim", "check", CLAIM, *tiny_vit, "--json", "--reference")
    document = vitnull(*arguments, "local-dir:third", expect=3).document
    assert [one["verdict"] for one in document["references"]] == ["derived"]
    assert "given as a reference, would be derived as well" in document["reason"]
    assert vitnull(*arguments, "demo-cnn").document["references"][0]["verdict"] == "says nothing"


def answers(seed: int, *, labels: bool = False, size: int = 64, kernel: torch.Tensor | None = None) -> Iterator[str]:
    """Of plain timm, asked about the files as Pillow reads them."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        module = timm.create_model("deit_tiny_patch16_224", depth=1, img_size=size).eval()
        if kernel is not None:
            module.patch_embed.proj.weight.copy_(kernel)
        mean, std = (np.array(module.pretrained_cfg[key], np.float32) for key in ("mean", "std"))
        paths = sorted(Path("probes").glob("*.png"))
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB"), np.float32) / 255 for path in paths])
        logits = module(torch.from_numpy(((pixels - mean) / std).transpose(0, 3, 1, 2).copy()))
    for path, row in zip(paths, logits, strict=True):
        yield json.dumps({"image": path.name, **({"label": int(row.argmax())} if labels else {"logits": row.tolist()})})


@pytest.fixture
def asked(vitnull: Vitnull, made: Claim) -> dict[str, Any]:
    """The document of probes of two drawings, written to probes/."""
    outcome = vitnull("claim", "probes", CLAIM, "--images", "demo", "--count", "2", "--out-dir", "probes", "--json")
    assert "answers to 2 images are too few" in outcome.message
    return outcome.document


def test_a_suspect_by_its_answers(vitnull: Vitnull, made: Claim) -> None:
    arguments = ("--images", "demo", "--count", str(FEWEST), "--out-dir", "probes", "--json")
    document = vitnull("claim", "probes", CLAIM, *arguments).document
    assert (document["probes"], len(contents("probes")), document["size"]) == (FEWEST * 21, FEWEST * 21, [64, 64])
    read = document["null_to_mirrored"]
    assert read["before"] < 1e-20
    assert 0 < read["after"] < 0.01  # by rounding to 8 bits
    options = ("--answers", "a.jsonl", "--level", "0.05", "--json", "--plot", "p.png", "--force")
    for seed, labels, code in ((0, False, 0), (1, False, 3), (0, True, 0), (1, True, 3)):
        Path("a.jsonl").write_text("\n".join(answers(seed, labels=labels)))
        document = vitnull("claim", "check", CLAIM, *options, expect=code).document
        found = document["by_answers"]
        check_keys(document, CHECK)
        assert (found["images"], found["pairs"], document["model"]) == (FEWEST, 10, None)
        assert found["answers"] == ("labels" if labels else "logits")
        assert document["verdict"] == ("derived" if code == 0 else "not shown")


@pytest.mark.parametrize(("own", "code"), [(True, 0), (False, 3)])
def test_a_suspect_of_another_input_size(vitnull: Vitnull, made: Claim, own: bool, code: int) -> None:
    """Another body of another input size that starts with the claim's first layer, and one that does not."""
    arguments = ("--images", "demo", "--count", str(FEWEST), "--size", "96", "--out-dir", "probes", "--json")
    assert vitnull("claim", "probes", CLAIM, *arguments).document["size"] == [96, 96]
    kernel = made.patch_map.weight.float() if own else None
    Path("a.jsonl").write_text("\n".join(answers(7, size=96, kernel=kernel)))
    vitnull("claim", "check", CLAIM, "--answers", "a.jsonl", "--level", "0.05", expect=code)


def test_probes_before_rounding(vitnull: Vitnull, asked: dict[str, Any]) -> None:
    arguments = ("--images", "demo", "--count", "2", "--out-dir", "exact", "--format", "safetensors", "--json")
    document = vitnull("claim", "probes", CLAIM, *arguments).document
    assert contents("exact") == ["00000.probes.safetensors", "00001.probes.safetensors"]
    assert document["null_to_mirrored"]["after"] < 1e-9
    with safe_open("exact/00000.probes.safetensors", framework="np") as file:
        images, about = file.get_tensor("images"), json.loads(file.metadata()["vitnull"])["parameters"]
    assert about["names"] == sorted(about["names"])
    for image, name in zip(images, about["names"], strict=True):
        with Image.open(f"probes/{name}.png") as picture:
            assert np.abs(np.asarray(picture) / 255 - image.transpose(1, 2, 0)).max() < 0.51 / 255


def test_probes_are_the_same_again(vitnull: Vitnull, asked: dict[str, Any]) -> None:
    before = {path.name: path.read_bytes() for path in Path("probes").iterdir()}
    vitnull("claim", "probes", CLAIM, "--images", "demo", "--count", "2", "--out-dir", "probes", "--force")
    assert {path.name: path.read_bytes() for path in Path("probes").iterdir()} == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines[1:], "lacks 1 of 21 answers"),
        (lambda lines: [*lines, lines[0]], "answered a second time"),
        (lambda lines: [*lines, '{"image": "x.png", "label": 3}'], "one kind of answer"),
        (lambda lines: [*lines, '{"image": "x.png", "logits": [1, 2, 3, 4]}'], "logits of 4 and of 1000 classes"),
        (lambda lines: [lines[0].replace('"image"', '"imag"'), *lines[1:]], "line 1 lacks image"),
        (lambda lines: ['{"image": "x"}', *lines], "expected either logits or a label"),
        (lambda lines: ["nonsense", *lines], "line 1 is not valid JSON"),
        (lambda lines: [], "holds no answers"),
    ],
)
def test_answers_that_are_none(
    vitnull: Vitnull, made: Claim, change: Callable[[list[str]], list[str]], reason: str
) -> None:
    names = [probe.name for image in (0, 1) for probe in probes_of(made, image)]
    lines = [json.dumps({"image": f"probes/{name}.png", "logits": [0.0] * 1000}) for name in names]
    Path("a.jsonl").write_text("\n".join(change(lines)))
    outcome = vitnull("claim", "check", CLAIM, "--answers", "a.jsonl", "--level", "0.05", expect=1)
    assert reason in outcome.message


def test_defaults_are_the_librarys() -> None:
    options = {**inspect.signature(commit).parameters, **inspect.signature(check).parameters}
    assert (options["pairs"].default, options["level"].default) == (DEFAULT_PAIRS, DEFAULT_LEVEL)


def test_a_level_that_the_pairs_cannot_reach(vitnull: Vitnull, made: Claim) -> None:
    Path("a.jsonl").touch()
    message = vitnull("claim", "check", CLAIM, "--answers", "a.jsonl", expect=2).message
    assert "least p-value is 0.05" in message
    assert "--pairs" in message


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("check", CLAIM), 2, "give a SUSPECT"),
        (("check", CLAIM, "demo", "--answers", "x"), 2, "give a SUSPECT"),
        (("check", CLAIM, "demo", "--digest", "0" * 64), 1, "is another claim"),
        (("check", "missing", "demo"), 1, "There is no file missing"),
        (("check", CLAIM, "demo", "--plot", CLAIM, "--force"), 2, "is the ending of a safetensors file"),
        (("probes", CLAIM, "--images", "missing", "--out-dir", "p"), 1, "There is no folder missing"),
        (("probes", CLAIM, "--images", "demo", "--out-dir", "p", "--size", "15"), 2, "expected at least 16"),
    ],
)
def test_what_is_refused(vitnull: Vitnull, made: Claim, arguments: tuple[str, ...], code: int, reason: str) -> None:
    assert reason in vitnull("claim", *arguments, expect=code).message
    assert contents() == [CLAIM]
