"""Models that transformers has saved, as timm's: what they answer and how they see pictures, against transformers."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from torch import Tensor
from transformers.activations import ACT2FN

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models import transformers_twin
from nullspace_cli.engine.models.classes import ground_truth
from nullspace_cli.engine.models.loading import load_model, load_view
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.saliency.methods import METHODS, supported
from nullspace_cli.engine.saliency.transformer import WatchedTransformer
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

transformers.utils.logging.disable_progress_bar()

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT: dict[str, Any] = {**SMALL, "intermediate_size": 52, "patch_size": 8, "image_size": 32}
ODD = {"hidden_size": 44, "intermediate_size": 49}  # 44 * (49 / 44) is less than 49
DINO2: dict[str, Any] = {**SMALL, "patch_size": 7, "image_size": 35}
DINO3: dict[str, Any] = {**SMALL, "patch_size": 8, "intermediate_size": 64, "image_size": 40}
CLASSES: dict[str, Any] = {"id2label": {0: "cat", 1: "dog", 2: "cow"}, "label2id": {"cat": 0, "dog": 1, "cow": 2}}


def saved(folder: Path, name: str, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A model of transformers', saved with weights that matter all; layer scales and biases begin as ones and zeros."""
    kind: Any = getattr(transformers, name)
    model = kind(kind.config_class(**config)).eval()
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.to(dtype).save_pretrained(folder)
    return model.float()


def load(folder: Path, **changes: Any) -> Model:
    return load_model(ModelRequest(f"local-dir:{folder}", **{"device": "cpu", **changes}))


def answer_of(output: Any) -> Tensor:
    """transformers' logits, or its class token behind the last norm."""
    answer: Tensor = output.logits if "logits" in output else output.last_hidden_state[:, 0]
    return answer


