"""What the measures over a folder add up to: batches, noises of equal norm, undefined maps, names of classes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.files.pictures import encode_png
from nullspace_cli.engine.files.writing import write_bytes
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.runtime.stages import stages_told
from nullspace_cli.engine.saliency.faithfulness import Faithfulness, FaithfulnessOfMany, faithfulness
from nullspace_cli.engine.saliency.methods import METHODS, SaliencyMaps, explain
from nullspace_cli.engine.saliency.noise import NoiseComparison
from nullspace_cli.engine.saliency.transformer import WatchedTransformer
from nullspace_cli.engine.workflows.explain import Explained, Explainer, ExplainFiles, labels_of


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(ModelRequest("demo", device="cpu"))


@pytest.fixture(scope="module")
def images(model: Model) -> Tensor:
    return torch.stack([model.transform.normalize(draw("val", index)[0]) for index in range(3)])


def test_one_map_needs_no_figures_no_pages_and_no_scipy() -> None:
    code = (
        "import sys, nullspace_cli.engine.workflows.explain\n"
        "sys.exit(bool({'matplotlib.figure', 'scipy', 'jinja2'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_it_is_at(model: Model, tmp_path: Path) -> None:
    photo = write_bytes(tmp_path / "photo.png", encode_png(draw("val", 0)[0]))
    told: list[str] = []
    with stages_told(told.append):
        list(Explainer(model, [METHODS["rollout"], METHODS["raw"]]).each([ExplainFiles(photo, {})]))
    assert told == [f"reading {photo}", "rollout", "raw", f"writing maps of {photo}"]


# Faithfulness


def test_batches_add_up(model: Model, images: Tensor) -> None:
    maps = {"rollout": explain(model, images, METHODS["rollout"])}
    labels = torch.tensor([0, 1, 5])
    found = FaithfulnessOfMany(model, seed=0)
    for part in (slice(0, 1), slice(1, 3)):
        found.add(images[part], {name: values[part] for name, values in maps.items()}, labels[part])
    assert found.methods["rollout"] == faithfulness(model, images, maps["rollout"], labels)
    assert found.to_dict()["rollout"]["positive"] == pytest.approx(found.methods["rollout"].positive.auc)
    control = found.controls[7, 7]
    assert (control.positive.images, control.positive.accuracy[0]) == (3, 1)
    assert control.negative_label is not None
    found.add(images[:1], {"rollout": maps["rollout"][:1]})
    assert found.methods["rollout"].positive_label is None


def test_each_image_has_its_own_random_map(model: Model, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Tensor] = []

    def spied(model: Model, images: Tensor, maps: Tensor, *arguments: Any, **options: Any) -> Faithfulness:
        used.append(maps)
        return faithfulness(model, images, maps, *arguments, **options)

    monkeypatch.setattr("nullspace_cli.engine.saliency.faithfulness.faithfulness", spied)
    found = FaithfulnessOfMany(model, seed=0)
    for image in images[:2].split(1):
        found.add(image, {"some method": torch.ones(1, 2, 3)})
    assert [tuple(maps.shape) for maps in used] == [(1, 2, 3)] * 4
    assert not torch.equal(used[1], used[3])


# What images and methods share


def test_the_network_is_copied_once_for_all_images_and_methods(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token methods compute in float64, on a copy: not on one for each of them and each few images."""
    made = []

    class Counted(WatchedTransformer):
        def __init__(self, model: Model) -> None:
            made.append(model)
            super().__init__(model)

    monkeypatch.setattr("nullspace_cli.engine.saliency.transformer.WatchedTransformer", Counted)
    jobs = []
    for index in range(3):
        write_bytes(tmp_path / f"{index}.png", encode_png(draw("val", index)[0]))
        jobs.append(ExplainFiles(tmp_path / f"{index}.png", {}, None, tmp_path / f"{index}.safetensors"))
    explainer = Explainer(model, [METHODS[name] for name in ("rollout", "raw", "attribution")], group=2)
    done = [item for group in explainer.each(jobs) for item in group]
    NoiseComparison(explainer.maps, [METHODS["rollout"]], 0.1, seed=0).add(
        torch.stack([item.image for item in done if isinstance(item, Explained)]),
        None,
        {"rollout": torch.stack([item.maps["rollout"] for item in done if isinstance(item, Explained)])},
    )
    assert len(done) == 3
    assert len(made) == 1


