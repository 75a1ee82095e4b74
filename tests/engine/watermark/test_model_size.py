"""Watermarks at model size: exact before rounding, verified after, in every geometry of the eval transform."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.documents.shared import CropMode
from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.pictures import Picture, encode_png, read_picture
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.solvers.box_projection import project_affine_box
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.watermark import input_constraint
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Mark, Placement
from nullspace_cli.engine.watermark.model_size import ModelSize
from nullspace_cli.engine.watermark.result import Watermarked, attained, fidelity
from nullspace_cli.engine.watermark.verification import verify
from tests.engine.watermark.patches import smooth_space

TRANSFORM = EvalTransform((3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 1.0)
PATCHES = 16


@pytest.fixture(scope="module")
def space() -> PatchSpace:
    return smooth_space(TRANSFORM.std)


@pytest.fixture(scope="module")
def mark() -> Mark:
    return text_mark("copy")


@pytest.fixture
def maker(space: PatchSpace, mark: Mark, device: torch.device) -> Callable[..., ModelSize]:
    """A maker of 64 x 64 inputs; placements and the maker's own settings by name."""

    def maker(placement: Placement | None = None, *, strength: float | None = None, **settings: Any) -> ModelSize:
        design = Design(mark, placement or Placement(), strength=strength)
        return ModelSize(**{"transform": TRANSFORM, "space": space, "design": design, "device": device, **settings})

    return maker


def picture(folder: Path, width: int, height: int, index: int = 4) -> Picture:
    pixels, _ = draw("test", index, size=max(width, height))
    return pictured(folder, pixels[:height, :width])


def pictured(folder: Path, pixels: np.ndarray) -> Picture:
    Image.fromarray(pixels).save(folder / "photo.png")
    return read_picture(folder / "photo.png")


def saved(folder: Path, result: Watermarked) -> Picture:
    (folder / "out.png").write_bytes(encode_png(result.pixels))
    return read_picture(folder / "out.png")


def tokens(transform: EvalTransform, space: PatchSpace, pixels: np.ndarray) -> Tensor:
    """The patch embeddings of a picture, as the network has them."""
    x = transform(pixels).double()
    return space.patch_map.patchify(x) @ space.patch_map.matrix("normalized").mT


def embedding_error(transform: EvalTransform, space: PatchSpace, source: Picture, result: Watermarked) -> float:
    before, after = (tokens(transform, space, pixels) for pixels in (source.pixels, result.pixels))
    return float((after - before).norm() / before.norm())


def moved(space: PatchSpace, result: Watermarked) -> Tensor:
    """||A (z - x)|| of each patch, for an image of the model's own size."""
    image, source, _ = result.unrounded()
    return (space.patch_map.patchify(image - source) @ space.row_space.mT).norm(dim=1)


GEOMETRIES = [
    ("center", 1.0, (90, 90)),
    ("center", 0.9, (120, 80)),
    ("center", 0.875, (60, 99)),
    ("center", 0.9, (30, 20)),
    ("squash", 1.0, (90, 45)),
    ("squash", 0.9, (45, 90)),
    ("border", 1.0, (90, 51)),
    ("border", 0.9, (51, 90)),
]