def config_of(folder: Path, **changes: Any) -> None:
    """Change keys of a config.json; None takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ViTForImageClassification", {**VIT, "num_labels": 5}),
    ("ViTForImageClassification", {**VIT, "image_size": [32, 48], "hidden_act": "gelu_new", "qkv_bias": False}),
    (
        "ViTForImageClassification",
        {**VIT, "image_size": [35, 50], "hidden_act": "quick_gelu", "layer_norm_eps": 0.1, **ODD},
    ),
    ("ViTModel", {**VIT, "num_channels": 1}),
    ("DeiTForImageClassification", VIT),
    ("DeiTForImageClassificationWithTeacher", VIT),
    ("DeiTModel", VIT),
    ("Dinov2Model", DINO2),
    ("Dinov2Model", {**DINO2, "use_swiglu_ffn": True, "qkv_bias": False}),
    ("Dinov2ForImageClassification", {**DINO2, "num_labels": 5}),
    ("Dinov2WithRegistersModel", DINO2),
    ("Dinov2WithRegistersModel", {**DINO2, "num_register_tokens": 0}),
    ("Dinov2WithRegistersForImageClassification", {**DINO2, "use_swiglu_ffn": True}),
    ("DINOv3ViTModel", DINO3),
    ("DINOv3ViTModel", {**DINO3, "num_register_tokens": 4, "use_gated_mlp": True}),
    ("DINOv3ViTModel", {**DINO3, "use_gated_mlp": True, "hidden_act": "silu", "mlp_bias": False, "proj_bias": False}),
    ("DINOv3ViTModel", {**DINO3, "query_bias": False}),
    ("DINOv3ViTModel", {**DINO3, "query_bias": False, "value_bias": False, "rope_theta": 50.0}),
    ("DINOv3ViTModel", {**DINO3, "key_bias": True, "value_bias": False, "image_size": 45}),
)


@pytest.mark.parametrize(("name", "config"), CASES)
def test_it_answers_as_transformers_does(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    """At its own size and at others, some of which no whole number of patches fills."""
    theirs = saved(tmp_path, name, **config)
    own = config["image_size"] if isinstance(config["image_size"], list) else [config["image_size"]] * 2
    others = ([24, 40], [41, 30]) if own[0] == own[1] or name.startswith("DINOv3") else ()
    for size in (own, *others):
        model = load(tmp_path, kwargs={} if size is own else {"img_size": size})
        assert model.transform.input_size[1:] == tuple(size)
        x = torch.randn(2, config.get("num_channels", 3), *size)
        interpolated = (
            {"interpolate_pos_encoding": True} if size is not own and name.startswith(("ViT", "DeiT")) else {}
        )
        with torch.no_grad():
            expected = answer_of(theirs(x, **interpolated))
        assert expected.std() > 0.01
        torch.testing.assert_close(model(x).answer, expected, atol=1e-5, rtol=1e-5)
        assert model.has_head == ("Classification" in name)


def test_every_activation_is_transformers_own() -> None:
    x = torch.linspace(-4, 4, 1001)
    known = [name for name in transformers_twin.ACTIVATIONS if name in ACT2FN]  # earlier versions lack some
    assert {"gelu", "gelu_new", "quick_gelu", "silu", "relu"} <= set(known)
    for name in known:
        make = transformers_twin.ACTIVATIONS[name]
        torch.testing.assert_close(make()(x), ACT2FN[name](x), atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = saved(tmp_path, "Dinov2WithRegistersModel", dtype, **DINO2)
    x = torch.randn(1, 3, 35, 35)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(x).features, answer_of(theirs(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2ForImageClassification", "DINOv3ViTModel"])
def test_weights_under_the_names_of_the_module(name: str, tmp_path: Path) -> None:
    """As transformers has them in memory, in a pickled file."""
    theirs = saved(tmp_path, name, **{**VIT, "use_swiglu_ffn": True, "use_gated_mlp": True})
    sha256 = load(tmp_path).weights_sha256
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    assert load(tmp_path).weights_sha256 == sha256


@pytest.mark.parametrize("name", ["ViTForImageClassification", "DINOv3ViTModel"])
def test_weights_in_several_files(name: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path / "one", name, **VIT)
    theirs.save_pretrained(tmp_path / "several", max_shard_size="20KB")
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 1
    assert load(tmp_path / "several").weights_sha256 == load(tmp_path / "one").weights_sha256
    (tmp_path / "several" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../one/model"}}')
    with pytest.raises(ModelError, match=r"weight_map\.a is '\.\./one/model'"):
        load(tmp_path / "several")


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    saved(tmp_path, "ViTForImageClassification", **VIT, **CLASSES)
    return tmp_path


def test_what_is_said_of_it(vit: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(vit)
    assert (model.name, model.weights) == (f"local-dir:{vit}", "pretrained")
    assert (model.labels, model.synsets, model.num_classes) == (("cat", "dog", "cow"), None, 3)
    view = load_view(ModelRequest(model.name))
    assert (view.name, view.transform, view.has_head) == (model.name, model.transform, True)
    config_of(vit, id2label={str(i): f"LABEL_{i}" for i in range(3)})
    assert load(vit).labels is None
    config_of(vit, id2label=None, num_labels=3)
    assert load(vit).num_classes == 3
    config_of(vit, problem_type="multi_label_classification")
    assert load(vit).num_classes == 3
    assert "its classes do not exclude each other" in caplog.text


def test_imagenet_is_known_by_its_labels(tmp_path: Path) -> None:
    info = ImageNetInfo()
    labels = [label.partition(",")[0].upper() for label in info.label_descriptions()]
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    saved(tmp_path, "ViTForImageClassification", **VIT, **names)
    model = load(tmp_path)
    assert ground_truth(model, ["n01440764", "n01443537"]).classes == (0, 1)
    config_of(tmp_path, id2label={str(i): label for i, label in enumerate(sorted(labels))})
    assert load(tmp_path).synsets is None


def test_other_weights(vit: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A checkpoint by transformers' names or by timm's, random weights, and no head."""
    model = load(vit)
    elsewhere = tmp_path_factory.mktemp("weights")
    shutil.copy(vit / "model.safetensors", elsewhere / "theirs.safetensors")
    save_file(model.module.state_dict(), elsewhere / "ours.safetensors")
    for name in ("theirs", "ours"):
        file = elsewhere / f"{name}.safetensors"
        again = load(vit, checkpoint=file)
        assert (again.weights, again.weights_sha256) == (str(file), model.weights_sha256)
    random = [load(vit, pretrained=False, seed=seed) for seed in (1, 1, 2)]
    assert random[0].weights_sha256 == random[1].weights_sha256 != random[2].weights_sha256
    assert {other.weights for other in random} == {"random"}
    headless = load(vit, kwargs={"num_classes": 0})
    x = torch.randn(1, 3, 32, 32)
    assert not headless.has_head
    assert torch.equal(headless(x).features, model(x).features)


