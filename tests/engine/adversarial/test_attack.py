"""Fooling: what is asked for, what is refused, which source is chosen, and the controls; see tests/cli for results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.adversarial.attack import Attack, AttackSolution
from nullspace_cli.engine.adversarial.report import controls
from nullspace_cli.engine.adversarial.sources import choose_source
from nullspace_cli.engine.adversarial.target_image import TargetImage, detail_scale, fit, likeness
from nullspace_cli.engine.errors import DataError, NoNullspaceError, UsageError
from nullspace_cli.engine.files.pictures import Picture, picture_of, read_picture
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.plots.heat_maps import heat, overlay
from nullspace_cli.engine.preimage.solver import PreimageSolver
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.watermark.result import Pixels

TINY = ModelRequest("deit_tiny_patch16_224", pretrained=False, kwargs={"depth": 1, "img_size": 64}, device="cpu")
TRANSFORM = EvalTransform((3, 64, 64), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.8)


@pytest.fixture(scope="module")
def network() -> LazyModel:
    return LazyModel(TINY)


def drawing(index: int, width: int = 96, height: int = 80) -> np.ndarray:
    return draw("test", index, size=max(width, height))[0][:height, :width].copy()


def saved(folder: Path, index: int, name: str | None = None) -> Path:
    path = folder / (name or f"{index}.png")
    Image.fromarray(drawing(index)).save(path)
    return path


# What is asked for


@pytest.mark.parametrize("native", [False, True], ids=["model size", "native size"])
@pytest.mark.parametrize("detail_only", [False, True], ids=["light and dark too", "detail"])
def test_the_target_is_asked_for_and_its_detail_exaggerated(native: bool, detail_only: bool) -> None:
    """80 x 160 becomes 80 x 160 here, of which the network reads the middle 64 x 64."""
    source, target = drawing(1, 160, 80), drawing(2, 160, 80)
    x = torch.from_numpy(source).permute(2, 0, 1).double() / 255
    asked = TargetImage(target, 1.5, TRANSFORM, native, detail_only).target(x, "outline", (4, 4)).numpy()
    t = target.transpose(2, 0, 1) / 255
    assert np.abs(asked - t)[:, :8].max() < 1e-6
    assert np.abs(asked - t)[:, :, :48].max() < 1e-6
    sigma = detail_scale(TRANSFORM, 160, 80, native=native)
    wanted = [
        gaussian_filter(a if detail_only else b, sigma) + 1.5 * (b - gaussian_filter(b, sigma))
        for a, b in zip(x.numpy(), t, strict=True)
    ]
    assert np.abs(asked - np.stack(wanted))[:, 10:70, 50:110].max() < 0.01


def test_a_target_covers_the_canvas_and_keeps_its_shape() -> None:
    disk = np.zeros((100, 300, 3), np.uint8)
    disk[:, 100:200] = 255
    fitted = fit(disk, 50, 50)
    assert fitted.shape == (50, 50, 3)
    assert fitted.min() > 200  # the middle square alone


def test_likeness_at_its_ends() -> None:
    a, b = drawing(1), drawing(2)
    same = likeness(a, b, a, (2.6, 2.6))
    assert same.ssim_target == pytest.approx(1)
    assert same.detail_correlation_target == pytest.approx(1)
    assert same.psnr_target is None
    assert same.score == pytest.approx(1)
    assert same.ssim_source < 0.9
    assert same.psnr_source == pytest.approx(-10 * np.log10((((a - b.astype(float)) / 255) ** 2).mean()), rel=1e-4)
    assert same.correlation_source == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    flat = likeness(np.full_like(a, 99), b, a, (2.6, 2.6))
    assert flat.detail_correlation_target is flat.correlation_target is None
    assert flat.score == pytest.approx(flat.ssim_target / 3)


# What is refused


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"channels": "red"}, "`bounded=False`"),
        ({"channels": "red", "bounded": False, "strength": 2.0}, "`strength`"),
        ({"size": "native", "bounded": False}, "`bounded=True`"),
        ({"size": "native", "norm": 1}, '`size="model"`'),
    ],
)
def test_settings_that_exclude_each_other(network: LazyModel, settings: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        Attack(network, **settings)  # type: ignore[arg-type]


def test_red_alone_needs_patches_with_more_pixels_than_the_embedding() -> None:
    """A ViT-S/16: 384 embeddings of 768 numbers, of which 256 are red."""
    request = replace(TINY, name="vit_small_patch16_224")
    Attack(LazyModel(request)).prepare()
    with pytest.raises(NoNullspaceError, match=r'rank 256 of d = 384, with r\^2 = 256 .* `channels="all"`'):
        Attack(LazyModel(request), channels="red", bounded=False).prepare()


# How it is made


def test_auto_takes_the_strength_that_looks_most_like_the_target(network: LazyModel, tmp_path: Path) -> None:
    source, target = read_picture(saved(tmp_path, 1)), drawing(2)
    fool = Attack(network, rounding="nearest")
    chosen = fool(source, target)
    scores = {s: fool.at(source, target, s).likeness.score for s in (1.0, 1.5, 2.0, 3.0)}
    assert chosen.strength == max(scores, key=lambda s: scores[s])
    assert chosen.likeness.score == max(scores.values())
    assert len(set(scores.values())) == 4


def test_the_source_is_chosen_that_gives_the_best_result(network: LazyModel, tmp_path: Path) -> None:
    paths, target = [saved(tmp_path, index) for index in range(3, 9)], drawing(2)
    fool = Attack(network, strength=1.0, rounding="nearest")
    seen: list[None] = []
    choice = choose_source(fool, paths, target, advance=lambda: seen.append(None))
    scores = {path: fool(read_picture(path), target).likeness.score for path in paths}
    assert choice.path == max(scores, key=lambda path: scores[path])
    assert choice.score == scores[choice.path]
    assert (choice.candidates, len(seen)) == (6, 6)
    assert choice.score > float(np.median(list(scores.values())))


@pytest.mark.parametrize("method", ["estimate", "rough"])
def test_a_source_that_does_not_fit_into_memory_is_left_out(
    network: LazyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    paths = [saved(tmp_path, index) for index in range(3, 6)]
    original, notes = getattr(Attack, method), list[str]()

    def starved(self: Attack, source: Picture, target: Pixels) -> Any:
        if source.path == paths[1]:
            raise RuntimeError("CUDA error: out of memory")
        return original(self, source, target)

    monkeypatch.setattr(Attack, method, starved)
    fool = Attack(network, strength=1.0, rounding="nearest")
    choice = choose_source(fool, paths, drawing(2), notice=notes.append)
    assert choice.path != paths[1]
    assert choice.skipped == (paths[1],)
    (said,) = notes
    reason = f"{paths[1]} does not fit into memory (CUDA error: out of memory). Try"
    assert said.startswith(f"{paths[1]} was left out: {reason}")


def test_sources_of_a_class(network: LazyModel, tmp_path: Path) -> None:
    paths = [saved(tmp_path, index) for index in range(3, 9)]
    (tmp_path / "bad.png").write_bytes(b"no image")
    model = network.model
    logits = model(torch.stack([model.transform(read_picture(path).pixels) for path in paths])).logits
    assert logits is not None
    classes = logits.argmax(1).tolist()
    fool = Attack(network, strength=1.0, rounding="nearest")
    named = [*paths, tmp_path / "bad.png"]
    choice = choose_source(fool, named, drawing(2), str(classes[4]))
    assert classes[paths.index(choice.path)] == classes[4]
    assert choice.candidates == classes.count(classes[4])
    assert choice.skipped == (tmp_path / "bad.png",)
    twin = saved(tmp_path, 2)  # which nobody would be fooled by
    (same,) = model(model.transform(drawing(2))[None]).logits.argmax(1).tolist()  # type: ignore[union-attr]
    assert choose_source(fool, [*paths, twin], drawing(2)).candidates == sum(other != same for other in classes) > 0
    with pytest.raises(DataError, match="any class but the target's"):
        choose_source(fool, [twin], drawing(2))
    with pytest.raises(DataError, match="none in which"):
        choose_source(fool, paths, drawing(2), str((max(classes) + 1) % 1000))
    with pytest.raises(UsageError, match="no class 'zebrx'"):
        choose_source(fool, paths, drawing(2), "zebrx")


# Controls


@pytest.fixture(scope="module")
def result(network: LazyModel, tmp_path_factory: pytest.TempPathFactory) -> AttackSolution:
    source = read_picture(saved(tmp_path_factory.mktemp("source"), 1))
    return Attack(network, rounding="nearest", strength=1.0)(source, drawing(2))


def test_controls_have_the_noises_norm_and_lie_where_they_say(network: LazyModel, result: AttackSolution) -> None:
    everything, space = (slice(None), slice(None)), network.patches
    norm = float((result.seen(result.image) - result.seen(result.source)).norm())
    gaussian, read = noises = controls(result, space, everything, 0)
    assert float(gaussian.norm()) == pytest.approx(norm)
    assert float(read.norm()) == pytest.approx(norm)
    for noise, share in ((gaussian, 0.25), (read, 1.0)):  # 192 of 768 dimensions
        cut = space.patch_map.patchify(noise)
        kept = cut @ space.row_space.mT
        assert float(kept.norm() / cut.norm()) == pytest.approx(share**0.5, abs=0.03)
    assert not torch.equal(noises, controls(result, space, everything, 1))


def test_tries_of_one_size_share_what_depends_on_it(network: LazyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(PreimageSolver):
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr("nullspace_cli.engine.preimage.solver.PreimageSolver", Counted)
    attack = Attack(network, "native")
    source = picture_of(drawing(1, 160, 120))
    for strength in (1.0, 2.0):
        attack.rough(source, drawing(2))
        replace(attack, rounding="nearest").at(source, drawing(2), strength)
    assert len(made) == 2  # of the whole picture, and of what the crop reads of it


def test_controls_at_native_size_go_through_the_resize() -> None:
    """White noise is all but averaged away, and noise that the resize reads is not."""
    view = ResizeOperator(TRANSFORM, 320, 480)
    source = torch.full((3, 480, 320), 0.5)
    image, read = source.clone(), TRANSFORM.seen_part(320, 480, native=True)
    image[:, *read] += 0.1
    image[:, :20] = 1.0  # where nothing is read, nothing counts
    pixels = np.zeros((480, 320, 3), np.uint8)
    likely = likeness(pixels, pixels, pixels, (1.0, 1.0))
    result = AttackSolution(image, source, source, pixels, True, 1.0, "resize", view, {}, likely, grey=False)
    gaussian, within = controls(result, None, read, 0)
    assert gaussian.shape == within.shape == (3, 64, 64)
    norm = 0.1 * (3 * 256 * 256) ** 0.5
    # R is an average over 4 x 4: white noise keeps about 1 / 16 of its norm, and nothing more than ||R||, about 1 / 4.
    assert 0.03 < float(gaussian.norm()) / norm < 0.07
    assert 0.15 < float(within.norm()) / norm < 0.28


# Overlays


def test_the_hottest_place_is_the_maps_own() -> None:
    saliency = torch.zeros(4, 4)
    saliency[1, 2] = -3.0  # magnitudes count
    values = heat(saliency, (64, 64))
    assert np.unravel_index(values.argmax(), values.shape)[0] // 16 == 1
    assert (values.min(), values.max()) == (0, 1)
    assert np.array_equal(heat(torch.ones(4, 4), (8, 8)), np.zeros((8, 8)))
    picture = overlay(torch.full((3, 64, 64), 0.5), saliency)
    assert picture[24, 40].sum() > picture[60, 60].sum()