@pytest.mark.parametrize(("crop_mode", "crop_pct", "size"), GEOMETRIES)
def test_exact_before_rounding_and_kept_after(
    crop_mode: CropMode,
    crop_pct: float,
    size: tuple[int, int],
    space: PatchSpace,
    maker: Callable[..., ModelSize],
    tmp_path: Path,
) -> None:
    transform = replace(TRANSFORM, crop_mode=crop_mode, crop_pct=crop_pct)
    source = picture(tmp_path, *size)
    (result,) = maker(transform=transform)([source])
    assert (result.nullspace, result.solver["status"]) == ("patch", "solved")
    assert result.solver["residual"] <= 1e-9
    assert result.solver["bound_violation"] == 0
    assert result.solver["gap"] <= 1e-6
    assert (result.solver["patches"], result.solver["unmarked_patches"]) == (PATCHES, 0)
    image, shown, target = result.unrounded()
    assert 0 <= image.min() <= image.max() <= 1
    assert not torch.allclose(image, shown, atol=0.05)
    np.testing.assert_allclose(shown.movedim(0, -1) * 255, transform.resize(source.pixels), atol=1e-9)
    np.testing.assert_array_equal(result.source, transform.resize(source.pixels))
    np.testing.assert_allclose(result.wanted, target.clamp(0, 1).movedim(0, -1) * 255, atol=0.5001)
    change = space.patch_map.patchify(crop_of(transform, image) - crop_of(transform, shown))
    assert (change @ space.row_space.mT).norm(dim=1).max() <= 1e-9

    # The file reaches the network as it is, and there its tokens are the source's.
    written = saved(tmp_path, result)
    np.testing.assert_array_equal(transform.resize(written.pixels), result.pixels)
    assert embedding_error(transform, space, source, result) < 1e-3


def crop_of(transform: EvalTransform, image: Tensor) -> Tensor:
    """The crop, with padding, of an image at model size: what `EvalTransform.crop` does to 8-bit pixels."""
    height, width = image.shape[1:]
    geometry = transform.geometry(width, height)
    assert geometry.resized == (width, height)
    crop = torch.tensor(geometry.fill, dtype=image.dtype)[:, None, None].div(255).repeat(1, *geometry.crop)
    for i in range(geometry.crop[0]):
        for j in range(geometry.crop[1]):
            y, x = i + geometry.top, j + geometry.left
            if 0 <= y < height and 0 <= x < width:
                crop[:, i, j] = image[:, y, x]
    return crop


def test_tokens_of_the_demo_by_plain_timm(mark: Mark, tmp_path: Path) -> None:
    """Ten times nearer by rounding in the metric, and the figures of `verify` are those of timm's own code."""
    model = load_model(ModelRequest("demo", device="cpu"))
    found = find_basis(model)
    space = PatchSpace(found.patch_map, found.nullspace.row_space.flatten(1))
    source = picture(tmp_path, 280, 250)
    transform = timm.data.create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0
    )
    layer = model.module.get_submodule("patch_embed.proj")
    errors = {}
    for rounding in ("aware", "nearest"):
        maker = ModelSize(model.transform, space, Design(mark, Placement()), rounding=rounding)
        verdict = verify(model, space.patch_map, source, saved(tmp_path, *maker([source])))
        before, after = (
            transform(Image.open(tmp_path / name).convert("RGB"))[None] for name in ("photo.png", "out.png")
        )
        old, new = (torch.nn.functional.conv2d(x, layer.weight, stride=32) for x in (before, after))  # type: ignore[arg-type]
        errors[rounding] = verdict.embedding_error or 0
        assert verdict.embedding_error == pytest.approx(float((new - old).norm() / old.norm()), rel=0.05)
        assert verdict.input_pixels_changed == pytest.approx(float((before != after).double().mean()))
        assert verdict.holds(0.001)
    logits = model.module(torch.cat([before, after]))
    assert verdict.logit_mse == pytest.approx(float((logits[0] - logits[1]).square().sum()), rel=1e-2)
    assert verdict.before is not None
    assert verdict.before["probability"] == pytest.approx(float(logits.softmax(1)[0].max()), rel=1e-4)
    assert 0 < 10 * errors["aware"] <= errors["nearest"]


@pytest.mark.parametrize("index", [4, 7])
def test_rounding_in_the_metric_moves_the_tokens_far_less(
    index: int, space: PatchSpace, maker: Callable[..., ModelSize], tmp_path: Path
) -> None:
    source = picture(tmp_path, 75, 72, index)
    aware, nearest = (maker(rounding=rounding)([source])[0] for rounding in ("aware", "nearest"))
    assert torch.equal(aware.unrounded().image, nearest.unrounded().image)
    np.testing.assert_array_equal(nearest.pixels, (nearest.unrounded().image * 255).round().movedim(0, -1))
    assert (aware.rounding, nearest.rounding) == ("aware", "nearest")
    errors = [embedding_error(TRANSFORM, space, source, result) for result in (aware, nearest)]
    assert 0 < 5 * errors[0] <= errors[1] < 0.01
    assert np.abs(aware.pixels.astype(int) - nearest.pixels).mean() < 1