@pytest.mark.parametrize("name", ["DeiTForImageClassificationWithTeacher", "Dinov2ForImageClassification"])
def test_heads_may_be_left_out(name: str, tmp_path: Path) -> None:
    saved(tmp_path, name, **VIT)
    model, x = load(tmp_path, kwargs={"num_classes": 0}), torch.randn(1, 3, 32, 32)
    assert not model.has_head
    if name.startswith("Dinov2"):
        assert torch.equal(model(x).features, load(tmp_path)(x).features)


def test_random_heads_follow_the_seed(tmp_path: Path) -> None:
    saved(tmp_path, "Dinov2ForImageClassification", **DINO2)
    before = torch.random.get_rng_state()
    shas = [load(tmp_path, pretrained=False, seed=seed).weights_sha256 for seed in (1, 1, 2)]
    assert shas[0] == shas[1] != shas[2]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("vit.layernorm.bias"), r"1 tensors missing \(norm\.bias\)"),
        (lambda state: state.update(more=torch.zeros(3)), r"1 unknown \(more\)"),
        (
            lambda state: state.update({"vit.embeddings.cls_token": torch.zeros(1, 1, 8)}),
            r"another shape \(cls_token\)",
        ),
        (lambda state: state.update({"vit.embeddings.position_embeddings": torch.zeros(1, 26, 32)}), "26 positions"),
        (lambda state: state.update({"embeddings.cls_token": torch.zeros(1, 1, 32)}), "1 unknown"),
    ],
)
def test_weights_that_do_not_fit(change: Any, message: str, vit: Path) -> None:
    state = load_file(vit / "model.safetensors")
    change(state)
    save_file(state, vit / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        load(vit)


def test_a_folder_without_weights(vit: Path) -> None:
    (vit / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"Cannot load local-dir:.* holds no weights"):
        load(vit)
    assert load_view(ModelRequest(f"local-dir:{vit}")).has_head


@pytest.mark.parametrize(
    ("name", "part", "names"),
    [
        ("ViTModel", "pooler (2)", ("pooler.dense.bias", "pooler.dense.weight")),
        ("Dinov2WithRegistersModel", "mask_token (1)", ("mask_token",)),
    ],
)
def test_what_is_left_out_is_said(
    name: str, part: str, names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    saved(tmp_path, name, **VIT)
    load(tmp_path)
    preprocessing, taken = (record for record in caplog.records if record.levelno > logging.DEBUG)
    assert "no preprocessor_config.json: images are resized to 32 x 32" in preprocessing.message
    assert "converted to this architecture's names" in taken.message
    assert taken.message.endswith(f"; left out {part}.")
    for left_out in names:
        assert f"left out: {left_out}\n" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "swin", "num_attention_heads": [1, 2]},
            r"transformers 'swin'; vitnull reads timm's: swin_base",
        ),
        ({"model_type": "vit_mae"}, r"transformers 'vit_mae'; vitnull reads timm's: vit_base_patch16_224\.mae"),
        ({"model_type": "bert"}, r"transformers 'bert'; vitnull cannot read it\. Of .* it reads vit, deit, dinov2"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, "names ViTForMaskedImageModeling.*ViTForImageClass"),
        ({"architectures": None}, "names no architecture"),
        ({"hidden_act": "xielu"}, "hidden_act is 'xielu'; expected one of gelu"),
        ({"hidden_size": "768"}, r"config\.json: hidden_size is '768' \(text\)"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000"),
        ({"num_hidden_layers": 10**6}, "more than"),
        ({"num_attention_heads": 5}, "could not be built"),
        ({"id2label": {"1": "cat"}}, "does not number its 1 classes from 0 on"),
        ({"problem_type": "regression"}, "are no classes"),
    ],
)
def test_what_has_no_twin_is_refused(changes: dict[str, Any], message: str, vit: Path) -> None:
    config_of(vit, **changes)
    for refuse in (load_view, load_model):
        with pytest.raises(ModelError, match=message) as caught:
            refuse(ModelRequest(f"local-dir:{vit}", device="cpu"))
        assert str(vit) in str(caught.value)


