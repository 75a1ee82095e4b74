"""Models: names, weights from everywhere, answers, and every way in which that can fail."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

from nullspace_cli.demo.drawing import CLASSES
from nullspace_cli.engine.errors import ModelError, UsageError, VitnullError
from nullspace_cli.engine.files.hashes import hash_state
from nullspace_cli.engine.models.checkpoints import load_checkpoint
from nullspace_cli.engine.models.devices import resolve_device
from nullspace_cli.engine.models.loading import load_model, load_view
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.models.weights_file import FOLDER_ENDINGS, FOLDER_NAMES, is_index

TINY = "vit_tiny_patch16_224"
KWARGS = {"depth": 1, "embed_dim": 48, "num_heads": 3}


def load(name: str = TINY, **changes: Any) -> Model:
    if name == TINY:
        changes["kwargs"] = {**KWARGS, **changes.get("kwargs", {})}
    return load_model(ModelRequest(name, **{"device": "cpu", **changes}))


@pytest.fixture(scope="module")
def trained() -> Any:
    """A tiny ViT with weights that no seed of ours would give."""
    torch.manual_seed(1234)
    return timm.create_model(TINY, **KWARGS).eval()


@pytest.fixture(scope="module")
def folder(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    state = trained.state_dict()
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, folder / "wrapped.pth")
    return folder


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth", "wrapped.pth"])
def test_checkpoint_formats(file: str, folder: Path, trained: Any) -> None:
    model = load(checkpoint=folder / file)
    assert model.weights == str(folder / file)
    assert model.weights_sha256 == hash_state(trained.state_dict())
    assert model.name == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    x = torch.randn(3, 3, 224, 224)
    outputs = model(x)
    assert outputs.logits is not None
    torch.testing.assert_close(outputs.logits, trained(x))
    torch.testing.assert_close(outputs.features, trained.forward_head(trained.forward_features(x), pre_logits=True))


def test_batches_do_not_change_the_answer(folder: Path) -> None:
    x = torch.randn(5, 3, 224, 224)
    one, all_ = load(checkpoint=folder / "w.pth", batch_size=2)(x), load(checkpoint=folder / "w.pth")(x)
    assert one.logits is not None
    assert all_.logits is not None
    torch.testing.assert_close(one.logits, all_.logits)


@pytest.fixture(scope="module")
def jax() -> dict[str, Any]:
    """A one-block ViT under the names of the JAX release."""
    generator = np.random.default_rng(0)
    shapes = {"embedding/kernel": (16, 16, 3, 48), "embedding/bias": (48,), "cls": (1, 1, 48),
              "head/kernel": (48, 1000), "head/bias": (1000,), "Transformer/posembed_input/pos_embedding": (1, 197, 48),
              "Transformer/encoder_norm/scale": (48,), "Transformer/encoder_norm/bias": (48,)}  # fmt: skip
    block = "Transformer/encoderblock_0/"
    for norm in ("LayerNorm_0", "LayerNorm_2"):
        shapes |= {f"{block}{norm}/scale": (48,), f"{block}{norm}/bias": (48,)}
    attention = f"{block}MultiHeadDotProductAttention_1/"
    for part in ("query", "key", "value"):
        shapes |= {f"{attention}{part}/kernel": (48, 3, 16), f"{attention}{part}/bias": (3, 16)}
    shapes |= {f"{attention}out/kernel": (3, 16, 48), f"{attention}out/bias": (48,)}
    for i, (a, b) in enumerate([(48, 192), (192, 48)]):
        shapes |= {f"{block}MlpBlock_3/Dense_{i}/kernel": (a, b), f"{block}MlpBlock_3/Dense_{i}/bias": (b,)}
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_jax_weights(tmp_path: Path, jax: dict[str, Any]) -> None:
    np.savez(tmp_path / "w.npz", **jax)
    model = load(checkpoint=tmp_path / "w.npz")
    weight = model.module.get_parameter("patch_embed.proj.weight")
    assert torch.equal(weight, torch.from_numpy(jax["embedding/kernel"]).permute(3, 2, 0, 1))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ModelError, match=r"other\.npz does not fit"):
        load(checkpoint=tmp_path / "other.npz")


def test_jax_weights_fill_the_model(tmp_path: Path, jax: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """timm's loader passes over what it does not find, and over a head of another size."""
    module = timm.create_model(TINY, **KWARGS)
    before = hash_state(module.state_dict())
    for left_out, missing in (("head/", r"nothing for 2 tensors \(head\.bias, head\.weight\)"),):
        np.savez(tmp_path / "part.npz", **{name: array for name, array in jax.items() if not name.startswith(left_out)})
        with pytest.raises(ModelError, match=rf"part\.npz does not fit VisionTransformer: it has {missing}"):
            load_checkpoint(module, tmp_path / "part.npz")
        assert hash_state(module.state_dict()) == before
    np.savez(tmp_path / "w.npz", **jax)
    with pytest.raises(ModelError, match=r"nothing for 2 tensors \(head\.bias, head\.weight\).*num_classes"):
        load(checkpoint=tmp_path / "w.npz", kwargs={"num_classes": 7})
    assert caplog.text == ""
    np.savez(tmp_path / "more.npz", **{**jax, "pre_logits/bias": np.zeros(3, np.float32)})
    load_checkpoint(module, tmp_path / "more.npz")
    assert "1 of its arrays were not used (pre_logits/bias)" in caplog.text
    assert hash_state(module.state_dict()) == load(checkpoint=tmp_path / "w.npz").weights_sha256


