"""Watermarks at native size: bit for bit what the model sees, judged by timm's own transform and models."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.documents.shared import CropMode, Interpolation
from nullspace_cli.engine.errors import ImageError, NoNullspaceError
from nullspace_cli.engine.files.pictures import Picture, encode_like, read_picture
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.decomposition import split_space
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, PatchSpace
from nullspace_cli.engine.preimage.pillow_passes import Passes
from nullspace_cli.engine.solvers.resize_projection import (
    DualPoint,
    ResizeProblem,
    SeparableResize,
    Strip,
    WholeView,
    project_onto_view,
)
from nullspace_cli.engine.transforms.eval_transform import CROP_MODES, INTERPOLATIONS, EvalTransform, overlap
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.watermark import native_size
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Mark, Placement
from nullspace_cli.engine.watermark.native_size import NativeSize
from nullspace_cli.engine.watermark.patch_constraint import PatchConstraint
from nullspace_cli.engine.watermark.result import Watermarked, attained, fidelity
from tests.engine.watermark.patches import smooth_space

Maker = Callable[..., NativeSize]

TRANSFORM = EvalTransform((3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.9)


@pytest.fixture(scope="module")
def mark() -> Mark:
    return text_mark("copy")


@pytest.fixture(scope="module")
def space() -> PatchSpace:
    return smooth_space(TRANSFORM.std)


def no_patches() -> PatchSpace:
    raise NoNullspaceError("no patches")


@pytest.fixture
def maker(mark: Mark, device: torch.device) -> Maker:
    """A maker for 64 x 64 inputs of a model without patch embedding; any part by name."""

    def maker(placement: Placement | None = None, **settings: Any) -> NativeSize:
        design = Design(mark, placement or Placement())
        fixed = {"transform": TRANSFORM, "design": design, "patches": no_patches, "device": device}
        return NativeSize(**{**fixed, **settings})

    return maker


def drawing(width: int, height: int, index: int = 3) -> NDArray[np.uint8]:
    pixels, _ = draw("test", index, size=max(width, height))
    return np.ascontiguousarray(pixels[:height, :width])


def pictured(folder: Path, pixels: NDArray[np.uint8]) -> Picture:
    Image.fromarray(pixels).save(folder / "photo.png")
    return read_picture(folder / "photo.png")


def saved(folder: Path, picture: Picture, result: Watermarked) -> Path:
    path = folder / "out.png"
    path.write_bytes(encode_like(picture, result.pixels).data)
    return path


def by_timm(transform: EvalTransform) -> Callable[[Path], Tensor]:
    """timm's own evaluation transform, from file to normalised tensor."""
    make = create_transform(
        transform.input_size,
        interpolation=transform.interpolation,
        mean=transform.mean,
        std=transform.std,
        crop_pct=transform.crop_pct,
        crop_mode=transform.crop_mode,
    )
    return lambda path: make(Image.open(path).convert("RGB"))


def tokens(transform: EvalTransform, space: PatchSpace, pixels: NDArray[np.uint8]) -> Tensor:
    return space.patch_map.patchify(transform(pixels).double()) @ space.patch_map.matrix("normalized").mT


def embedding_error(space: PatchSpace, source: Picture, result: Watermarked, transform: EvalTransform) -> float:
    before, after = (tokens(transform, space, pixels) for pixels in (source.pixels, result.pixels))
    return float((after - before).norm() / before.norm())


# --- through the resize


@pytest.mark.parametrize("size", [(160, 150), (301, 187), (150, 201)])
@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_bit_identical_by_timms_own_transform(
    interpolation: Interpolation, crop_mode: CropMode, size: tuple[int, int], maker: Maker, tmp_path: Path
) -> None:
    transform = replace(TRANSFORM, interpolation=interpolation, crop_mode=crop_mode)
    picture = pictured(tmp_path, drawing(*size))
    result = maker(transform=transform)(picture)
    see = by_timm(transform)
    assert torch.equal(see(tmp_path / "photo.png"), see(saved(tmp_path, picture, result)))
    assert (result.nullspace, result.rounding) == ("resize", "aware")
    assert result.pixels.shape == picture.pixels.shape
    assert result.source is picture.pixels
    assert attained(result) > 0.1