def test_oblong_positions_of_dinov2_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "Dinov2Model", **DINO2)
    config_of(tmp_path, image_size=[35, 70])
    with pytest.raises(ModelError, match="of 5 x 10; transformers takes squares"):
        load(tmp_path)


def test_the_closest_models_are_timms() -> None:
    for name in transformers_twin.CLOSEST.values():
        assert timm.is_model(name.partition(".")[0])
        assert "." not in name or name in timm.list_pretrained()
    assert transformers_twin.CLOSEST.keys().isdisjoint(transformers_twin.FAMILIES)


# --- pictures


def picture(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(Image.fromarray(draw("val", 3, size=300)[0]).resize((width, height)))


def processor(kind: str, folder: Path, **settings: Any) -> Any:
    """An image processor of transformers', with Pillow where there is one; saved as a preprocessor_config.json."""
    names = (f"{kind}ImageProcessor{suffix}" for suffix in ("Pil", "", "Fast"))
    made: Any = next(found for name in names if (found := getattr(transformers, name, None)))(**settings)
    made.save_pretrained(folder)
    return made


def size(height: int, width: int) -> dict[str, int]:
    return {"height": height, "width": width}


SIZES = ((120, 130), (101, 67), (67, 101), (32, 32), (31, 120), (96, 128), (97, 194), (300, 200))


def margins(transform: EvalTransform, height: int, width: int) -> tuple[int, int]:
    """How much larger than the crop the resized image is."""
    geometry = transform.geometry(width, height)
    return geometry.resized[1] - geometry.crop[0], geometry.resized[0] - geometry.crop[1]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {}),
        ("ViT", {"size": size(40, 64), "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 1.0, 2.0]}),
        ("ViT", {"do_rescale": False}),
        ("ViT", {"do_normalize": False}),
        ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3}),
        ("DeiT", {}),
        ("DeiT", {"size": size(64, 96), "crop_size": size(56, 84), "resample": 1}),
        ("DeiT", {"do_center_crop": False}),
        ("Bit", {}),
        ("Bit", {"size": {"shortest_edge": 64}, "crop_size": size(56, 56)}),
        ("CLIP", {"size": {"shortest_edge": 66}, "crop_size": 56}),
    ],
)
def test_it_sees_pictures_as_transformers_does(kind: str, settings: dict[str, Any], vit: Path) -> None:
    theirs = processor(kind, vit, **settings)
    transform = load_view(ModelRequest(f"local-dir:{vit}")).transform
    centred = [sides for sides in SIZES if not any(margin % 4 == 3 for margin in margins(transform, *sides))]
    assert len(centred) > 2
    for sides in centred:
        torch.testing.assert_close(transform(picture(*sides)), seen(theirs, picture(*sides)), atol=1e-6, rtol=1e-6)


def seen(processor: Any, pixels: Any) -> Tensor:
    """What an image processor makes of pixels."""
    made: Tensor = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
    return made


