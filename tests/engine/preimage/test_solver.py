"""Pictures with a given view, by Pillow's own resize: bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.documents.shared import CropMode, Interpolation
from nullspace_cli.engine.preimage.kept import SIZES_KEPT
from nullspace_cli.engine.preimage.pillow_passes import Levels, Passes
from nullspace_cli.engine.preimage.problem import Preimage, PreimageProblem, Rounded
from nullspace_cli.engine.preimage.solver import PreimageSolver, PreimageSolvers
from nullspace_cli.engine.transforms.eval_transform import CROP_MODES, INTERPOLATIONS, EvalTransform, overlap
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator

HEIGHT, WIDTH = 190, 240


def transform_of(interpolation: Interpolation = "bicubic", crop_mode: CropMode = "center") -> EvalTransform:
    return EvalTransform((3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), interpolation, 0.9, crop_mode)


def drawing(width: int = WIDTH, height: int = HEIGHT, index: int = 3) -> Levels:
    """[H, c, W], as the realiser holds pictures."""
    pixels, _ = draw("test", index, size=max(width, height))
    return by_rows(pixels[:height, :width])


def by_rows(pixels: NDArray[np.uint8]) -> Levels:
    return np.ascontiguousarray(pixels.swapaxes(1, 2))


def text(ink: tuple[int, int, int], paper: tuple[int, int, int]) -> Levels:
    image = Image.new("RGB", (WIDTH, HEIGHT), paper)
    for y in range(0, HEIGHT, 20):
        ImageDraw.Draw(image).text((3, y), "The quick brown fox jumps over it", ink, ImageFont.load_default(15))
    return by_rows(np.asarray(image))


def noise(*levels: int) -> Levels:
    return np.random.default_rng(0).choice(np.array(levels, np.uint8), (HEIGHT, 3, WIDTH))


def striped(source: Levels, strength: int = 90) -> Levels:
    """A target whose change has local mean zero until it is clipped."""
    change = np.where(np.arange(len(source)) % 3 == 0, strength, -strength // 2)[:, None, None]
    return np.clip(source + change, 0, 255).astype(np.uint8)


def share_made(pixels: Levels, source: Levels, target: Levels) -> float:
    made, wanted = pixels.astype(float) - source, target.astype(float) - source
    return float((made * wanted).sum() / (wanted**2).sum())


def realise(preimages: PreimageSolver, problem: PreimageProblem) -> Preimage:
    """Look for a picture, and see that the answer is what it says."""
    found = preimages(problem)
    np.testing.assert_array_equal(found.wrong, preimages.passes(found.pixels) != problem.wanted)
    assert (found.pixels >= problem.lower).all()
    assert (found.pixels <= problem.upper).all()
    return found


# --- the two passes


def seen_of(transform: EvalTransform, passes: Passes, colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of the transform's output that lies on the image, as `passes` lays it out."""
    geometry = transform.geometry(colours.shape[1], colours.shape[0])
    rows, cols = (
        overlap(start, crop, size)[1]
        for start, crop, size in zip((geometry.top, geometry.left), geometry.crop, geometry.resized[::-1], strict=True)
    )
    seen = transform.input_pixels(colours)[rows, cols]
    return np.moveaxis(seen, (0, 1, 2), (2, 0, 1) if passes.transposed else (0, 2, 1))


@pytest.mark.parametrize("size", [(97, 90), (200, 71), (75, 60), (71, 80), (40, 30)])
@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_passes_are_the_transform(interpolation: Interpolation, crop_mode: CropMode, size: tuple[int, int]) -> None:
    transform = transform_of(interpolation, crop_mode)
    passes = Passes(ResizeOperator(transform, *size))
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], 3, size[0]), dtype=np.uint8)
    for picture in (pixels, pixels[:, :1]):
        colours = np.broadcast_to(picture, pixels.shape).swapaxes(1, 2)
        seen = seen_of(transform, passes, colours)
        given = np.ascontiguousarray(picture.T if passes.transposed else picture)
        view = passes(given)
        np.testing.assert_array_equal(view, seen[:, : picture.shape[1]])
        linear = np.einsum("hH,HcW,wW->hcw", passes.rows, given, passes.cols)
        assert np.abs(linear.clip(0, 255) - view).mean() < 8  # clipping between the passes is not linear