def test_pixels_outside_the_crop_take_the_mark_freely(maker: Callable[..., ModelSize], tmp_path: Path) -> None:
    (result,) = maker(Placement(fit="stretch", scale=1.0))([picture(tmp_path, 120, 60)])
    image, _, target = result.unrounded()
    outside = torch.ones(image.shape[1:], dtype=torch.bool)
    left = (image.shape[2] - 64) // 2
    outside[:, left : left + 64] = False
    assert outside.any()
    assert torch.equal(image[:, outside], target.clamp(0, 1)[:, outside])
    np.testing.assert_array_equal(result.pixels[outside], result.wanted[outside])
    assert (result.pixels[outside] != result.source[outside]).any()


@pytest.mark.parametrize("norm", [1, 2])
def test_no_further_than_any_other_feasible_image(
    norm: int, space: PatchSpace, maker: Callable[..., ModelSize], tmp_path: Path
) -> None:
    (result,) = maker(strength=1, norm=norm)([picture(tmp_path, 64, 64)])
    image, source, target = result.unrounded()
    assert result.solver["norm"] == norm
    assert moved(space, result).max() <= 1e-8

    def distance(z: Tensor) -> float:
        return float((z - target).norm(p=norm))

    best = distance(image)
    assert best < distance((image + source) / 2) < distance(source)
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0), dtype=source.dtype)
    patches = space.patch_map.patchify(noise)
    null = space.patch_map.unpatchify(patches - patches @ space.row_space.mT @ space.row_space, noise)
    other = image + 1e-3 * null * ((image > 0.01) & (image < 0.99)).all()
    assert best <= distance(other)


def test_norms_differ(maker: Callable[..., ModelSize], tmp_path: Path) -> None:
    """Least squares spread the difference over all pixels; least absolute values leave most of them on the target."""
    source = picture(tmp_path, 64, 64)
    first, second = (maker(strength=1, norm=norm)([source])[0].unrounded() for norm in (1, 2))
    met = [float(((z.image - z.target.clamp(0, 1)).abs() < 1e-6).double().mean()) for z in (first, second)]
    assert met[0] > met[1] + 0.2
    assert (first.image - first.target).abs().sum() < (second.image - second.target).abs().sum()
    assert (first.image - first.target).norm() > (second.image - second.target).norm()


def test_strength_makes_the_mark_stronger(maker: Callable[..., ModelSize], tmp_path: Path) -> None:
    source = picture(tmp_path, 64, 64)
    faint, strong = (maker(strength=s)([source])[0] for s in (1.0, 3.0))
    assert (strong.unrounded().image - strong.unrounded().source).norm() > 1.5 * (
        faint.unrounded().image - faint.unrounded().source
    ).norm()
    assert (fidelity(strong)["mark_correlation"] or 0) > 0.1
    assert attained(strong) > 0.1
    (still,) = maker(strength=0)([source])
    np.testing.assert_array_equal(still.pixels, source.pixels)


def test_padding_is_held_fixed(space: PatchSpace, maker: Callable[..., ModelSize], tmp_path: Path) -> None:
    """In a patch that is partly padding the image's part alone must carry the constraint."""
    transform = replace(TRANSFORM, crop_mode="border")
    source = picture(tmp_path, 96, 80)  # 53 rows: above are 5 of padding, so that no patch begins with the image
    (result,) = maker(Placement(fit="stretch", scale=1.0), transform=transform)([source])
    top = transform.geometry(96, 80).top
    assert -16 < top < 0
    assert (result.pixels != result.source)[: 16 + top].any()
    assert embedding_error(transform, space, source, result) < 1e-3


