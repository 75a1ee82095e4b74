"""Broken files through those who read them: a message that names the file, or a result as good as of a whole one."""

import json
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.documents.artefacts import read_provenance
from nullspace_cli.engine.documents.kinds import LEARNING
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.models.loading import load_model, load_view
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import injection_site
from nullspace_cli.engine.noise.noise import exact_noise, read_noise
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import Plan, Trainer
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.basis_file import load_row_space, read_basis, save_basis
from nullspace_cli.engine.plots.curves import draw_curves, read_documents
from nullspace_cli.engine.runtime.distributed import Ranks
from tests import corpus
from tests.corpus import Case
from tests.made import contents_of, training_images, write_noise, write_unchecked

KWARGS = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
NAME = "vit_tiny_patch16_224"
ENDINGS = (".safetensors", ".pth", ".npz", ".bin")
SECONDS = 60
"""After which reading a file of some kilobytes counts as waiting for ever."""


@contextmanager
def in_time() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


PARTS = 4
parts = pytest.mark.parametrize("part", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, PARTS))])
"""Every fourth case on every run; all of them where slow tests are run."""


def hold_all(cases: Iterable[Case], folder: Path, read: Callable[[Path], object], name: str | None = None) -> int:
    """Read each case's file; the number of those that were refused.

    Args:
        name: of the file, within a folder of its own, if that is what is read.
    """
    faults, count, refused = [], 0, 0
    for count, case in enumerate(cases, 1):
        place = folder / f"{count}"
        place.mkdir()
        ending = next((ending for ending in ENDINGS if case.name.endswith(ending)), "")
        path = place / (name or f"broken{ending}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of making it
            case.make(path)
        try:
            with in_time():
                read(path)
        except VitnullError as error:
            refused += 1
            text = str(error)
            if (str(place) if name else path.name) not in text or len(text) > 2000 or "Traceback" in text:
                faults.append(f"{case.name}: message {text!r:.300}")
        except (Exception, AssertionError) as error:  # noqa: BLE001 - each is a fault
            faults.append(f"{case.name}: {type(error).__name__}: {str(error)[:300]}")
        else:
            if case.refused:
                faults.append(f"{case.name}: was taken")
    assert not faults, f"{len(faults)} of {count}:\n" + "\n".join(faults)
    return refused


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(ModelRequest(NAME, pretrained=False, kwargs=KWARGS, device="cpu", batch_size=4))


@pytest.fixture(scope="module")
def good_basis(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_basis(tmp_path_factory.mktemp("basis") / "b.safetensors", model, find_basis(model))


@pytest.fixture(scope="module")
def good_noise(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    delta = torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(0))
    return write_noise(tmp_path_factory.mktemp("noise") / "n.safetensors", model, "encoder", delta)


@parts
def test_bases_for_watermarks(model: Model, good_basis: Path, tmp_path: Path, part: int) -> None:
    cases = [
        *corpus.irregular(),
        *corpus.rubbish(),
        *corpus.artefacts(good_basis, ("row_space",)),
        *corpus.broken_bases(good_basis),
    ]
    assert len(cases) > 300
    hold_all(cases[part::PARTS], tmp_path, lambda path: load_row_space(path, model))


@parts
def test_bases_for_noise(model: Model, good_basis: Path, tmp_path: Path, part: int) -> None:
    cases = [*corpus.artefacts(good_basis, ("row_space", "basis")), *corpus.broken_bases(good_basis)]
    hold_all(cases[part::PARTS], tmp_path, lambda path: exact_noise(path, model, 0.1, 0))


def test_compact_bases(model: Model, tmp_path: Path) -> None:
    for i, space in enumerate(("pixel", "normalized")):
        for per_channel in (False, True):
            small = load_model(ModelRequest(NAME, pretrained=False, kwargs={**KWARGS, "embed_dim": 24}, device="cpu"))
            found = find_basis(small, space=space, per_channel=per_channel)  # type: ignore[arg-type]
            for compact in (False, True):
                path = save_basis(
                    tmp_path / f"{i}{per_channel}{compact}", small, found, per_channel=per_channel, compact=compact
                )
                load_row_space(path, small)
                assert read_basis(path, small)[0].shape[0] == found.nullspace.nullity


@parts
def test_noises(model: Model, good_noise: Path, tmp_path: Path, part: int) -> None:
    read = ("noise", "init", "losses")
    cases = [
        *corpus.broken_noises(good_noise),
        *corpus.irregular(),
        *corpus.rubbish(),
        *corpus.artefacts(good_noise, read),
    ]
    assert len(cases) > 600
    hold_all(cases[part::PARTS], tmp_path, lambda path: read_noise(path).on(model))


# States of interrupted runs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return training_images(tmp_path_factory.mktemp("images"), 6)


@parts
@pytest.mark.parametrize("protocol", ["adamw", "paper-accum"])
def test_states(model: Model, images: ImageSet, tmp_path: Path, protocol: Any, part: int) -> None:
    plan = Plan(
        level="encoder", limits=(0.5, 1.0), protocol=protocol, rounds=3, lr=0.02, fraction=1.0, norm=float("inf"),
        stop_eps=None, step_images=4, seed=0, data="x", images=6, data_config=asdict(model.transform),
    )  # fmt: skip
    site = injection_site(model, "encoder")
    cache = ReferenceCache(model, site, images, range(6), model.transform, Store(2**20), workers=1)

    def trainer() -> Trainer:
        return Trainer(model, site, cache, plan, Ranks())

    run, good = trainer(), tmp_path / "good"
    for done in run.steps():
        if done == 3:
            run.save(good)
            break
    trainer().restore(good)
    cases = [*corpus.irregular(), *corpus.rubbish(), *corpus.artefacts(good, contents_of(good)[0]), *_untrue(good)]
    assert len(cases) > 600
    (tmp_path / "cases").mkdir()
    again = trainer()
    before = [learner.noise.detach().clone() for learner in again.learners]

    def restore(path: Path) -> None:
        try:
            again.restore(path)
        except VitnullError:
            if again.done == 0:  # as long as none was taken
                assert all(torch.equal(learner.noise, b) for learner, b in zip(again.learners, before, strict=True))
            raise

    hold_all(cases[part::PARTS], tmp_path / "cases", restore)


def _untrue(good: Path) -> Iterator[Case]:
    tensors, about = contents_of(good)
    for key, value in (("done", 0), ("done", 2), ("done", 4), ("done", 10**9), ("done", -1), ("stopped", [True, False]),
                       ("stopped", [False]), ("stopped", [False] * 3), ("probability_change", [0.0])):  # fmt: skip
        changed = {**about, "parameters": {**about["parameters"], key: value}}
        yield Case(f"{key} {value}", partial(write_unchecked, tensors=tensors, provenance=changed))
    for name in tensors:
        if name.endswith("losses"):
            for losses in (tensors[name][:2].clone(), torch.cat([tensors[name]] * 2)):
                made = {**tensors, name: losses}
                yield Case(f"{name} {len(losses)}", partial(write_unchecked, tensors=made, provenance=about))


def test_a_state_is_looked_at_before_anything_slow(tmp_path: Path, model: Model) -> None:
    from nullspace_cli.engine.workflows.learn_noise import check_files

    hold_all(
        [case for case in [*corpus.irregular(), *corpus.rubbish()] if case.name not in ("missing", "dangling", "loop")],
        tmp_path,
        lambda path: check_files([], path, resume=True, force=False),
    )
    with pytest.raises(VitnullError):
        read_provenance(tmp_path / "none", LEARNING)


# Results


@parts
def test_results(tmp_path: Path, part: int) -> None:
    good = tmp_path / "good.json"
    good.write_text(json.dumps(document_of_eval()))
    cases = [*corpus.irregular(), *corpus.rubbish(), *corpus.documents(good)]
    assert len(cases) > 800

    def read(path: Path) -> None:
        documents = read_documents([path])
        if documents != read_documents([good]):
            drawn.append(documents)

    drawn: list[Any] = []
    (tmp_path / "cases").mkdir()
    hold_all(cases[part::PARTS], tmp_path / "cases", read)
    for i, documents in enumerate(drawn[::50]):  # what is taken can be drawn
        draw_curves(tmp_path / f"{i}.png", documents)


def document_of_eval() -> dict[str, Any]:
    result = {
        "noise": "n.safetensors", "noise_model": "m", "kind": "learned", "level": "input", "limit": 0.5, "sigma": None,
        "transfer": False, "realised": False, "residual": None, "solver": None, "control": "none", "trials": 1,
        "match_percent": 50.0, "match_ci95": [20.0, 80.0], "match_trials": [50.0], "logit_mse": 0.1,
        "logit_mse_per_class": 0.02, "probability_mse": 0.01, "feature_mse": 0.3, "feature_cosine": 0.9,
        "confidence_change": 0.1, "noise_norm": 3.0, "accuracy": {"clean": 90.0, "noisy": 50.0},
    }  # fmt: skip
    exact = {**result, "kind": "exact", "limit": None, "sigma": 0.1, "control": "shuffle", "accuracy": None}
    return {
        "schema": "vitnull/eval/1", "model": "m", "weights": "random", "weights_sha256": "ab" * 32,
        "data_config": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
                        "crop_pct": 0.9, "crop_mode": "center"},
        "device": "cpu", "seed": 0, "seconds": 1.0, "versions": {"vitnull": "0", "torch": "0", "timm": "0"},
        "data": "d", "split": "val", "transform": "model", "images": 6, "outputs": "logits", "accuracy": 90.0,
        "ground_truth": "none", "results": [result, exact], "skipped": [],
    }  # fmt: skip


# Weights


@pytest.fixture(scope="module")
def trained() -> Any:
    torch.manual_seed(1)
    return timm.create_model(NAME, **KWARGS).eval()


def load(path: Path) -> Model:
    return load_model(ModelRequest(NAME, checkpoint=path, kwargs=KWARGS, device="cpu"))


def test_weights(trained: Any, tmp_path: Path) -> None:
    cases = list(corpus.weights(trained.state_dict()))
    assert len(cases) > 150
    hold_all(cases, tmp_path, load)


def test_jax_weights(tmp_path: Path) -> None:
    good = jax_arrays()
    np.savez(tmp_path / "good.npz", **good)
    load(tmp_path / "good.npz")
    (tmp_path / "cases").mkdir()
    hold_all(corpus.arrays(good), tmp_path / "cases", load)


def jax_arrays() -> dict[str, Any]:
    """The arrays of the smallest ViT under the names of the JAX release."""
    draw, d = np.random.default_rng(0), 24
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (16, 16, 3, d), "embedding/bias": (d,), "cls": (1, 1, d), "head/kernel": (d, 5),
        "head/bias": (5,), "Transformer/posembed_input/pos_embedding": (1, 5, d),
        "Transformer/encoder_norm/scale": (d,), "Transformer/encoder_norm/bias": (d,),
    }  # fmt: skip
    block = "Transformer/encoderblock_0/"
    attention = f"{block}MultiHeadDotProductAttention_1/"
    for norm in ("LayerNorm_0", "LayerNorm_2"):
        shapes |= {f"{block}{norm}/scale": (d,), f"{block}{norm}/bias": (d,)}
    for part in ("query", "key", "value"):
        shapes |= {f"{attention}{part}/kernel": (d, 2, 12), f"{attention}{part}/bias": (2, 12)}
    shapes |= {f"{attention}out/kernel": (2, 12, d), f"{attention}out/bias": (d,)}
    for i, (a, b) in enumerate([(d, 4 * d), (4 * d, d)]):
        shapes |= {f"{block}MlpBlock_3/Dense_{i}/kernel": (a, b), f"{block}MlpBlock_3/Dense_{i}/bias": (b,)}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