@pytest.mark.parametrize(
    ("crop_mode", "size"), [("squash", (90, 300)), ("center", (150, 400)), ("border", (80, 400)), ("squash", (60, 75))]
)
def test_passes_of_tall_pictures_are_the_transform(crop_mode: CropMode, size: tuple[int, int]) -> None:
    """Pillow 13 resizes columns first where the height shrinks by more than twice as many pixels as the width."""
    transform = transform_of(crop_mode=crop_mode)
    passes = Passes(ResizeOperator(transform, *size))
    pixels = drawing(*size)
    seen = seen_of(transform, passes, pixels.swapaxes(1, 2))
    given = np.ascontiguousarray(pixels.T if passes.transposed else pixels)
    np.testing.assert_array_equal(passes(given), seen)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(240, 190), (90, 300)])
def test_a_part_of_the_passes_is_that_of_the_whole(
    interpolation: Interpolation, crop_mode: CropMode, size: tuple[int, int]
) -> None:
    passes = Passes(ResizeOperator(transform_of(interpolation, crop_mode), *size))
    pixels = np.random.default_rng(0).integers(0, 256, (passes.rows.shape[1], 3, passes.cols.shape[1]), dtype=np.uint8)
    values = slice(3, len(passes.rows) - 5), slice(6, len(passes.cols) // 2)
    part = passes.part(*values)
    rows, columns = part.window
    assert pixels[rows, :, columns].size < pixels.size
    np.testing.assert_array_equal(part(pixels[rows, :, columns]), passes(pixels)[values[0], :, values[1]])
    inner = part.part(slice(2, 9), slice(1, 4))  # of a part
    rows, columns = inner.window
    np.testing.assert_array_equal(inner(pixels[rows, :, columns]), passes(pixels)[5:12, :, 7:10])


# --- bit for bit


@pytest.mark.parametrize(("interpolation", "index"), [*product(INTERPOLATIONS, (1, 3)), ("bicubic", 4), ("bicubic", 6)])
def test_finds_a_picture_that_looks_the_same(interpolation: Interpolation, index: int) -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(interpolation), WIDTH, HEIGHT))
    source = drawing(index=index)
    target = striped(source)
    found = realise(preimages, PreimageProblem(target, preimages.passes(source), source))
    assert not found.wrong.any()
    assert share_made(found.pixels, source, target) > 0.5
    deviation = found.pixels - found.projected.nearest().astype(float)
    assert np.square(deviation).mean() ** 0.5 < 3  # levels, of what rounding and mending cost


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_one_channel(crop_mode: CropMode) -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(crop_mode=crop_mode), WIDTH, HEIGHT), channels=1)
    source = np.ascontiguousarray(drawing()[:, :1])
    target = striped(source)
    found = realise(preimages, PreimageProblem(target, preimages.passes(source), source))
    assert found.pixels.shape == source.shape
    assert not found.wrong.any()
    assert share_made(found.pixels, source, target) > 0.5


def test_bounds_hold() -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    source = drawing()
    lower, upper = np.zeros_like(source), np.full_like(source, 255)
    lower[:, :, 100:150] = source[:, :, 100:150] // 2
    lower[50:100], upper[50:100] = source[50:100], source[50:100]  # fixed
    target = np.clip(striped(source), lower, upper)
    found = realise(preimages, PreimageProblem(target, preimages.passes(source), source, lower, upper))
    assert found.wrong.mean() < 0.001  # beside the fixed rows there is hardly room
    np.testing.assert_array_equal(found.pixels[50:100], source[50:100])
    assert share_made(found.pixels, source, target) > 0.3


def test_outside_of_the_crop_the_target_is_taken() -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(), 300, 150))
    source = drawing(300, 150)
    target = striped(source)
    found = realise(preimages, PreimageProblem(target, preimages.passes(source), source))
    assert not found.wrong.any()
    unread = ~preimages.passes.cols.any(0)
    assert unread.sum() > 100
    np.testing.assert_array_equal(found.pixels[..., unread], target[..., unread])