def test_saturated_pictures(space: PatchSpace, maker: Callable[..., ModelSize], tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[:28] = 0
    source = pictured(tmp_path, pixels)
    (result,) = maker()([source])
    assert moved(space, result).max() <= 1e-8
    assert embedding_error(TRANSFORM, space, source, result) < 0.01


def test_patches_that_are_not_solved_keep_their_source(
    space: PatchSpace, maker: Callable[..., ModelSize], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_constraint, "project_affine_box", partial(project_affine_box, max_iterations=1))
    (result,) = maker()([picture(tmp_path, 64, 64)])
    assert result.solver["status"] == "iteration_limit"
    assert result.solver["unmarked_patches"] > 0
    assert moved(space, result).max() <= 1e-9
    image, source, _ = result.unrounded()
    patches = space.patch_map.patchify(image - source)
    assert int((patches == 0).all(1).sum()) >= result.solver["unmarked_patches"]
    # The certificate is of the image that was made, not of what the solver had for those patches.
    assert result.solver["residual"] == pytest.approx(float(moved(space, result).max()), abs=1e-15)
    assert result.solver["residual"] <= 1e-9
    assert result.solver["bound_violation"] == 0
    x, t = (space.patch_map.patchify(part) for part in (source, result.unrounded().target))
    still = (patches == 0).all(1)
    here, least = ((x - t) ** 2).sum(1) / 2, ((t.clamp(0, 1) - t) ** 2).sum(1) / 2
    assert result.solver["gap"] >= float(((here - least) / (1 + here))[still].max()) * (1 - 1e-9)
    assert result.solver["gap"] > 0.01


@pytest.mark.parametrize("norm", [1, 2])
def test_several_pictures_together_are_as_one_by_one(
    norm: int, maker: Callable[..., ModelSize], tmp_path: Path
) -> None:
    sizes = [(64, 64), (90, 70), (60, 78)]
    pictures = [picture(tmp_path, *size, index=i) for i, size in enumerate(sizes)]
    make = maker(norm=norm)
    together = make(pictures)
    for source, result in zip(pictures, together, strict=True):
        (alone,) = make([source])
        distances = [float((each.unrounded().image - each.unrounded().target).norm(p=norm)) for each in (alone, result)]
        assert distances[0] == pytest.approx(distances[1], rel=1e-6)
        # p = 1 has many pictures within its gap of the optimum.
        off, changed = (1e-2, 0.01) if norm == 1 else (1e-6, 0.002)  # where a value lies half way between two levels
        torch.testing.assert_close(alone.unrounded().image, result.unrounded().image, rtol=0, atol=off)
        assert (alone.pixels != result.pixels).mean() < changed
        np.testing.assert_array_equal(alone.wanted, result.wanted)
        assert result.solver["patches"] == PATCHES
        assert result.solver["residual"] <= 1e-8
        assert result.solver["gap"] == pytest.approx(alone.solver["gap"], rel=0.01, abs=1e-7 if norm == 1 else 1e-13)


def test_grey_pictures_come_out_in_colour_and_elongated_ones_are_refused(
    maker: Callable[..., ModelSize], tmp_path: Path
) -> None:
    grey = pictured(tmp_path, draw("test", 4, size=64)[0][..., 0])
    assert grey.grey
    assert maker()([grey])[0].pixels.shape == (64, 64, 3)
    with pytest.raises(ImageError, match="too elongated"):
        maker()([pictured(tmp_path, np.zeros((1, 100_000, 3), np.uint8))])


def test_a_line_is_refused_before_it_is_resized(
    maker: Callable[..., ModelSize], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few pixels that the resize would make millions of, of which the network reads a few thousand."""
    line = pictured(tmp_path, np.zeros((3, 4000, 3), np.uint8))
    monkeypatch.setattr(EvalTransform, "resize", lambda self, pixels: pytest.fail("it was resized"))
    with pytest.raises(ImageError, match=r'too elongated to be marked at model size: .*or use `size="native"`'):
        maker()([line])