# Folders


@parts
def test_folders(trained: Any, tmp_path: Path, part: int) -> None:
    config = {
        "architecture": NAME, "num_classes": 5, "num_features": 24, "global_pool": "token", "model_args": KWARGS,
        "pretrained_cfg": {
            "input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "interpolation": "bilinear",
            "crop_pct": 0.9, "crop_mode": "center", "num_classes": 5, "fixed_input_size": True, "tag": "x",
            "first_conv": "patch_embed.proj", "classifier": "head", "label_names": ["a"], "label_offset": 0,
        },
    }  # fmt: skip
    state = trained.state_dict()

    def read(path: Path) -> None:
        load_view(ModelRequest(f"local-dir:{path.parent}"))
        save_file(state, path.with_name("model.safetensors"))
        load_model(ModelRequest(f"local-dir:{path.parent}", device="cpu"))

    cases = list(corpus.configs(config))
    assert len(cases) > 400
    hold_all(cases[part::PARTS], tmp_path, read, "config.json")


@parts
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_folders_of_transformers(tmp_path: Path, part: int, name: str) -> None:
    sizes = {"height": 36, "width": 36}
    good: dict[str, dict[str, Any]] = {
        "config.json": {
            "model_type": "dinov2_with_registers", "architectures": ["Dinov2WithRegistersForImageClassification"],
            "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 4, "hidden_act": "gelu",
            "layer_norm_eps": 1e-6, "image_size": 32, "patch_size": 8, "num_channels": 3, "qkv_bias": True,
            "use_swiglu_ffn": False, "num_register_tokens": 4, "id2label": {"0": "cat", "1": "dog"},
            "problem_type": "single_label_classification",
        },
        "preprocessor_config.json": {
            "image_processor_type": "DeiTImageProcessor", "do_resize": True, "size": sizes, "resample": 3,
            "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "do_rescale": True,
            "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3,
        },
    }  # fmt: skip

    def read(path: Path) -> None:
        for other in good.keys() - {name}:
            path.with_name(other).write_text(json.dumps(good[other]))
        load_model(ModelRequest(f"local-dir:{path.parent}", pretrained=False, device="cpu"))

    cases = list(corpus.settings(good[name]))
    if name == "preprocessor_config.json":  # which may be missing, and of whose keys each may be
        cases = [case for case in cases if case.name not in ("missing", "text object")]
    assert len(cases) > 150
    hold_all(cases[part::PARTS], tmp_path, read, name)