@pytest.mark.parametrize("bounded", [False, True])
def test_a_small_change_is_looked_for_in_a_window_alone(*, bounded: bool) -> None:
    """With the answer that all of the picture gives."""
    preimages = PreimageSolver(ResizeOperator(transform_of(), 2 * WIDTH, 2 * HEIGHT))
    source = drawing(2 * WIDTH, 2 * HEIGHT)
    target = source.copy()
    target[150:230, :, 200:290] = striped(source)[150:230, :, 200:290]
    bounds: tuple[Levels | int, Levels | int] = (source // 3, 255 - (255 - source) // 3) if bounded else (0, 255)
    target = np.clip(target, *bounds).astype(np.uint8)
    shown: list[tuple[int, ...]] = []

    def strayed(pixels: Levels) -> NDArray[np.bool_]:
        shown.append(pixels.shape)
        return np.zeros(wanted.shape, bool)

    wanted = preimages.passes(source)
    problem = PreimageProblem(target, wanted, source, *bounds, strayed)
    found, whole = realise(preimages, problem), preimages._find(problem, 3)
    (rows, columns), projection = found.projected.window, found.projected.projection
    assert projection.target.shape == source[rows, :, columns].shape
    assert projection.target.numel() < source.size / 4
    assert found.projected.solution.iterations <= whole.projected.solution.iterations
    assert set(shown) == {source.shape}  # another reader is shown all of it
    assert not found.wrong.any()
    around = np.ones(source.shape, bool)
    around[rows, :, columns] = False
    for picture in (found.pixels, found.projected.unrounded(), found.projected.nearest()):
        np.testing.assert_array_equal(picture[around], source[around])
    assert np.abs(found.projected.unrounded() - whole.projected.unrounded()).max() < 1
    assert share_made(found.pixels, source, target) > share_made(whole.pixels, source, target) - 0.01


def test_values_at_the_edge_that_read_no_change() -> None:
    """Others read the same edge: all pixels are looked at, and not all values."""
    uncropped = replace(transform_of(crop_mode="squash"), crop_pct=1.0)
    preimages = PreimageSolver(ResizeOperator(uncropped, 2 * WIDTH, 2 * HEIGHT))
    source = drawing(2 * WIDTH, 2 * HEIGHT)
    target = source.copy()
    inner = slice(42, -42), slice(None), slice(52, -52)
    target[inner] = striped(source)[inner]
    found = realise(preimages, PreimageProblem(target, preimages.passes(source), source))
    assert found.projected.window == preimages.passes.window
    assert not found.wrong.any()


def test_the_source_itself_is_found_again() -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    source = noise(0, 1, 127, 254, 255)
    found = realise(preimages, PreimageProblem(source, preimages.passes(source), source))
    assert not found.wrong.any()


def test_sizes_of_blocks_and_strips_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from nullspace_cli.engine.preimage import solver
    from nullspace_cli.engine.solvers import resize_projection

    view, source, found = ResizeOperator(transform_of(), WIDTH, HEIGHT), drawing(), []
    for block, strip in ((512, 1_500_000), (17, 30_000)):
        monkeypatch.setattr(solver, "BLOCK_ROWS", block)
        monkeypatch.setattr(resize_projection, "STRIP_BYTES", strip)
        preimages = PreimageSolver(view)
        found.append(realise(preimages, PreimageProblem(striped(source), preimages.passes(source), source)))
    assert not any(realised.wrong.any() for realised in found)
    assert np.abs(found[0].pixels.astype(int) - found[1].pixels).mean() < 0.1


# --- hard pictures

HARD: dict[str, Callable[[], Levels]] = {
    "dark": lambda: drawing() // 20,
    "bright": lambda: 255 - drawing(index=5) // 20,
    "black on white": lambda: text((0, 0, 0), (255, 255, 255)),
    "yellow on black": lambda: text((255, 255, 0), (0, 0, 0)),
    "black": lambda: noise(0),
    "white": lambda: noise(255),
    "noise": lambda: noise(*range(256)),
    "black and white noise": lambda: noise(0, 255),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_pictures(name: str) -> None:
    """Among saturated pixels hardly another picture has the same view."""
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    source = HARD[name]()
    target, wanted = striped(source), preimages.passes(source)
    found = realise(preimages, PreimageProblem(target, wanted, source))
    assert not found.wrong.any()
    assert share_made(found.pixels, source, target) > 0.2


def test_what_cannot_be_had_gives_way_to_the_source() -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    source = HARD["black on white"]()
    target = striped(source)
    found = realise(preimages, PreimageProblem(target, preimages.passes(source), source))
    gave_way = found.projected.target != target
    assert 0.001 < gave_way.mean() < 0.5
    assert (found.projected.target >= np.minimum(source, target)).all()
    assert (found.projected.target <= np.maximum(source, target)).all()


@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_where_restoring_goes_on_and_on_more_around_is_restored(seed: int) -> None:
    """At a ratio of 1.35 every pixel is read by many values; these pictures are black or white in many places."""
    source = blotches(seed, 96)
    preimages = PreimageSolver(ResizeOperator(transform_of(), 96, 96))
    problem = PreimageProblem(striped(source, 60), preimages.passes(source), source)
    found = realise(preimages, problem)
    assert not found.wrong.any()
    assert share_made(found.pixels, source, problem.target) > 0.13


@pytest.mark.parametrize("side", [270, 300])
def test_a_few_stubborn_values_cost_little(side: int) -> None:
    """They are put right exactly: the source given back under one of them makes more of them wrong, and so on."""
    preimages = PreimageSolver(ResizeOperator(replace(transform_of(), input_size=(3, 224, 224)), side, side))
    source = drawing(side, side)
    problem = PreimageProblem(striped(source, 60), preimages.passes(source), source)
    found = realise(preimages, problem)
    assert not found.wrong.any()
    assert (found.pixels != source).mean() > 0.7


def blotches(seed: int, side: int) -> Levels:
    dice = np.random.default_rng(seed)
    small = Image.fromarray(dice.integers(0, 256, (side // 3, side // 3, 3), np.uint8))
    levels = np.array(small.resize((side, side), Image.Resampling.BICUBIC)) * dice.uniform(0.8, 2.5)
    return by_rows((levels - dice.integers(0, 120)).clip(0, 255).astype(np.uint8))


def spoiled(preimages: PreimageSolver, problem: PreimageProblem) -> Rounded:
    """A picture with the wanted view, but for a few pixels that were knocked off it."""
    found = realise(preimages, problem)
    assert not found.wrong.any()
    pixels, generator = found.pixels.copy(), np.random.default_rng(0)
    for _ in range(12):
        at = generator.integers(20, 150), generator.integers(3), generator.integers(40, 200)
        pixels[at] = pixels[at] + 20 if pixels[at] < 128 else pixels[at] - 20
    wrong = preimages.passes(pixels) != problem.wanted
    assert wrong.sum() >= 12
    return Rounded(pixels, wrong)


def test_repairing_mends_single_values() -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    source = drawing()
    problem = PreimageProblem(striped(source), preimages.passes(source), source)
    before = spoiled(preimages, problem)
    after = preimages.repair(before, problem)
    np.testing.assert_array_equal(after.wrong, preimages.passes(after.pixels) != problem.wanted)
    assert after.wrong.sum() <= 0.1 * before.wrong.sum()
    assert (after.pixels != before.pixels).mean() < 0.01


def test_repairing_keeps_to_the_bounds() -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    source = drawing()
    problem = PreimageProblem(striped(source), preimages.passes(source), source)
    before = spoiled(preimages, problem)
    lower, upper = np.zeros_like(source), np.full_like(source, 255)
    lower[::2] = np.minimum(source, before.pixels)[::2]
    upper[::2] = np.maximum(source, before.pixels)[::2]
    after = preimages.repair(before, replace(problem, lower=lower, upper=upper))
    assert (after.pixels >= lower).all()
    assert (after.pixels <= upper).all()
    assert after.wrong.sum() < before.wrong.sum()


# --- other views


def test_a_view_of_no_known_picture() -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    target = drawing() // 2 + 60
    change = np.random.default_rng(0).integers(-6, 7, preimages.passes(target).shape)
    wanted = (preimages.passes(target) + change).astype(np.uint8)
    found = realise(preimages, PreimageProblem(target, wanted, None))
    assert found.wrong.mean() < 0.001
    np.testing.assert_array_equal(found.projected.target, target)
    assert np.abs(found.pixels.astype(float) - target).mean() < 12


def test_the_projection_behind_a_problem() -> None:
    """`projection` and `nearest` alone: where nothing has been solved yet, the target within the bounds."""
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    source = drawing()
    lower, upper = np.full_like(source, 90), np.full_like(source, 160)
    projection = preimages.projection(PreimageProblem(striped(source), preimages.passes(source), source, lower, upper))
    still = torch.zeros(preimages.passes(source).shape)
    np.testing.assert_array_equal(preimages.nearest(projection, still), striped(source).clip(90, 160))
    assert projection.constraint.reduce(still) is still


@pytest.mark.gpu
def test_on_cuda() -> None:
    preimages = PreimageSolver(ResizeOperator(transform_of(), WIDTH, HEIGHT), device="cuda")
    source = drawing()
    found = realise(preimages, PreimageProblem(striped(source), preimages.passes(source), source))
    assert not found.wrong.any()


def test_preparations_are_kept_for_a_few_sizes() -> None:
    solvers, cpu = PreimageSolvers(), torch.device("cpu")
    views = [ResizeOperator(transform_of(), 150 + i, 150) for i in range(SIZES_KEPT + 1)]
    first = solvers(views[0], 3, cpu)
    assert solvers(ResizeOperator(transform_of(), 150, 150), 3, cpu) is first
    assert solvers(views[0], 1, cpu) is not first
    for view in views[1:]:
        solvers(view, 3, cpu)
    assert solvers(views[0], 3, cpu) is not first