def test_position_grid_and_head_are_adapted(folder: Path) -> None:
    larger = load(checkpoint=folder / "w.pth", kwargs={"img_size": 256})
    assert larger.transform.input_size == (3, 256, 256)
    headless = load(checkpoint=folder / "w.pth", kwargs={"num_classes": 0})
    assert headless(torch.zeros(1, 3, 224, 224)).logits is None
    assert not headless.has_head


class _Boom:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no file"),
        (b"", "not a readable (weights|safetensors) file"),
        (b"rubbish", "not a readable (weights|safetensors) file"),
        (pickle.dumps(_Boom()), r"not a readable (weights file.*Nothing in it was executed|safetensors file)"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_checkpoints(
    content: bytes | None, message: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"w{suffix}"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(checkpoint=file)
    assert not (tmp_path / "executed").exists()


def test_foreign_checkpoints(tmp_path: Path, folder: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"does not fit VisionTransformer: .* missing .*; 1 unknown \(x\)"):
        load(checkpoint=tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="does not fit"):
        load("resnet10t", checkpoint=folder / "w.pth")
    with pytest.raises(ModelError, match=r"head has 1000 classes, the model's 7. Add `num_classes=1000`"):
        load(checkpoint=folder / "w.pth", kwargs={"num_classes": 7})
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match=r"list\.pth"):
        load(checkpoint=tmp_path / "list.pth")


def test_the_file_of_a_folder_is_the_one_that_timm_takes() -> None:
    from timm.models import _hub

    assert tuple(name for name in FOLDER_NAMES if not is_index(Path(name))) == _hub._PREFERRED_FILES
    assert FOLDER_ENDINGS == _hub._EXT_PRIORITY


def test_local_folder(tmp_path: Path, trained: Any) -> None:
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    cfg = {"num_classes": 1000, "input_size": [3, 224, 224], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5],
           "interpolation": "bilinear", "crop_pct": 0.9}  # fmt: skip
    document = {"architecture": TINY, "num_classes": 1000, "model_args": KWARGS, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(document))
    model = load_model(ModelRequest(f"local-dir:{tmp_path}", device="cpu"))
    assert model.weights_sha256 == hash_state(trained.state_dict())
    assert model.transform.mean == (0.1, 0.2, 0.3)
    assert model.transform.interpolation == "bilinear"
    with pytest.raises(ModelError, match=r"Cannot load local-dir:.*config\.json"):
        load_model(ModelRequest(f"local-dir:{tmp_path / 'none'}", device="cpu"))