@parts
def test_folders_of_transformers_with_broken_weights(tmp_path: Path, part: int) -> None:
    config = {
        "model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    shapes = {"embeddings.cls_token": (1, 1, 8), "embeddings.position_embeddings": (1, 5, 8),
              "embeddings.patch_embeddings.projection.weight": (8, 3, 4, 4), "layernorm.weight": (8,)}  # fmt: skip
    for layer in ("attention.attention.query", "attention.attention.key", "attention.attention.value",
                  "attention.output.dense", "intermediate.dense", "output.dense"):  # fmt: skip
        shapes |= {f"encoder.layer.0.{layer}.weight": (8, 8), f"encoder.layer.0.{layer}.bias": (8,)}
    for norm in ("before", "after"):
        shapes |= {f"encoder.layer.0.layernorm_{norm}.{kind}": (8,) for kind in ("weight", "bias")}
    shapes |= {"embeddings.patch_embeddings.projection.bias": (8,), "layernorm.bias": (8,)}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}

    def read(path: Path) -> None:
        path.with_name("config.json").write_text(json.dumps(config))
        load_model(ModelRequest(f"local-dir:{path.parent}", device="cpu"))

    (tmp_path / "whole").mkdir()
    save_file(state, tmp_path / "whole" / "model.safetensors")
    read(tmp_path / "whole" / "model.safetensors")
    cases = [case for case in corpus.weights(state) if case.name.endswith(".safetensors")]
    cases = [case for case in cases if not case.name.startswith(("missing.", "dangling", "loop"))]
    hold_all(cases[part::PARTS], tmp_path, read, "model.safetensors")


def test_folders_with_broken_weights(trained: Any, tmp_path: Path) -> None:
    config = {"architecture": NAME, "num_classes": 5, "model_args": KWARGS, "pretrained_cfg": {"num_classes": 5}}

    def read(path: Path) -> None:
        path.with_name("config.json").write_text(json.dumps(config))
        load_model(ModelRequest(f"local-dir:{path.parent}", device="cpu"))

    names = {".safetensors": "model.safetensors", ".pth": "model.pth", ".bin": "pytorch_model.bin"}
    for ending, name in names.items():
        cases = [case for case in corpus.weights(trained.state_dict()) if case.name.endswith(ending)]
        cases = [case for case in cases if not case.name.startswith(("missing.", "dangling", "loop"))]
        (tmp_path / ending).mkdir()
        hold_all(cases, tmp_path / ending, read, name)