@pytest.mark.parametrize(("size", "index"), [((500, 460), 2), ((460, 700), 7), ((900, 450), 4)])
def test_logits_to_the_last_bit_by_plain_timm(size: tuple[int, int], index: int, mark: Mark, tmp_path: Path) -> None:
    """A ViT and a CNN behind the same transform: neither was asked."""
    picture = pictured(tmp_path, drawing(*size, index))
    models = [load_model(ModelRequest(name, device="cpu")) for name in ("demo", "demo-cnn")]
    transform = models[0].transform
    assert models[1].transform == transform
    result = NativeSize(transform, Design(mark, Placement()), no_patches, "resize")(picture)
    assert attained(result) > 0.4
    see = timm.data.create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0
    )
    before, after = (see(Image.open(path))[None] for path in (picture.path, saved(tmp_path, picture, result)))
    for model in models:
        assert torch.equal(model.module(before), model.module(after))


def test_a_few_values_that_are_wrong_cost_no_mark(tmp_path: Path) -> None:
    """At hardly more than twice the model's resize, in a photo's noise, the source is not given back far and wide."""
    pixels = draw("val", 0, size=700)[0][:500] + np.random.default_rng(0).normal(0, 8, (500, 700, 3))
    picture = pictured(tmp_path, pixels.round().clip(0, 255).astype(np.uint8))
    transform = EvalTransform((3, 224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9)
    result = NativeSize(transform, Design(text_mark("hi"), Placement()), no_patches)(picture)
    assert np.array_equal(transform.input_pixels(result.pixels), transform.input_pixels(picture.pixels))
    assert attained(result) > 0.8


def test_outside_of_the_crop_the_mark_is_free(maker: Maker, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(320, 150))
    result = maker(Placement(fit="stretch", scale=1.0))(picture)
    passes = Passes(ResizeOperator(TRANSFORM, 320, 150))
    unread = ~passes.cols.any(0)
    assert unread.sum() > 100
    np.testing.assert_array_equal(result.pixels[:, unread], result.wanted[:, unread])
    assert (result.pixels[:, unread] != result.source[:, unread]).any()


@pytest.mark.parametrize("index", [1, 5])
def test_grey_stays_grey(index: int, maker: Maker, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(170, 160, index)[..., 0])
    assert picture.grey
    result = maker()(picture)
    assert (result.pixels == result.pixels[..., :1]).all()
    assert result.unrounded().image.shape == (3, 160, 170)
    see = by_timm(TRANSFORM)
    assert torch.equal(see(picture.path), see(saved(tmp_path, picture, result)))
    assert read_picture(tmp_path / "out.png").source_mode == "L"


def test_transparent_pixels_stay_within_what_can_be_seen(maker: Maker, tmp_path: Path) -> None:
    alpha = np.full((160, 170, 1), 255, np.uint8)
    alpha[60:100], alpha[:, 80:120] = 0, 128
    picture = pictured(tmp_path, np.concatenate([drawing(170, 160), alpha], 2)).read_as("shown")
    result = maker(Placement(fit="stretch", scale=1.0))(picture)
    bounds = picture.range()
    assert bounds is not None
    assert (result.pixels >= bounds[0]).all()
    assert (result.wanted >= bounds[0]).all()
    hidden = picture.alpha == 0
    np.testing.assert_array_equal(result.pixels[hidden], 255)
    written = read_picture(saved(tmp_path, picture, result), "shown")
    np.testing.assert_array_equal(written.pixels, result.pixels)
    np.testing.assert_array_equal(written.samples[..., 3], picture.samples[..., 3])
    np.testing.assert_array_equal(TRANSFORM.input_pixels(written.pixels), TRANSFORM.input_pixels(picture.pixels))


@pytest.mark.parametrize("size", [(151, 149), (700, 150), (150, 290), (233, 301)])
def test_panoramas_portraits_and_odd_sizes(size: tuple[int, int], maker: Maker, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(*size))
    result = maker()(picture)
    assert result.pixels.shape == (size[1], size[0], 3)
    see = by_timm(TRANSFORM)
    assert torch.equal(see(picture.path), see(saved(tmp_path, picture, result)))


@pytest.mark.parametrize(("crop_mode", "size"), [("center", (150, 320)), ("squash", (150, 400)), ("border", (80, 400))])
def test_tall_pictures(crop_mode: CropMode, size: tuple[int, int], maker: Maker, tmp_path: Path) -> None:
    """Pillow 13 resizes columns first where the height shrinks by more than twice as many pixels as the width."""
    transform = replace(TRANSFORM, crop_mode=crop_mode)
    picture = pictured(tmp_path, drawing(*size))
    result = maker(transform=transform)(picture)
    see = by_timm(transform)
    assert torch.equal(see(picture.path), see(saved(tmp_path, picture, result)))


def test_nearest_rounding_is_of_the_same_solution(maker: Maker, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(170, 160))
    result = maker(rounding="nearest")(picture)
    assert result.rounding == "nearest"
    np.testing.assert_array_equal(result.pixels, (result.unrounded().image * 255).round().movedim(0, -1))
    changed = TRANSFORM.input_pixels(result.pixels) != TRANSFORM.input_pixels(picture.pixels)
    assert 0 < changed.mean() < 0.1


@pytest.mark.parametrize("nullspace", ["resize", "patch"])
def test_exact_solution_and_certificate(nullspace: str, maker: Maker, space: PatchSpace, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(170, 160))
    result = maker(nullspace=nullspace, patches=lambda: space)(picture)
    image, source, target = result.unrounded()
    assert image.shape == source.shape == target.shape == (3, 160, 170)
    assert 0 <= image.min() <= image.max() <= 1
    np.testing.assert_allclose(source.movedim(0, -1) * 255, picture.pixels, atol=1e-4)
    np.testing.assert_allclose(target.movedim(0, -1) * 255, result.wanted, atol=1e-4)
    assert np.square(image.movedim(0, -1).numpy() * 255 - result.pixels).mean() ** 0.5 < 2.5  # levels
    certificate = result.solver
    assert certificate["norm"] == 2
    assert certificate["status"] == "solved"
    assert certificate["residual"] <= 0.25 / 255
    assert certificate["gap"] < 1e-2
    assert certificate["bound_violation"] == 0
    assert certificate["iterations"] >= 1
    view = ResizeOperator(TRANSFORM, 170, 160)
    seen = view.apply(image.double())
    if nullspace == "resize":
        assert 0 <= certificate["gave_way"] < 0.3
        wanted = torch.from_numpy(TRANSFORM.input_pixels(picture.pixels)).movedim(2, 0) / 255
        # In the middle of its rounding cell, or where the source itself is (away from the mark; among black and white).
        off = torch.minimum((seen - wanted).abs(), (seen - view.apply(source.double())).abs())
        assert float((off * 255 < 0.35).double().mean()) > 0.99
    else:
        own = torch.from_numpy(TRANSFORM.input_pixels(picture.pixels)).movedim(2, 0) / 255
        left = space.patch_map.patchify(seen - own) @ space.row_space.mT
        assert float(left.abs().max()) == pytest.approx(certificate["residual"], rel=0.2, abs=1e-5)


# --- which nullspace


def test_auto_takes_the_resize_where_there_is_room(maker: Maker, tmp_path: Path) -> None:
    make = maker(patches=lambda: pytest.fail("the patches were asked for"))
    assert make(pictured(tmp_path, drawing(250, 240))).nullspace == "resize"


def test_auto_takes_the_patches_where_little_would_be_left(maker: Maker, space: PatchSpace, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(74, 73))
    result = maker(patches=lambda: space)(picture)
    assert result.nullspace == "patch"
    assert result.pixels.shape == picture.pixels.shape
    assert attained(result) > 0.1
    assert embedding_error(space, picture, result, TRANSFORM) < 0.02


@pytest.mark.parametrize("nullspace", ["auto", "resize"])
def test_too_small(nullspace: str, maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="too small for a watermark through the resize alone: 72 x 72 becomes 71 x 71"):
        maker(nullspace=nullspace)(pictured(tmp_path, drawing(72, 72)))


def test_between_the_two_the_resize_does_where_there_are_no_patches(
    maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_size, "ENOUGH", 0.99)
    assert maker()(pictured(tmp_path, drawing(250, 240))).nullspace == "resize"


def test_patches_of_a_cnn(mark: Mark, tmp_path: Path) -> None:
    network = LazyModel(ModelRequest("demo-cnn", device="cpu"))
    make = NativeSize(network.transform, Design(mark, Placement()), lambda: network.patches, "patch")
    with pytest.raises(NoNullspaceError, match="overlapping windows"):
        make(pictured(tmp_path, drawing(300, 300)))


def test_too_elongated(maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="too elongated"):
        maker()(pictured(tmp_path, np.zeros((2, 60_000, 3), np.uint8)))


# --- through the patches

GEOMETRIES = [("center", (100, 90)), ("squash", (120, 80)), ("border", (130, 90)), ("center", (60, 50))]


@pytest.mark.parametrize(("crop_mode", "size"), GEOMETRIES)
def test_tokens_stay(
    crop_mode: CropMode, size: tuple[int, int], maker: Maker, space: PatchSpace, tmp_path: Path
) -> None:
    transform = replace(TRANSFORM, crop_mode=crop_mode)
    picture = pictured(tmp_path, drawing(*size))
    aware, nearest = (
        maker(transform=transform, nullspace="patch", patches=lambda: space, rounding=rounding)(picture)
        for rounding in ("aware", "nearest")
    )
    errors = [embedding_error(space, picture, result, transform) for result in (aware, nearest)]
    assert errors[0] <= errors[1] < 0.02
    changed = TRANSFORM.input_pixels(aware.pixels) != TRANSFORM.input_pixels(picture.pixels)
    assert changed.mean() > 0.1
    assert attained(aware) > 0.1


@pytest.mark.parametrize("nullspace", ["auto", "patch"])
@pytest.mark.parametrize(("width", "height"), [(48, 40), (60, 66), (72, 70), (40, 90)])
def test_tokens_stay_within_the_tolerance_where_the_resize_enlarges(
    width: int, height: int, nullspace: str, maker: Maker, space: PatchSpace, tmp_path: Path
) -> None:
    picture = pictured(tmp_path, drawing(width, height))
    result = maker(nullspace=nullspace, patches=lambda: space)(picture)
    assert result.nullspace == "patch"
    see, kernel = by_timm(TRANSFORM), space.patch_map.weight
    before, after = (
        torch.nn.functional.conv2d(see(path)[None].double(), kernel, stride=kernel.shape[-1])
        for path in (picture.path, saved(tmp_path, picture, result))
    )
    assert float((after - before).norm() / before.norm()) <= 0.01
    assert attained(result) > 0.1
    correlation = fidelity(result)["mark_correlation"]
    assert correlation is not None
    assert correlation > 0.3


def test_pixels_that_no_marked_patch_reads_are_the_sources(maker: Maker, space: PatchSpace, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(60, 60))
    result = maker(Placement(position="top-left", scale=0.3), nullspace="patch", patches=lambda: space)(picture)
    changed = (result.pixels != picture.pixels).any(2)
    assert changed[:20, :20].any()
    assert not changed[40:].any()
    assert not changed[:, 40:].any()


def test_a_tolerance_that_the_roundings_alone_exceed(maker: Maker, space: PatchSpace, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(60, 60))
    with pytest.raises(ImageError, match=r"60 x 60: the embeddings would be off by 0\.\d+%, more than 0\.001%"):
        maker(nullspace="patch", patches=lambda: space, tolerance=1e-5)(picture)


def test_an_embedding_that_reads_every_pixel(maker: Maker, tmp_path: Path) -> None:
    """64 numbers of each 8 x 8 patch, whose 192 stand for 3 x 4 x 4 pixels: nothing is free."""
    weight = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patch_map = PatchMap(weight, TRANSFORM.std, 1e-12)
    space = PatchSpace(patch_map, split_space(patch_map.matrix("pixel"), 1e-12)[0])
    with pytest.raises(ImageError, match=r"35 x 35: only \d% of the mark would be left"):
        maker(nullspace="patch", patches=lambda: space, tolerance=0.005)(pictured(tmp_path, drawing(35, 35)))


def test_mean_gram_is_the_dense_mean(space: PatchSpace) -> None:
    """Of C_p (R_h R_h^T x R_w R_w^T) C_p^T over the patches, whose axes' blocks are independent of one another."""
    constraint, passes = constraint_of(space, TRANSFORM, (90, 70))
    resize = SeparableResize(passes.rows, passes.cols, 3)
    rows = space.row_space.numpy()
    blocks = []
    for i in range(0, 64, 16):
        for j in range(0, 64, 16):
            down, across = (
                matrix[start : start + 16] @ matrix[start : start + 16].T
                for matrix, start in ((passes.rows, i), (passes.cols, j))
            )
            blocks.append(rows @ np.kron(np.eye(3), np.kron(down, across)) @ rows.T)
    np.testing.assert_allclose(constraint.mean_gram(resize), np.mean(blocks, 0), atol=1e-4)


def test_grey_through_the_patches(maker: Maker, space: PatchSpace, tmp_path: Path) -> None:
    picture = pictured(tmp_path, drawing(100, 90)[..., 0])
    result = maker(nullspace="patch", patches=lambda: space)(picture)
    assert (result.pixels == result.pixels[..., :1]).all()
    assert (result.pixels != result.source).any()
    assert embedding_error(space, picture, result, TRANSFORM) < 0.01


def test_grey_patches_that_hide_nothing(maker: Maker, tmp_path: Path) -> None:
    """A 4 x 4 patch of grey is 16 numbers: an embedding of 20 reads them all, though not the 48 of colour."""
    weight = torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patch_map = PatchMap(weight, TRANSFORM.std, 1e-12)
    space = PatchSpace(patch_map, split_space(patch_map.matrix("pixel"), 1e-12)[0])
    make = maker(nullspace="patch", patches=lambda: space)
    with pytest.raises(NoNullspaceError, match="greyscale"):
        make(pictured(tmp_path, drawing(100, 90)[..., 0]))
    assert make(pictured(tmp_path, drawing(100, 90))).nullspace == "patch"


def constraint_of(space: PatchSpace, transform: EvalTransform, size: tuple[int, int]) -> tuple[PatchConstraint, Passes]:
    view = ResizeOperator(transform, *size)
    passes = Passes(view)
    return PatchConstraint(space, view.geometry, passes.transposed, torch.device("cpu")), passes


@pytest.mark.parametrize(("crop_mode", "size"), GEOMETRIES)
def test_constraint_is_orthogonal_where_patches_are_whole(
    crop_mode: CropMode, size: tuple[int, int], space: PatchSpace
) -> None:
    """<C v, y> = <v, C^T y> always; C C^T = 1 as long as no patch is partly padding."""
    constraint, passes = constraint_of(space, replace(TRANSFORM, crop_mode=crop_mode), size)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(len(passes.rows), 3, len(passes.cols), generator=generator)
    y = torch.randn(16, len(space.row_space), generator=generator)
    assert constraint.reduce(v).shape == y.shape
    assert constraint.spread(y).shape == v.shape
    assert float((constraint.reduce(v) * y).sum()) == pytest.approx(float((v * constraint.spread(y)).sum()), abs=1e-2)
    torch.testing.assert_close(constraint.view(constraint.patches(v)), v)
    if v.shape == (64, 3, 64):
        torch.testing.assert_close(constraint.reduce(constraint.spread(y)), y, rtol=0, atol=1e-5)
    image = torch.zeros(3, 64, 64)
    geometry = passes.transform.geometry(*size)
    rows, cols = (
        overlap(start, 64, length)[1]
        for start, length in zip((geometry.top, geometry.left), geometry.resized[::-1], strict=True)
    )
    image[:, rows, cols] = v.permute((1, 2, 0) if passes.transposed else (1, 0, 2))
    expected = space.patch_map.patchify(image.double()) @ space.row_space.mT
    torch.testing.assert_close(constraint.reduce(v).double(), expected, rtol=0, atol=1e-4)


def test_projection_onto_the_tokens_is_the_oracles() -> None:
    """One 8 x 8 input of four 4 x 4 patches, of a 12 x 10 picture."""
    transform = replace(TRANSFORM, input_size=(3, 8, 8), crop_pct=1.0)
    weight = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patch_map = PatchMap(weight, TRANSFORM.std, 1e-12)
    space = PatchSpace(patch_map, split_space(patch_map.matrix("pixel"), 1e-12)[0])
    constraint, passes = constraint_of(space, transform, (12, 10))
    generator = np.random.default_rng(0)
    x, t = (generator.integers(0, 256, (10, 3, 12)) for _ in range(2))
    resize = SeparableResize(passes.rows, passes.cols, 3)
    problem = ResizeProblem(resize, constraint, torch.from_numpy(t).byte())
    view = torch.from_numpy(np.einsum("hH,HcW,wW->hcw", passes.rows, x, passes.cols)).float()
    solution = project_onto_view(problem, view, tolerance=1e-3, max_iterations=60, max_inner=200)
    z = torch.cat([part for _, _, part in problem.images(solution.y)]).flatten().double().numpy()

    unit = torch.eye(x.size, dtype=torch.float64).unflatten(1, x.shape)
    seen = torch.einsum("hH,bHcW,wW->bchw", torch.from_numpy(passes.rows), unit, torch.from_numpy(passes.cols))
    A = (space.patch_map.patchify(seen) @ space.row_space.mT).flatten(1).T.numpy()
    n = x.size
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.ZeroConeT(len(A)), clarabel.NonnegativeConeT(2 * n)]
    constraints = sp.csc_matrix(np.vstack([A, np.eye(n), -np.eye(n)]))
    bounds = np.concatenate([A @ x.ravel() / 255, np.ones(n), np.zeros(n)])
    oracle = clarabel.DefaultSolver(sp.eye(n, format="csc"), -t.ravel() / 255, constraints, bounds, cones, settings)
    expected = 255 * np.array(oracle.solve().x)
    assert np.sum((z - t.ravel()) ** 2) == pytest.approx(np.sum((expected - t.ravel()) ** 2), rel=1e-4)
    assert np.abs(A @ (z - x.ravel())).max() < 2e-3
    assert np.abs(z - expected).max() < 0.1


