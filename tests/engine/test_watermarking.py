"""Watermarks at model size: exact before rounding, verified after, in every geometry of the eval transform."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine import basis as bases
from nullspace_cli.engine import watermarking
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.images import Picture, encode_png, read_picture
from nullspace_cli.engine.marks import Mark, Placement, read_mark
from nullspace_cli.engine.models import LoadedModel, ModelRequest, load_model
from nullspace_cli.engine.solvers.box_l2 import project_affine_box
from nullspace_cli.engine.solvers.solution import Status


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(ModelRequest("demo"))


@pytest.fixture(scope="module")
def space(model: LoadedModel) -> watermarking.PatchSpace:
    found = bases.find_basis(model)
    return watermarking.PatchSpace(found.patch_map, found.nullspace.row_space.flatten(1))


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Mark:
    path = tmp_path_factory.mktemp("mark") / "logo.png"
    path.write_bytes(encode_png(draw_logo()))
    return read_mark(path)


def picture(folder: Path, width: int, height: int, index: int = 4) -> Picture:
    pixels, _ = draw("test", index, size=max(width, height))
    Image.fromarray(pixels[:height, :width]).save(folder / "photo.png")
    return read_picture(folder / "photo.png")


def saved(folder: Path, result: watermarking.Watermarked) -> Picture:
    (folder / "out.png").write_bytes(encode_png(result.pixels))
    return read_picture(folder / "out.png")


GEOMETRIES = [
    ("center", 1.0, (300, 300)),
    ("center", 0.9, (400, 260)),
    ("center", 0.875, (200, 330)),
    ("center", 0.9, (60, 40)),
    ("squash", 1.0, (300, 150)),
    ("squash", 0.9, (150, 300)),
    ("border", 1.0, (300, 170)),
    ("border", 0.9, (170, 300)),
]


@pytest.mark.parametrize(("crop_mode", "crop_pct", "size"), GEOMETRIES)
def test_exact_before_rounding_and_verified_after(
    crop_mode: str,
    crop_pct: float,
    size: tuple[int, int],
    model: LoadedModel,
    space: watermarking.PatchSpace,
    mark: Mark,
    tmp_path: Path,
) -> None:
    model = replace(model, transform=replace(model.transform, crop_mode=crop_mode, crop_pct=crop_pct))
    source = picture(tmp_path, *size)
    result = watermarking.watermark(model.transform, space, source, mark, Placement())
    assert result.solution.status is not Status.ITERATION_LIMIT
    assert result.solution.residual.max() <= 1e-8
    assert result.solution.bound_violation.max() <= 1e-9
    assert result.unmarked == 0
    assert 0 <= result.image.min() <= result.image.max() <= 1
    assert not torch.allclose(result.image, result.source, atol=0.05)

    # The file reaches the network as it is, and there its tokens are the source's.
    written = saved(tmp_path, result)
    assert np.array_equal(model.transform.resize(written.pixels), written.pixels)
    verdict = watermarking.verify(model, space.patch_map, source, written)
    assert verdict.match
    assert verdict.embedding_error is not None
    assert verdict.embedding_error < 0.01
    assert verdict.holds(0.01)


def test_tokens_agree_by_plain_timm(
    model: LoadedModel, space: watermarking.PatchSpace, mark: Mark, tmp_path: Path
) -> None:
    source = picture(tmp_path, 320, 250)
    result = watermarking.watermark(model.transform, space, source, mark, Placement())
    verdict = watermarking.verify(model, space.patch_map, source, saved(tmp_path, result))
    config = {
        "input_size": (3, 224, 224),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    transform = timm.data.create_transform(**config)
    before, after = (transform(Image.open(tmp_path / name).convert("RGB"))[None] for name in ("photo.png", "out.png"))
    layer = model.module.get_submodule("patch_embed.proj")
    old, new = (torch.nn.functional.conv2d(x, layer.weight, stride=32) for x in (before, after))  # type: ignore[arg-type]
    assert verdict.embedding_error == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-3)
    assert verdict.input_pixels_changed == pytest.approx(float((before != after).double().mean()))
    logits = model.module(torch.cat([before, after]))
    assert verdict.logit_mse == pytest.approx(float((logits[0] - logits[1]).square().sum()), rel=1e-3)
    assert verdict.before is not None
    assert verdict.before["probability"] == pytest.approx(float(logits.softmax(1)[0].max()), rel=1e-4)


def test_pixels_outside_the_crop_take_the_mark_freely(
    model: LoadedModel, space: watermarking.PatchSpace, mark: Mark, tmp_path: Path
) -> None:
    source = picture(tmp_path, 400, 200)
    result = watermarking.watermark(model.transform, space, source, mark, Placement(fit="stretch", scale=1.0))
    top, left = 0, (result.image.shape[2] - 224) // 2
    outside = torch.ones(result.image.shape[1:], dtype=torch.bool)
    outside[top : top + 224, left : left + 224] = False
    assert torch.equal(result.image[:, outside], result.target.clamp(0, 1)[:, outside])
    assert outside.any()


def test_a_projection_is_no_further_than_any_other_feasible_image(
    model: LoadedModel, space: watermarking.PatchSpace, mark: Mark, tmp_path: Path
) -> None:
    result = watermarking.watermark(model.transform, space, picture(tmp_path, 224, 224), mark, Placement(strength=1))
    best = (result.image - result.target).norm()
    assert best < (result.source - result.target).norm()
    middle = (result.image + result.source) / 2  # feasible too
    assert best < (middle - result.target).norm()


def test_strength_makes_the_mark_stronger(
    model: LoadedModel, space: watermarking.PatchSpace, mark: Mark, tmp_path: Path
) -> None:
    source = picture(tmp_path, 224, 224)
    faint, strong = (
        watermarking.watermark(model.transform, space, source, mark, Placement(strength=s)) for s in (1.0, 3.0)
    )
    assert (strong.image - strong.source).norm() > 1.5 * (faint.image - faint.source).norm()
    assert (watermarking.likeness(strong)["mark_correlation"] or 0) > 0.1
    still = watermarking.watermark(model.transform, space, source, mark, Placement(strength=0))
    assert np.array_equal(still.pixels, source.pixels)
    assert watermarking.likeness(still) == {"psnr": None, "mark_correlation": None}


def test_saturated_pictures(model: LoadedModel, space: watermarking.PatchSpace, mark: Mark, tmp_path: Path) -> None:
    pixels = np.full((224, 224, 3), 255, np.uint8)
    pixels[:100] = 0
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    source = read_picture(tmp_path / "photo.png")
    result = watermarking.watermark(model.transform, space, source, mark, Placement())
    residual = space.patch_map.patchify(result.image - result.source) @ space.row_space.mT
    assert residual.norm(dim=1).max() <= 1e-8
    verdict = watermarking.verify(model, space.patch_map, source, saved(tmp_path, result))
    assert verdict.match


def test_patches_that_are_not_solved_keep_their_source(
    model: LoadedModel,
    space: watermarking.PatchSpace,
    mark: Mark,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasty = partial(project_affine_box, max_iterations=1)
    monkeypatch.setattr(watermarking, "project_affine_box", hasty)
    result = watermarking.watermark(model.transform, space, picture(tmp_path, 224, 224), mark, Placement())
    assert result.solution.status is not Status.SOLVED
    assert result.unmarked > 0
    residual = space.patch_map.patchify(result.image - result.source) @ space.row_space.mT
    assert residual.norm(dim=1).max() <= 1e-9
    assert result.describe_solver()["unmarked_patches"] == result.unmarked


def test_row_space_of_other_patches_is_refused(space: watermarking.PatchSpace) -> None:
    with pytest.raises(ArtifactError, match="patches with 5 numbers"):
        watermarking.PatchSpace(space.patch_map, space.row_space[:, :5])


def test_noise_picture_is_centred(
    model: LoadedModel, space: watermarking.PatchSpace, mark: Mark, tmp_path: Path
) -> None:
    result = watermarking.watermark(model.transform, space, picture(tmp_path, 224, 224), mark, Placement())
    noise = watermarking.noise_picture(result)
    assert noise.dtype == np.uint8
    assert {int(noise.min()), int(noise.max())} & {0, 255}
    assert abs(float(noise.mean()) - 127.5) < 5