@pytest.mark.parametrize(
    ("named", "labels"),
    [
        ({"label_names": ["c1", "c2"], "label_descriptions": {"c1": "cat", "c2": "dog"}}, ("cat", "dog")),
        ({"label_names": ["cat", "dog"]}, ("cat", "dog")),
        ({"label_names": ["cat"]}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_labels_of_a_folder(
    named: dict[str, Any], labels: tuple[str, ...] | None, nested: bool, tmp_path: Path
) -> None:
    cfg = {"num_classes": 2, **(named if nested else {})}
    document = {"architecture": TINY, "model_args": {**KWARGS, "num_classes": 2}, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps({**document, **({} if nested else named)}))
    request = ModelRequest(f"local-dir:{tmp_path}", pretrained=False, device="cpu")
    assert load_model(request).labels == labels
    for other in (0, 3):
        assert load_model(replace(request, kwargs={"num_classes": other})).labels is None


def test_labels_of_a_folder_that_are_imagenets(tmp_path: Path) -> None:
    """Which 1000 classes there are is for the folder to say, if it does: ImageNet's by any name, or others."""
    info = ImageNetInfo()
    synsets, descriptions = info.label_names(), tuple(info.label_descriptions())
    others = [f"class {i}" for i in range(1000)]
    for named, labels, known in (
        ({"label_names": synsets}, descriptions, tuple(synsets)),
        ({"label_names": descriptions}, descriptions, tuple(synsets)),
        ({"label_names": others}, tuple(others), None),
    ):
        document = {"architecture": TINY, "model_args": KWARGS, "pretrained_cfg": {"num_classes": 1000, **named}}
        (tmp_path / "config.json").write_text(json.dumps(document))
        model = load_model(ModelRequest(f"local-dir:{tmp_path}", pretrained=False, device="cpu"))
        assert (model.labels, model.synsets) == (labels, known)


def test_random_weights_follow_the_seed() -> None:
    before = torch.random.get_rng_state()
    models = [load(pretrained=False, seed=seed) for seed in (1, 1, 2)]
    assert models[0].weights_sha256 == models[1].weights_sha256 != models[2].weights_sha256
    assert models[0].weights == "random"
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", [TINY, "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_weights_that_cannot_be_fetched_are_an_error(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(ModelRequest(name, device="cpu"))
    for word in (name, "could not be fetched", "`checkpoint`", "local-dir:", "demo"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_242", "no model 'vit_tiny_patch16_242'. Did you mean vit_tiny_patch16_224"),
        ("xyzzy", "no model 'xyzzy'"),
        ("vit_tiny_patch16_224.nope", "no weights tagged 'nope'. Its tags: augreg_in21k, augreg_in21k_ft_in1k"),
        ("coatnet_0_224", "publishes no weights"),
        ("org/name", "hf-hub:org/name"),
        ("ftp:name", "Unknown model source"),
    ],
)
def test_names_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(ModelRequest(name, device="cpu"))


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="nonsense"):
        load(pretrained=False, kwargs={"nonsense": 1})
    with pytest.raises(ModelError, match="could not be built"):
        load(pretrained=False, kwargs={"num_heads": 5})


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [
        ("vit_tiny_patch16_224", {"depth": 1, "img_size": 160}, (3, 160, 160)),
        ("vit_tiny_patch16_224", {"depth": 1, "img_size": (160, 96)}, (3, 160, 96)),
        ("vit_small_patch14_dinov2", {"depth": 1, "img_size": 224}, (3, 224, 224)),
        ("vit_small_patch14_dinov2", {"depth": 1}, (3, 518, 518)),
        ("vit_tiny_patch16_224", {"depth": 1, "in_chans": 1}, (1, 224, 224)),
        ("vit_tiny_r_s16_p8_224", {"depth": 1, "img_size": 64, "in_chans": 1}, (1, 64, 64)),
        ("resnet10t", {}, (3, 176, 176)),
    ],
)
def test_input_size_is_that_of_the_built_model(name: str, kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    model = load_model(ModelRequest(name, pretrained=False, kwargs=kwargs, device="cpu"))
    assert model.transform.input_size == size
    assert model.stem().kind in ("patch", "affine")


@pytest.mark.parametrize("size", [(64, 96), (64, 64)])
def test_what_is_not_square_is_resized_as_the_installed_timm_does(size: tuple[int, int]) -> None:
    model = load(pretrained=False, kwargs={"depth": 1, "img_size": size})
    config = resolve_model_data_config(model.module) | {"input_size": (3, *size)}
    pixels = np.random.default_rng(0).integers(0, 256, (120, 150, 3), np.uint8)
    assert torch.equal(model.transform(pixels), create_transform(**config)(Image.fromarray(pixels)))


def test_labels() -> None:
    assert load(pretrained=False).label(207) == "golden retriever"
    assert load(pretrained=False, kwargs={"num_classes": 10}).label(3) is None
    assert load_model(ModelRequest("demo", device="cpu")).label(3) == CLASSES[3]


@pytest.mark.parametrize(("there", "best"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_the_best_device(monkeypatch: pytest.MonkeyPatch, any_device: None, there: bool, best: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert resolve_device("auto") == torch.device(best)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    for name in ("gpu", "mps", "cuda:x", ""):
        with pytest.raises(UsageError, match="expected auto, cpu"):
            resolve_device(name)
    with pytest.raises(VitnullError, match="torch sees"):
        resolve_device("cuda:99")


@pytest.mark.parametrize("amp", ["bf16"])
def test_amp_rounds_a_little(amp: Any, folder: Path) -> None:
    x = torch.randn(2, 3, 224, 224)
    exact, rounded = load(checkpoint=folder / "w.pth")(x), load(checkpoint=folder / "w.pth", amp=amp)(x)
    assert exact.logits is not None
    assert rounded.logits is not None
    assert rounded.logits.dtype == torch.float32
    assert not torch.equal(exact.logits, rounded.logits)
    torch.testing.assert_close(exact.logits, rounded.logits, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", ["demo", "demo-cnn"])
def test_embedded_models_need_nothing(name: str) -> None:
    model = load_model(ModelRequest(name, device="cpu"))
    outputs = model(torch.zeros(2, 3, 224, 224))
    assert outputs.logits is not None
    assert outputs.logits.shape == (2, 10)
    assert (model.name, model.weights, model.has_head) == (name, "embedded", True)
    assert load_model(ModelRequest(name, pretrained=False, device="cpu")).weights == "random"


def test_distilled_head_gives_features() -> None:
    model = load_model(
        ModelRequest("deit_tiny_distilled_patch16_224", pretrained=False, kwargs={"depth": 1}, device="cpu")
    )
    outputs = model(torch.rand(1, 3, 224, 224))
    assert outputs.logits is not None
    assert outputs.features.shape == (1, 192)


# --- the view without weights


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("vit_tiny_patch16_224.augreg_in21k", {"depth": 1}),
        ("vit_tiny_patch16_224", {"depth": 1, "img_size": (160, 96)}),
        ("vit_tiny_patch16_224", {"depth": 1, "in_chans": 1}),
        ("vit_small_patch14_dinov2.lvd142m", {"depth": 1}),
        ("vit_small_patch14_dinov2", {"depth": 1, "img_size": 224}),
        ("vit_small_patch16_dinov3.lvd1689m", {"depth": 1}),
        ("vit_base_patch16_siglip_224.webli", {"depth": 1}),
        ("vit_base_patch16_clip_224.openai", {"depth": 1}),
        ("vit_tiny_r_s16_p8_224", {"depth": 1}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}),
        ("eva02_tiny_patch14_336", {"depth": 1}),
        ("beit_base_patch16_224", {"depth": 1}),
        ("beitv2_base_patch16_224", {"depth": 1}),
        ("naflexvit_base_patch16_gap", {"depth": 1}),
        ("naflexvit_base_patch16_gap", {"depth": 1, "img_size": 224}),
        ("crossvit_tiny_240", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
        ("swinv2_tiny_window8_256", {"depths": (1, 1, 1, 1), "img_size": 128}),
        ("convnext_atto.d2_in1k", {}),
        ("efficientnet_lite0", {}),
        ("tf_efficientnet_b0.ns_jft_in1k", {}),
        ("resnet10t", {}),
        ("resnet10t", {"in_chans": 4}),
        ("resnet18.tv_in1k", {}),
        ("mobilevit_xxs", {}),
        ("mixer_s32_224", {}),
        ("maxvit_rmlp_pico_rw_256", {}),
        ("demo", {}),
        ("demo", {"num_classes": 0}),
        ("demo-cnn", {}),
    ],
)
def test_the_view_is_that_of_the_loaded_model(name: str, kwargs: dict[str, Any]) -> None:
    request = ModelRequest(name, pretrained=name.startswith("demo"), kwargs=kwargs, device="cpu")
    view, model = load_view(replace(request, pretrained=True)), load_model(request)
    assert (view.name, view.transform, view.has_head) == (model.name, model.transform, model.has_head)
    assert view.describe() == model.describe() | {"weights": None, "weights_sha256": None}


def test_a_view_allocates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    create = timm.create_model

    def spy(*args: Any, **kwargs: Any) -> Any:
        built.append(create(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(timm, "create_model", spy)
    view = load_view(ModelRequest("vit_small_patch14_dinov2", checkpoint=Path("none"), device="cuda:99"))
    assert (view.name, view.transform.input_size) == ("vit_small_patch14_dinov2.lvd142m", (3, 518, 518))
    assert {tensor.device.type for tensor in built[0].state_dict().values()} == {"meta"}


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_242", "vit_tiny_patch16_224.nope", "org/name", "ftp:name", "local-dir:none", "hf-hub:a/b"],
)
def test_a_name_without_a_view_is_refused_as_on_loading(name: str) -> None:
    with pytest.raises(ModelError) as loading:
        load_model(ModelRequest(name, device="cpu"))
    with pytest.raises(ModelError) as viewing:
        load_view(ModelRequest(name, device="cpu"))
    assert str(viewing.value) == str(loading.value)


def test_arguments_without_a_view_are_refused() -> None:
    with pytest.raises(ModelError, match="nonsense"):
        load_view(ModelRequest(TINY, kwargs={"nonsense": 1}, device="cpu"))


@pytest.mark.parametrize("source", ["local-dir", "hf-hub"])
def test_a_view_needs_the_configuration_only(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path if source == "local-dir" else tmp_path / "models--org--name" / "snapshots" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {"num_classes": 1000, "input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5],
           "interpolation": "bilinear", "crop_pct": 0.9, "fixed_input_size": True}  # fmt: skip
    document = {"architecture": TINY, "model_args": {"depth": 1}, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(document))
    if source == "hf-hub":
        refs = folder.parent.parent / "refs"
        refs.mkdir()
        (refs / "main").write_text("1")
        monkeypatch.setenv("VITNULL_CACHE", str(tmp_path))
    name = f"local-dir:{folder}" if source == "local-dir" else "hf-hub:org/name"
    view = load_view(ModelRequest(name, device="cpu"))
    assert (view.name, view.transform) == (
        name,
        load_model(ModelRequest(name, pretrained=False, device="cpu")).transform,
    )
    assert view.transform.input_size == (3, 96, 96)
    assert view.transform.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_rope_224", "eva02_tiny_patch14_224"])
def test_weights_in_naflex_are_the_same_model(name: str, tmp_path: Path) -> None:
    """Rotary embeddings and all: what `use_naflex` makes of a model's weights answers as the model does."""
    plain = timm.create_model(name, depth=1).eval()
    state = {key: value + 0.02 * torch.randn_like(value) for key, value in plain.state_dict().items()}
    plain.load_state_dict(state)
    save_file(state, tmp_path / "weights.safetensors")
    kwargs = {"depth": 1, "use_naflex": True}
    model = load_model(ModelRequest(name, checkpoint=tmp_path / "weights.safetensors", kwargs=kwargs, device="cpu"))
    images = torch.randn(1, *model.transform.input_size)
    with torch.no_grad():
        torch.testing.assert_close(model(images).answer, plain(images), rtol=1e-4, atol=1e-5)
