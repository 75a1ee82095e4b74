"""`vitnull fool`: what the files hold, measured again with plain timm, NumPy and SciPy; and what is refused."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from nullspace_cli.demo.drawing import draw
from tests.cli.contract import FOOL, SIMILARITY, check_keys
from tests.cli.reference import Array, Reference, pixels_of
from tests.conftest import Outcome, Vitnull, contents

NAMES = [f"source.target.{ending}" for ending in ("fooled.png", "fooled.safetensors", "noise.png", "sheet.png")]
IMAGE, EXACT, NOISE, SHEET = NAMES


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A source and a target of odd sizes, neither of the model's."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    paths = folder / "source.png", folder / "target.png"
    for path, index, box in zip(paths, (3, 4), ((70, 97), (81, 80)), strict=True):
        pixels, _ = draw("test", index, size=max(box))
        Image.fromarray(pixels[: box[0], : box[1]]).save(path)
    return paths


@pytest.fixture
def fool(vitnull: Vitnull, tiny_vit: tuple[str, ...], pair: tuple[Path, Path]) -> Vitnull:
    """`vitnull fool source.png target.png --model <the tiny ViT> --strength 1 --json`, with further options."""

    def fool(*arguments: str | Path, **options: Any) -> Outcome:
        fixed = () if "--strength" in arguments else ("--strength", "1")
        return vitnull(
            "fool", *pair, "--model", *tiny_vit, "--json", "--explain", "none", *fixed, *arguments, **options
        )

    return fool


def exact() -> tuple[Array, Array, Array]:
    tensors = load_file(EXACT)
    image, source, target = (tensors[name].double().numpy() for name in ("image", "source", "target"))
    assert np.array_equal(tensors["noise"].double().numpy(), image - source)
    return image, source, target


def patches(image: Array, side: int = 16) -> Array:
    count = image.shape[1] // side
    blocks = image.reshape(3, count, side, count, side).transpose(1, 3, 0, 2, 4)
    return np.asarray(blocks.reshape(count * count, -1))


def matrix(reference: Reference) -> Array:
    """A = W diag(1 / std), on patches in pixel space."""
    std = np.array(reference.config["std"])[:, None, None]
    return np.asarray((reference.kernel.numpy() / std).reshape(len(reference.kernel), -1))


def logits(reference: Reference, image: Array) -> torch.Tensor:
    mean, std = (np.array(reference.config[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        answer: torch.Tensor = reference.module(torch.from_numpy((image - mean) / std).float()[None])[0]
    return answer


# Unbounded


def test_the_papers_setting(fool: Vitnull, tiny: Reference, pair: tuple[Path, Path]) -> None:
    document = fool("--channels", "red").document
    check_keys(document, FOOL)
    image, source, target = exact()
    assert np.abs(source - tiny.visible(pair[0])).max() < 1e-6
    assert np.array_equal(image[1:], target[1:])
    A = matrix(tiny)
    x, t, z = patches(source), patches(target), patches(image)
    assert np.abs((z - x) @ scipy.linalg.orth(A.T)).max() < 1e-9
    red = A[:, :256]
    for i in range(len(z)):  # A_r z_r = A x - A_g t_g - A_b t_b, nearest to t_r
        shortest, *_ = np.linalg.lstsq(red, A @ (x[i] - t[i]), rcond=None)
        assert np.allclose(z[i, :256] - t[i, :256], shortest, atol=1e-7 * np.abs(shortest).max())
    assert document["range"] == [pytest.approx(image.min()), pytest.approx(image.max())]
    assert document["range"][1] > 1
    assert document["bounded"] is False
    change = logits(tiny, image) - logits(tiny, source)
    assert float(change.abs().max()) < 1e-3 * float(logits(tiny, source).abs().max())
    assert document["match"] is True


@pytest.mark.parametrize("norm", ["1", "2"])
def test_the_float_image_is_the_source_to_the_network(fool: Vitnull, tiny: Reference, norm: str) -> None:
    document = fool("--unbounded", "--norm", norm).document
    check_keys(document, FOOL)
    image, source, target = exact()
    assert np.abs((patches(image) - patches(source)) @ scipy.linalg.orth(matrix(tiny).T)).max() < 1e-9
    old, new = logits(tiny, source), logits(tiny, image)
    assert float((new - old).abs().max()) < 1e-4 * float(old.abs().max())
    answers = document["prediction"]
    for name, picture in (("source", source), ("target", target), ("transformed", image)):
        probabilities = logits(tiny, picture).double().softmax(0)
        assert answers[name]["class"] == int(probabilities.argmax())
        assert answers[name]["probability"] == pytest.approx(float(probabilities.max()), rel=1e-3)
    assert document["logit_mse"] == pytest.approx(float((new - old).double().square().sum()), abs=1e-6)
    assert (document["verified"], document["solver"]["norm"]) == (True, int(norm))
    # Every other solution on the line through the source is farther away.
    order = int(norm)
    distances = [np.abs(image + s * (source - image) - target).__pow__(order).sum() for s in (-0.05, 0, 0.05)]
    assert distances[0] > distances[1] < distances[2]
    # The PNG is the clipped preview, and what the network says of it is told apart.
    clipped = np.rint(image.clip(0, 1) * 255)
    assert np.array_equal(pixels_of(IMAGE), clipped.transpose(1, 2, 0))
    assert answers["preview"]["probability"] == pytest.approx(
        float(logits(tiny, clipped / 255).double().softmax(0).max()), rel=1e-3
    )


# Bounded


def test_the_file_is_the_source_to_the_network(fool: Vitnull, tiny: Reference, pair: tuple[Path, Path]) -> None:
    document = fool().document
    check_keys(document, FOOL)
    assert contents() == sorted([*NAMES, "inputs"])
    assert document["artifacts"] == dict(zip(("image", "exact", "noise", "sheet"), NAMES, strict=True))
    image, source, _ = exact()
    drawn = 128 + document["noise_gain"] * 255 * (image - source).transpose(1, 2, 0)
    assert np.abs(drawn - pixels_of(NOISE)).max() <= 0.5 + 1e-4
    before, after = tiny.embeddings(pair[0]), tiny.embeddings(IMAGE)
    error = float((after - before).norm() / before.norm())
    assert error == pytest.approx(document["embedding_error"], rel=1e-4)
    assert error < 0.01
    for name, path in (("source", pair[0]), ("transformed", IMAGE)):
        index, probability = tiny.answer(path)
        assert document["prediction"][name]["class"] == index
        assert document["prediction"][name]["probability"] == pytest.approx(probability, rel=1e-3)
    assert (document["match"], document["verified"], document["bounded"]) == (True, True, True)
    assert document["range"][0] >= 0
    assert document["range"][1] <= 1
    assert np.abs(tiny.visible(IMAGE) - tiny.visible(pair[0])).max() > 0.1
    like = document["likeness"]
    assert like["detail_correlation_target"] > 0.3
    assert like["score"] == pytest.approx(
        (like["ssim_target"] + like["detail_correlation_target"] + like["correlation_target"]) / 3
    )


def test_what_it_was_made_from(
    fool: Vitnull, vitnull: Vitnull, tiny_vit: tuple[str, ...], pair: tuple[Path, Path]
) -> None:
    vitnull("basis", *tiny_vit, "--out", "own.safetensors", "--no-preview", "--no-check")
    fool("--basis", "own.safetensors")
    with safe_open(EXACT, "pt") as file:
        parents = json.loads(file.metadata()["vitnull"])["parents"]
    named = {"source": pair[0], "target": pair[1], "basis": Path("own.safetensors")}
    assert parents == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named.items()}


def test_without_the_float_image(fool: Vitnull) -> None:
    document = fool("--no-float").document
    check_keys(document, FOOL)
    assert document["artifacts"]["exact"] is None
    assert contents() == sorted([IMAGE, NOISE, SHEET, "inputs"])


def test_a_file_that_does_not_hold(fool: Vitnull) -> None:
    outcome = fool("--tolerance", "0", expect=3)
    assert outcome.document["verified"] is False
    assert "does not hold" in outcome.message


def test_native_size_is_bit_identical(vitnull: Vitnull, demo_cnn: Reference, demo: Reference, tmp_path: Path) -> None:
    """Of a picture larger than the input, for a CNN as for any model with that transform."""
    for name, index in (("source", 3), ("target", 4)):
        pixels, _ = draw("test", index, size=700)
        middle = (pixels[:610].astype(float) * 0.6 + 50).round().astype(np.uint8)
        Image.fromarray(middle).save(tmp_path / f"{name}.png")
    document = vitnull("fool", "source.png", "target.png", "--size", "native", "--model", "demo-cnn", "--json").document
    check_keys(document, FOOL)
    assert pixels_of(IMAGE).shape == (610, 700, 3)
    assert (document["input_pixels_changed"], document["nullspace"]) == (0, "resize")
    for reference in (demo_cnn, demo):
        assert torch.equal(reference.input(tmp_path / "source.png"), reference.input(IMAGE))
    assert document["likeness"]["detail_correlation_target"] > 0.5
    for name in ("saliency", "saliency_png"):
        pairs = document[name]["gradcam"]
        assert pairs["source_transformed"]["spearman"] == pytest.approx(
            1, abs=1e-12 if name == "saliency_png" else 0.02
        )
    assert document["saliency"]["gradcam"]["control"]["spearman"] < 1


# Saliency


def test_saliency_of_the_embedded_model(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    options = ("--model", "demo", "--strength", "1", "--explain", "rollout,input-x-gradient", "--json")
    document = vitnull("fool", *pair, *options).document
    kinds = {"source_transformed", "target_transformed"}
    for name, expected in (("saliency", kinds | {"control", "control_row_space"}), ("saliency_png", kinds)):
        assert list(document[name]) == ["rollout", "input-x-gradient"]
        for pairs in document[name].values():
            assert set(pairs) == expected
            for figures in pairs.values():
                check_keys(figures, SIMILARITY)
    classes = {name: answer["class"] for name, answer in document["prediction"].items() if answer}
    assert classes["source"] == classes["transformed"] != classes["target"]
    in_memory = document["saliency"]["rollout"]
    assert in_memory["source_transformed"]["spearman"] > 0.999
    assert in_memory["source_transformed"]["spearman"] > in_memory["control_row_space"]["spearman"]
    assert in_memory["target_transformed"]["spearman"] < 0.9
    with Image.open(SHEET) as sheet:
        width, height = sheet.size
    assert min(height, width) > 600  # three rows of an image and two maps


def test_maps_of_a_clipped_preview_can_tell(fool: Vitnull) -> None:
    document = fool("--channels", "red", "--explain", "rollout").document
    whole, clipped = (document[name]["rollout"]["source_transformed"] for name in ("saliency", "saliency_png"))
    assert whole["spearman"] > 0.999 > 0.9 > clipped["spearman"]


def test_saliency_methods_that_are_not(fool: Vitnull, run: Callable[..., Outcome]) -> None:
    assert "Unknown saliency method 'lime'" in fool("--explain", "lime", expect=2).message
    assert "gradcam cannot explain deit_tiny" in fool("--explain", "gradcam", expect=1).message
    assert contents() == ["inputs"]


# The choice of a source


def test_the_best_of_a_folder(fool: Vitnull, vitnull: Vitnull, tiny_vit: tuple[str, ...], tmp_path: Path) -> None:
    folder, target = tmp_path / "photos", tmp_path / "inputs" / "target.png"
    folder.mkdir()
    for index in range(5, 9):
        Image.fromarray(draw("test", index, size=64)[0]).save(folder / f"{index}.png")
    target = target.rename(folder / "target.png")
    common = ("--model", *tiny_vit, "--strength", "1", "--rounding", "nearest", "--explain", "none", "--tolerance", "1")
    document = vitnull("fool", target, "--sources", folder, *common, "--json").document
    check_keys(document, FOOL)
    assert document["artifacts"]["image"] == "photos.target.fooled.png"
    scores = {}
    for path in sorted(folder.glob("[0-9].png")):
        single = vitnull("fool", path, target, *common, "--json", "--out-dir", "single", "--force").document
        if single["prediction"]["source"]["class"] != single["prediction"]["target"]["class"]:
            scores[str(path)] = single["likeness"]["score"]
    assert document["sources"]["candidates"] == len(scores)  # TARGET is in the folder too, and would win
    assert document["source"] == max(scores, key=lambda path: scores[path])
    assert document["likeness"]["score"] == max(scores.values()) == document["sources"]["score"]


def test_results_are_no_sources(vitnull: Vitnull, tiny_vit: tuple[str, ...], tmp_path: Path) -> None:
    """Neither those of the folder, nor those of an image in it; whatever else is called so is a photo."""
    folder, target = tmp_path / "photos", tmp_path / "inputs.target.png"
    folder.mkdir()
    Image.fromarray(255 - draw("test", 9, size=64)[0]).save(target)
    left_out = ["a.b.fooled.png", "a.c.d.noise.png", "photos.e.sheet.png"]
    for index, name in enumerate(["a.png", "other.target.fooled.png", "sheet.png", *left_out]):
        Image.fromarray(draw("test", index, size=64)[0]).save(folder / name)
    arguments = ("--model", *tiny_vit, "--strength", "1", "--rounding", "nearest", "--explain", "none")
    for _ in range(2):
        outcome = vitnull("fool", target, "--sources", folder, "--out-dir", folder, "--force", "--json", *arguments)
        kept = outcome.document["sources"]
        assert kept["candidates"] + len(kept["skipped"]) <= 3
        assert f"left out as results of an earlier run: {folder / left_out[0]} and " in outcome.stderr


# Models


def test_a_model_without_a_head(fool: Vitnull) -> None:
    document = fool("--model-kwargs", "num_classes=0").document
    check_keys(document, FOOL)
    assert document["prediction"] == {"source": None, "target": None, "transformed": None, "preview": None}
    assert (document["match"], document["logit_mse"], document["verified"]) == (None, None, True)


def test_models_without_a_nullspace(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    assert "no exact nullspace: its first layers" in vitnull("fool", *pair, "--model", "demo-cnn", expect=5).message
    small = ("--model", "vit_small_patch16_224", "--no-pretrained", "--model-kwargs", "depth=1")
    assert "--size native" in vitnull("fool", *pair, "--model", "demo-cnn", expect=5).message
    message = vitnull("fool", *pair, *small, "--channels", "red", expect=5).message
    assert "rank 256 of d = 384" in message
    assert "--channels all" in message
    assert contents() == ["inputs"]


def test_a_source_without_detail_to_spare(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    message = vitnull("fool", *pair, "--model", "demo-cnn", "--size", "native", expect=1).message
    assert "97 x 70 pixels, and the model enlarges it to 310 x 224" in message
    assert "--size model" in message


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("kind", [("--norm", "1"), ("--unbounded",), ("--size", "native")])
def test_on_a_gpu(vitnull: Vitnull, tmp_path: Path, kind: tuple[str, ...]) -> None:
    for name, index in (("source", 3), ("target", 4)):
        Image.fromarray(draw("test", index, size=500)[0]).save(tmp_path / f"{name}.png")
    found = []
    for device in ("cpu", "cuda"):
        arguments = ("--model", "demo", "--strength", "1", "--explain", "rollout", *kind, "--json", "--out-dir", device)
        found.append(vitnull("fool", "source.png", "target.png", *arguments, "--device", device).document)
    on_cpu, on_gpu = found
    assert on_gpu["verified"]
    assert on_gpu["prediction"]["transformed"]["class"] == on_cpu["prediction"]["transformed"]["class"]
    assert on_gpu["likeness"] == pytest.approx(on_cpu["likeness"], rel=0.01)
    for pair, figures in on_cpu["saliency"]["rollout"].items():
        assert on_gpu["saliency"]["rollout"][pair]["spearman"] == pytest.approx(figures["spearman"], abs=0.01)


# What is refused before anything is loaded


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--channels", "red", "--bounded"), 2, "--unbounded"),
        (("--size", "native", "--unbounded"), 2, "--bounded"),
        (("--size", "native", "--norm", "1"), 2, "--size model"),
        (("--strength", "much"), 2, "is not auto or a number from 0 to 100"),
        (("--strength", "101"), 2, "from 0 to 100"),
        (("--unbounded", "--no-float"), 2, "--no-float"),
        (("--size", "native", "--basis", "any.safetensors"), 2, "--basis"),
        (("--source-class", "3"), 2, "--sources"),
        (("--sources", "nowhere"), 2, "TARGET alone"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_options_that_make_no_sense(fool: Vitnull, arguments: tuple[str, ...], code: int, words: str) -> None:
    assert words in fool(*arguments, expect=code).message


@pytest.mark.usefixtures("no_model")
def test_files_are_looked_at_first(fool: Vitnull, vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    Path(SHEET).write_text("mine")
    assert f"{SHEET} exists already" in fool(expect=1).message
    Path(SHEET).unlink()
    pair[1].write_text("no image")
    assert "target.png" in fool(expect=1).message
    assert "give SOURCE and TARGET" in vitnull("fool", pair[0], expect=2).message
    assert contents() == ["inputs"]


def test_same_inputs_same_bytes(fool: Vitnull) -> None:
    fool("--explain", "rollout", "--out-dir", "a")
    fool("--explain", "rollout", "--out-dir", "b")
    for name in NAMES:
        assert (Path("a") / name).read_bytes() == (Path("b") / name).read_bytes()
    with pytest.raises(AssertionError):  # --force alone overwrites
        fool("--out-dir", "a")


def test_two_images_of_one_class_show_nothing(vitnull: Vitnull) -> None:
    for index in (0, 10):
        Image.fromarray(draw("val", index)[0]).save(f"{index}.png")
    outcome = vitnull("fool", "0.png", "10.png", "--model", "demo", "--strength", "1", "--explain", "none")
    assert "the network says class 0 of 10.png, too" in outcome.stderr


def test_the_human_result(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    outcome = vitnull("fool", *pair, "--model", "demo", "--strength", "1", "--explain", "rollout")
    for words in ("transformed", IMAGE, "like target", "SSIM", "random noise", "rollout", "strength 1"):
        assert words in outcome.stdout
    assert "preview" not in outcome.stdout
    assert re.fullmatch(r"vitnull: warning: in light, dark.*more like its source than its target .*\n", outcome.stderr)
    outcome = vitnull(
        "fool", *pair, "--model", "demo", "--strength", "1", "--explain", "none", "--unbounded", "--force"
    )
    for words in (f"transformed  {EXACT}: ", f"preview      {IMAGE}, clipped: ", "float image"):
        assert words in outcome.stdout
