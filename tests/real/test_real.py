"""Real weights and real photos: the figures that random weights cannot give."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.real

HEADLESS = ("--model-kwargs", "img_size=224", "--model-kwargs", "num_classes=0")


def dino(real: Path) -> tuple[str, ...]:
    return ("--checkpoint", str(real / "vit_small_patch14_dinov2.safetensors"), *HEADLESS)


def test_basis_of_a_real_vit(real: Path, run: Any) -> None:
    result = run("basis", "vit_small_patch14_dinov2", *dino(real), "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["rank"], document["nullity"]) == (384, 204)
    assert document["check"]["passed"] is True
    assert document["check"]["null_logit_mse"] < 1e-9 * document["check"]["random_logit_mse"]


def test_near_nullspace_of_a_real_vit(real: Path, run: Any) -> None:
    """94 of the 384 singular values of W lie below 1% of the largest; such directions are null only nearly."""
    result = run("basis", "vit_small_patch14_dinov2", *dino(real), "--json", "--rtol", "0.01", "--space", "normalized")
    document = json.loads(result.stdout)
    assert document["nullity"] == 204 + 94
    assert document["check"]["passed"] is False
    assert result.exit_code == 3


def test_real_cnn_has_none(real: Path, run: Any) -> None:
    checkpoint = str(real / "tf_efficientnet_lite0.safetensors")
    result = run("basis", "tf_efficientnet_lite0", "--checkpoint", checkpoint)
    assert result.exit_code == 5
    assert "read 150528 numbers by 401408 outputs" in result.stderr
    assert "24.88%, 0.06%, 0.00%, 0.00% below 0.1, 0.03, 0.01, 0.001" in result.stdout


def test_near_nullspace_of_a_real_cnn(real: Path, run: Any) -> None:
    checkpoint = str(real / "tf_efficientnet_lite0.safetensors")
    given = ("basis", "tf_efficientnet_lite0", "--checkpoint", checkpoint, "--json", "--no-preview")
    document = json.loads(run(*given, "--rtol", "0.1").stdout)
    assert document["nullity"] == 37589  # of the closed torus, 24.88%
    assert document["nullity_share"] == pytest.approx(document["spectrum"][0]["share_below"]["0.1"], rel=0.01)
    assert document["check"]["residual"] <= 0.1
    assert document["check"]["null_change"] < document["check"]["random_change"]
    assert run(*given, "--rtol", "0.02", "--force").exit_code == 5


def test_real_cnn_reads_real_photos(real: Path) -> None:
    """18 of the 20 ImageNet photos are classified correctly: weights, labels, decoding and transform all fit."""
    import torch

    from nullspace_cli.engine.data.datasets import open_data
    from nullspace_cli.engine.models.loading import load_model
    from nullspace_cli.engine.models.model_request import ModelRequest

    model = load_model(
        ModelRequest("tf_efficientnet_lite0", checkpoint=real / "tf_efficientnet_lite0.safetensors", device="cpu")
    )
    data = open_data(str(real / "imagenet"))
    assert data.classes is not None
    truth = torch.tensor([int(data.classes[sample.label or 0]) for sample in data])
    logits = model(torch.stack([model.transform(sample.pixels) for sample in data])).logits
    assert logits is not None
    assert int((logits.argmax(1) == truth).sum()) >= 18


def test_watermarks_on_real_photos_move_the_feature_by_less_than_a_hundredth(
    real: Path, run: Any, logo: Path, tmp_path: Path
) -> None:
    photos = [str(path) for folder in ("interiors", "imagenet") for path in sorted((real / folder).rglob("*.jpg"))]
    result = run(
        "watermark", *photos, str(logo), "--model", "vit_small_patch14_dinov2", *dino(real),
        "--size", "model", "--verify", "--out-dir", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    document = json.loads(result.stdout)
    assert document["summary"]["failed"] == 0
    for record in document["images"]:
        assert record["before"] is None
        assert record["match"] is None
        assert record["feature_change"] < 0.01
        assert record["solver"]["residual"] <= 1e-8
        assert record["solver"]["bound_violation"] <= 1e-9
        assert record["solver"]["unmarked_patches"] == 0


@pytest.fixture(scope="module")
def rooms(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random square crops of photos of rooms: of three quarters of them to learn from, of the rest to look at."""
    folder, dice = tmp_path_factory.mktemp("rooms"), random.Random(0)  # noqa: S311
    for i, path in enumerate(sorted((real / "interiors").rglob("*.jpg"))):
        split = folder / ("val" if i % 4 == 3 else "train")
        split.mkdir(exist_ok=True)
        with Image.open(path) as photo:
            for k in range(8):
                side = int(min(photo.size) * dice.uniform(0.25, 1))
                left, top = (dice.randrange(size - side + 1) for size in photo.size)
                crop = photo.convert("RGB").crop((left, top, left + side, top + side))
                crop.resize((256, 256), Image.Resampling.BICUBIC).save(split / f"{path.stem}-{k}.png")
    return folder