def test_a_crop_within_some_margins_lies_a_pixel_further_on(vit: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What docs/transformers.md says of margins of 3, 7, 11, ... pixels: timm rounds half of them up."""
    caplog.set_level(logging.INFO)
    theirs = processor("Bit", vit, size={"shortest_edge": 64}, crop_size=size(56, 56))
    transform = load_view(ModelRequest(f"local-dir:{vit}")).transform
    for width in range(65, 100):
        pixels = picture(64, width)
        further = margins(transform, 64, width)[1] % 4 == 3
        ours, expected = transform(pixels), seen(theirs, pixels)
        assert torch.equal(ours[..., : 56 - further], expected[..., further:]), width
    assert caplog.text.count("begin one pixel later") == 1
    caplog.clear()
    processor("ViT", vit)
    load_view(ModelRequest(f"local-dir:{vit}"))
    assert "one pixel" not in caplog.text


def levels(transform: EvalTransform, theirs: Any, pixels: Any) -> Tensor:
    """By how many levels of 8 bits an input differs from transformers'."""
    return 255 * (transform.to_pixels(transform(pixels)) - transform.to_pixels(seen(theirs, pixels))).abs()


def test_torchvision_differs_by_levels(vit: Path) -> None:
    """What docs/transformers.md says of processors that do not resize with Pillow, to 8 bits."""
    processor("ViT", vit)
    pixels = picture(260, 300)
    transform = load_view(ModelRequest(f"local-dir:{vit}")).transform
    name = "ViTImageProcessor" if hasattr(transformers, "ViTImageProcessorPil") else "ViTImageProcessorFast"
    by_torchvision = getattr(transformers, name)
    assert levels(transform, by_torchvision.from_pretrained(vit), pixels).max() <= 1.01
    theirs = processor("DINOv3ViT", vit)
    transform = load_view(ModelRequest(f"local-dir:{vit}")).transform
    assert levels(transform, theirs, pixels).max() <= 1.01


@pytest.mark.parametrize(
    ("document", "transform"),
    [
        ({"size": 48}, ((48, 48), "squash", 1.0, "bilinear")),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": [48, 40]}, ((48, 40), "squash", 1.0, "bilinear")),
        ({"image_processor_type": "ViTImageProcessorFast", "resample": 0}, ((224, 224), "squash", 1.0, "nearest")),
        (
            {"image_processor_type": "BitImageProcessor", "size": 64, "crop_size": 56},
            ((56, 56), "center", 0.875, "bicubic"),
        ),
        ({"do_resize": False}, ((32, 32), "squash", 1.0, "bilinear")),
    ],
)
def test_older_documents(document: dict[str, Any], transform: tuple[Any, ...], vit: Path) -> None:
    """What earlier versions of transformers wrote, by the defaults of that processor."""
    (vit / "preprocessor_config.json").write_text(json.dumps(document))
    read = load(vit).transform
    assert (read.input_size[1:], read.crop_mode, read.crop_pct, read.interpolation) == transform


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"image_processor_type": "PixtralImageProcessor"}, "names the processor 'PixtralImageProcessor'"),
        ({"image_processor_type": "BitImageProcessor", "do_center_crop": False}, "keeps the proportions"),
        ({"image_processor_type": "BitImageProcessor", "crop_size": size(64, 32)}, "crops 64 x 32 from images"),
        ({"image_processor_type": "DeiTImageProcessor", "crop_size": size(300, 300)}, "has made smaller"),
        ({"image_processor_type": "DeiTImageProcessor", "crop_size": size(64, 32)}, "no one share of both sides"),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 32}, "has not resized"),
        ({"size": {"longest_edge": 64}}, "resizes by longest_edge"),
        ({"size": {"shortest_edge": 64, "longest_edge": 80}}, "resizes by shortest_edge, longest_edge"),
        ({"do_pad": True}, "pads images"),
        ({"image_mean": [0.5, 0.5]}, "2 numbers in image_mean; its network has 3 channels"),
        ({"size": "224"}, r"preprocessor_config\.json: size"),
        ({"resample": 9}, "resample is 9"),
    ],
)
def test_pictures_that_timm_would_read_otherwise_are_refused(document: dict[str, Any], message: str, vit: Path) -> None:
    (vit / "preprocessor_config.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match=rf"Cannot load local-dir:.*{message}"):
        load_view(ModelRequest(f"local-dir:{vit}"))


# --- the hub

COMMITS = {"main": "0" * 40, "v2": "1" * 40}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The cache of the hub's client with two revisions of a model, by their names."""
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    folders = {}
    for revision, commit in COMMITS.items():
        (repository / "refs" / revision).write_text(commit)
        folders[revision] = repository / "snapshots" / commit
    saved(folders["main"], "ViTForImageClassification", **VIT, **CLASSES)
    saved(folders["v2"], "Dinov2ForImageClassification", **DINO2)
    for folder in folders.values():
        processor("ViT", folder)
    monkeypatch.setenv("VITNULL_CACHE", str(tmp_path))
    return folders


def test_models_of_the_hub(hub: dict[str, Path]) -> None:
    for revision, name in (("main", "hf-hub:org/name"), ("v2", "hf-hub:org/name@v2")):
        model = load_model(ModelRequest(name, device="cpu", offline=True))
        assert (model.name, model.weights) == (name, "pretrained")
        assert model.weights_sha256 == load(hub[revision]).weights_sha256
        assert load_view(ModelRequest(name, offline=True)).transform == model.transform


def test_a_view_of_the_hub_needs_no_weights(hub: dict[str, Path]) -> None:
    (hub["main"] / "model.safetensors").unlink()
    assert load_view(ModelRequest("hf-hub:org/name", offline=True)).has_head
    with pytest.raises(ModelError, match="hf-hub:org/name could not be fetched"):
        load_model(ModelRequest("hf-hub:org/name", device="cpu", offline=True))


def test_what_the_hub_does_not_have(hub: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    """The client remembers what a commit lacks; of what it does not remember, nobody knows."""
    (hub["main"] / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="could not be fetched"):
        load_view(ModelRequest("hf-hub:org/name", offline=True))
    lacking = hub["main"].parent.parent / ".no_exist" / COMMITS["main"]
    lacking.mkdir(parents=True)
    (lacking / "preprocessor_config.json").touch()
    assert load_view(ModelRequest("hf-hub:org/name", offline=True)).transform.input_size == (3, 32, 32)
    assert "has no preprocessor_config.json" in caplog.text


def test_all_that_belongs_to_a_commit_is_fetched(
    hub: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a hub that has an index of weights in two files, in the place of one file."""
    from huggingface_hub.errors import EntryNotFoundError

    source, cache = hub["main"], tmp_path_factory.mktemp("cache") / COMMITS["main"]
    shards = ("model-1.safetensors", "model-2.safetensors")
    for shard in shards:
        shutil.copy(source / "model.safetensors", source / shard)
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    asked = []

    def download(name: str, file: str, *, revision: str | None, cache_dir: str | None) -> str:
        asked.append((file, revision))
        if not (source / file).exists():
            raise EntryNotFoundError("none of that name")
        cache.mkdir(exist_ok=True)
        return str(shutil.copy(source / file, cache / file))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    from nullspace_cli.engine.models.transformers_hub import fetched_folder

    assert fetched_folder("org/name", weights=True, cache=None) == cache
    assert asked[0] == ("config.json", None)
    assert {revision for _, revision in asked[1:]} == {COMMITS["main"]}
    assert set(shards) <= {path.name for path in cache.iterdir()}
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../evil"}}')
    with pytest.raises(ModelError, match=r"weight_map\.a is '\.\./\.\./evil'"):
        fetched_folder("org/name", weights=True, cache=None)
    (source / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        fetched_folder("org/name", weights=True, cache=None)


# --- explained


@pytest.mark.parametrize("name", ["DeiTForImageClassification", "Dinov2ForImageClassification", "DINOv3ViTModel"])
def test_all_methods_explain_it(name: str, tmp_path: Path) -> None:
    saved(tmp_path, name, **{**VIT, "num_register_tokens": 4})
    model = load(tmp_path)
    image = torch.rand(1, 3, 32, 32)
    methods = supported(model)
    assert {"attribution", "raw", "rollout", "full-lrp"} <= set(methods)
    for method in methods:
        assert METHODS[method].function(model, image, None).isfinite().all()


def test_class_token_and_mean_are_read_alike(tmp_path: Path) -> None:
    saved(tmp_path, "Dinov2WithRegistersForImageClassification", **VIT)
    readers = WatchedTransformer(load(tmp_path)).trace(torch.rand(1, 3, 32, 32)).readers
    torch.testing.assert_close(readers, torch.tensor([0.5, 0, 0, 0, 0, *[0.5 / 16] * 16], dtype=readers.dtype))