# Noise


def test_noises_of_equal_norm_in_their_spaces(model: Model) -> None:
    noises = NoiseComparison(SaliencyMaps(model), [], 0.1, seed=3).noises(3)
    std = torch.tensor(model.transform.std, dtype=torch.float64)[:, None, None]
    weight = model.module.get_parameter("patch_embed.proj.weight").double()
    embedded = {kind: F.conv2d((noise / std)[None], weight, stride=32) for kind, noise in noises.items()}
    for noise in noises.values():
        assert noise.square().mean().sqrt() == pytest.approx(0.1)
    assert embedded["null"].norm() < 1e-6 * embedded["random"].norm()
    # The row space holds all that is seen of the random noise, and nothing else.
    share = embedded["random"].norm() / embedded["row_space"].norm()
    torch.testing.assert_close(embedded["row_space"] * share, embedded["random"], rtol=1e-6, atol=1e-9)
    assert share**2 == pytest.approx(192 / 3072, rel=0.1)


def test_the_control_has_nothing_in_common_with_the_draw_of_the_null_noise(model: Model) -> None:
    """Of one seed both would be made of the same normal numbers."""
    noises = NoiseComparison(SaliencyMaps(model), [], 0.1, seed=3).noises(3)
    drawn = torch.randn(49 * 2880, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for kind in ("random", "row_space"):
        control = noises[kind].flatten()[: len(drawn)]
        assert abs(float(torch.corrcoef(torch.stack([control, drawn[: len(control)]]))[0, 1])) < 0.015


def test_every_image_has_its_own_noise_whatever_its_batch(model: Model, images: Tensor) -> None:
    method, classes = METHODS["rollout"], torch.tensor([0, 1, 2])
    maps = {"rollout": explain(model, images, method)}
    found = [NoiseComparison(SaliencyMaps(model), [method], 0.3, seed=0) for _ in range(2)]
    found[0].add(images, classes, maps)
    for k in range(3):
        found[1].add(images[k : k + 1], classes[k : k + 1], {"rollout": maps["rollout"][k : k + 1]})
    whole, single = (comparison.to_dict()["methods"]["rollout"]["random"] for comparison in found)
    assert whole == pytest.approx(single, rel=1e-9)
    noise = torch.stack([found[0].noises(k)["random"] for k in range(3)])
    noisy = model.transform.to_normalized(model.transform.to_pixels(images.double()) + noise)
    pairs = zip(maps["rollout"], explain(model, noisy, method, classes), strict=True)
    ranks = [spearmanr(clean.flatten(), other.flatten()).statistic for clean, other in pairs]
    assert whole["spearman"] == pytest.approx(sum(ranks) / 3, abs=1e-6)
    assert not torch.equal(found[0].noises(0)["null"], found[0].noises(1)["null"])


def test_constant_maps_are_counted_and_left_out(model: Model, images: Tensor) -> None:
    comparison = NoiseComparison(SaliencyMaps(model), [METHODS["rollout"]], 0.1, seed=0)
    maps = explain(model, images, METHODS["rollout"])
    maps[1] = 1
    comparison.add(images, None, {"rollout": maps})
    null = comparison.to_dict()["methods"]["rollout"]["null"]
    assert (null["undefined"], null["spearman"]) == (1, pytest.approx(1))
    comparison = NoiseComparison(SaliencyMaps(model), [METHODS["rollout"]], 0.1, seed=0)
    comparison.add(images, None, {"rollout": 0 * maps})
    assert comparison.to_dict()["methods"]["rollout"]["random"]["spearman"] is None


# Classes


def test_labels_are_the_folders_names(model: Model) -> None:
    sources = [Path("a/star/1.png"), Path("triangle/2.png"), Path("b/star/3.png")]
    assert labels_of(model, sources) == dict(zip(sources, (4, 3, 4), strict=True))
    for other in ("a.png", "holidays/a.png", "3/a.png"):
        assert labels_of(model, [*sources, Path(other)]) is None


def test_as_many_folders_as_classes_are_no_classes_for_that(model: Model) -> None:
    assert labels_of(model, [Path(f"holiday {i}/a.png") for i in range(model.num_classes)]) is None