@pytest.mark.parametrize(
    ("model", "level", "limit"),
    [("tf_efficientnet_lite0", "input", "0.25"), ("vit_small_patch14_dinov2", "encoder", "1")],
)
def test_learned_noise_moves_a_real_network_less_than_its_controls(
    real: Path, rooms: Path, run: Any, model: str, level: str, limit: str
) -> None:
    weights = dino(real) if "dinov2" in model else ("--checkpoint", str(real / f"{model}.safetensors"))
    learned = run(
        "learn-noise", model, *weights, "--data", str(rooms), "--level", level, "--limit", limit, "--fraction", "1",
        "--step-images", "16", "--rounds", "3", "--out", "noise.safetensors", "--no-preview",
    )  # fmt: skip
    assert learned.exit_code == 0, learned.stderr
    result = run("eval", model, *weights, "noise.safetensors", "--data", str(rooms), "--json")
    noise, shuffle, uniform = json.loads(result.stdout)["results"]
    assert noise["feature_mse"] < 0.75 * min(shuffle["feature_mse"], uniform["feature_mse"])


def test_true_classes_of_real_photos(real: Path, run: Any) -> None:
    model = ("tf_efficientnet_lite0", "--checkpoint", str(real / "tf_efficientnet_lite0.safetensors"))
    assert run("basis", "demo", "--out", "demo.safetensors", "--no-preview").exit_code == 0
    result = run("eval", *model, "demo.safetensors", "--data", str(real / "imagenet"), "--controls", "none", "--json")
    assert json.loads(result.stdout)["accuracy"] == 90


def test_exact_noise_of_any_size_moves_no_real_vit(real: Path, run: Any) -> None:
    model = ("vit_small_patch14_dinov2", *dino(real))
    assert run("basis", *model, "--out", "dino.safetensors", "--no-preview", "--no-check").exit_code == 0
    sizes = ("--sigma", "0.1", "--sigma", "1", "--sigma", "10")
    result = run("eval", *model, "dino.safetensors", *sizes, "--data", str(real / "imagenet"), "--json")
    for record in json.loads(result.stdout)["results"]:
        if record["control"] == "none":
            assert record["feature_mse"] < 1e-5
            assert record["feature_cosine"] > 1 - 1e-6
        else:
            assert record["feature_mse"] > 10


def test_a_real_cnn_is_fooled_at_native_size(real: Path, run: Any) -> None:
    """A room at its own 1920 x 2880 pixels with a beetle's texture: the model's 8-bit input stays to the last bit."""
    source, target = real / "interiors" / "pexels-7303995.jpg", real / "imagenet" / "0305" / "19.jpg"
    model = ("--model", "tf_efficientnet_lite0", "--checkpoint", real / "tf_efficientnet_lite0.safetensors")
    result = run("fool", source, target, *model, "--size", "native", "--no-float", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["input_pixels_changed"] == 0
    assert document["prediction"]["source"] == document["prediction"]["transformed"]
    assert document["prediction"]["source"]["class"] != document["prediction"]["target"]["class"]
    assert document["saliency_png"]["gradcam"]["source_transformed"]["spearman"] == pytest.approx(1)
    assert document["saliency_png"]["gradcam"]["target_transformed"]["spearman"] < 0.5
    assert document["likeness"]["correlation_target"] > 0.5


def test_maps_of_a_real_vit_cannot_tell_null_noise(real: Path, run: Any) -> None:
    methods = ("--method", "attribution,rollout,token-gradcam,gradient")
    photos = sorted((real / "imagenet").glob("*/*"))[:4]
    model = ("--model", "vit_small_patch14_dinov2", *dino(real))
    result = run(
        "explain", *photos, *model, *methods, "--compare-noise", "0.1", "--no-pictures", "--no-float", "--json"
    )
    assert result.exit_code == 0
    for kinds in json.loads(result.stdout)["noise"]["methods"].values():
        assert kinds["null"]["spearman"] > 0.9999
        assert max(kinds["random"]["spearman"], kinds["row_space"]["spearman"]) < 0.9


def test_a_real_cnns_maps_are_better_than_random(real: Path, run: Any) -> None:
    model = ("--model", "tf_efficientnet_lite0", "--checkpoint", real / "tf_efficientnet_lite0.safetensors")
    result = run(
        *("explain", real / "imagenet", *model, "--method", "gradcam,input-x-gradient", "--faithfulness"),
        *("--no-pictures", "--no-float", "--json"),
    )
    for areas in json.loads(result.stdout)["faithfulness"].values():
        assert areas["positive"] < areas["random"]["positive"]
        assert areas["negative"] > areas["random"]["negative"] + 0.1