@dataclass(frozen=True)
class Loose(ResizeProblem):
    """A problem whose images forget one of their bounds."""

    forgotten: str = "upper"

    def images(self, y: Tensor, strips: Iterable[Strip] | None = None) -> Iterator[tuple[Strip, Tensor, Tensor]]:
        for strip, u, _ in super().images(y, strips):
            yield strip, u, u.clamp_min(0) if self.forgotten == "upper" else u.clamp_max(255)


@pytest.mark.parametrize(("forgotten", "excess"), [("upper", 20 / 255), ("lower", 30 / 255)])
@pytest.mark.parametrize("per_pixel", [True, False])
def test_a_broken_bound_shows_in_the_certificate(forgotten: str, excess: float, per_pixel: bool) -> None:
    resize = SeparableResize(np.eye(4), np.eye(6), 3)
    target = torch.full((4, 3, 6), 100, dtype=torch.uint8)
    lower, upper = (torch.full_like(target, 0), torch.full_like(target, 255)) if per_pixel else (0, 255)
    y = torch.zeros(4, 3, 6)
    y[1, 2, 3], y[3, 0, 0] = 175.0, -130.0  # 20 above white, 30 below black
    solution = DualPoint(y, torch.zeros_like(y), 0)
    kept = ResizeProblem(resize, WholeView(), target, lower, upper)
    assert kept.certificate(solution, tolerance=0.5).figures(2)["bound_violation"] == 0
    broken = Loose(resize, WholeView(), target, lower, upper, forgotten=forgotten)
    assert broken.certificate(solution, tolerance=0.5).figures(2)["bound_violation"] == pytest.approx(excess, rel=1e-6)


@pytest.mark.parametrize("nullspace", ["resize", "patch"])
def test_where_no_mark_is_wanted_the_source_is_the_proven_solution(
    nullspace: str, maker: Maker, space: PatchSpace, tmp_path: Path
) -> None:
    picture = pictured(tmp_path, drawing(170, 160))
    result = maker(Placement(opacity=0.0), nullspace=nullspace, patches=lambda: space)(picture)
    np.testing.assert_array_equal(result.pixels, picture.pixels)
    figures = {name: result.solver[name] for name in ("status", "iterations", "gap", "bound_violation")}
    assert figures == {"status": "solved", "iterations": 0, "gap": 0.0, "bound_violation": 0.0}
    assert result.solver["residual"] <= 1e-6
