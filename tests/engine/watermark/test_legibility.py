"""How much of a mark is seen: on made-up results, of which anybody can say it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.files.pictures import picture_of
from nullspace_cli.engine.watermark import legibility as legibilities
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.legibility import LEGIBLE, Legibility, legibility
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Placement
from nullspace_cli.engine.watermark.native_size import NativeSize
from nullspace_cli.engine.watermark.result import Unrounded, Watermarked
from tests.engine.watermark.test_watermark import TRANSFORM

Levels = NDArray[np.uint8]
INK = np.zeros((128, 192), np.float32)
INK[32:96, 32:160] = 0.35


def seen(source: Levels, wanted: Levels, pixels: Levels) -> Legibility:
    def unrounded() -> Unrounded:
        raise NotImplementedError

    x, t, z = (np.repeat(plane[..., None], 3, 2) for plane in (source, wanted, pixels))
    return legibility(Watermarked(x, t, z, "resize", "aware", {}, unrounded, lambda: INK))


def ground(level: int = 128) -> Levels:
    return np.full(INK.shape, level, np.uint8)


def hatched(source: Levels, rise: int, period: int) -> Levels:
    """Lines up and down by `rise`, where the ink is."""
    lines = np.where(np.arange(len(source)) % period < period // 2, rise, -rise)[:, None]
    return (source + lines * (INK > 0)).astype(np.uint8)


def test_a_mark_on_plain_ground_is_seen_and_none_is_not() -> None:
    wanted = hatched(ground(), 60, 4)
    assert seen(ground(), wanted, wanted) == (1, 1)
    assert seen(ground(), wanted, ground()) == (0, 0)


def test_a_mark_that_there_was_no_room_for_is_missing() -> None:
    """Half of it lies on white, where nothing was wanted either."""
    wanted = hatched(ground(), 60, 4)
    wanted[:, 96:] = 128
    assert seen(ground(), wanted, wanted).full == pytest.approx(0.5)
    assert seen(ground(), ground(), ground()) == (0, 0)


def test_lines_too_fine_for_half_the_size() -> None:
    source = (ground() + np.random.default_rng(0).integers(-25, 26, INK.shape)).astype(np.uint8)
    wanted = hatched(source, 40, 2)
    full, half = seen(source, wanted, wanted)
    assert (full, half) == (1, 0)


@pytest.mark.parametrize(("rise", "expected"), [(2, 0), (4, 1)])
def test_faint_marks_are_not_seen_even_on_plain_ground(rise: int, expected: float) -> None:
    wanted = hatched(ground(), rise, 4)
    assert seen(ground(), wanted, wanted).full == expected


@pytest.mark.parametrize(("texture", "expected"), [(20, 1), (60, 0)])
def test_a_mark_has_to_stand_out_from_what_is_there(texture: int, expected: float) -> None:
    """A chequered ground of that rms, on which a hatch has one of 20."""
    chequers = np.add.outer(np.arange(128) // 2, np.arange(192) // 2) % 2
    source = (128 + texture * (2 * chequers - 1)).astype(np.uint8)
    wanted = hatched(source, 20, 8)
    assert seen(source, wanted, wanted).full == expected


def test_a_change_that_does_not_follow_the_mark_does_not_show_it() -> None:
    wanted = hatched(ground(), 40, 4)
    noise = np.random.default_rng(0).integers(-40, 41, INK.shape) * (INK > 0)
    assert seen(ground(), wanted, (ground() + noise).astype(np.uint8)).full < 0.2
    assert seen(ground(), wanted, (2 * ground().astype(int) - wanted).astype(np.uint8)).full == 0  # the negative


def test_of_large_marks_some_rows_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = hatched(ground(), 60, 4)
    wanted[:, 96:] = 128
    whole = seen(ground(), wanted, wanted)
    monkeypatch.setattr(legibilities, "SAMPLED", 1000)
    assert seen(ground(), wanted, wanted) == whole


@pytest.mark.parametrize("height", [300, 301])
def test_thumbnails_are_made_in_strips(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow makes them of the whole, up to how it rounds between its passes."""
    monkeypatch.setattr(legibilities, "STRIP", 40)
    picture = draw("test", 5, size=320)[0][:height]
    rows, columns = slice(11, height - 4), slice(20, 307)
    made = legibilities._halved(picture, (rows, columns))
    box = (columns.start, rows.start, columns.stop, rows.stop)
    size = (columns.stop - columns.start) // 2, (rows.stop - rows.start) // 2
    whole = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS, box))
    assert np.abs(made.astype(int) - whole).mean() < 0.1
    plane = picture[..., 0].astype(np.float32)
    whole = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS, box))
    np.testing.assert_allclose(legibilities._halved(plane, (rows, columns)), whole, atol=1e-3)


@pytest.mark.parametrize(("level", "legible"), [(128, True), (255, False), (0, False)])
@pytest.mark.parametrize("turned", [False, True])
def test_by_the_solver(level: int, legible: bool, turned: bool) -> None:
    shape = (120, 96, 3) if turned else (96, 120, 3)
    make = NativeSize(TRANSFORM, Design(text_mark("c"), Placement()), lambda: pytest.fail("patches"), "resize")
    result = make(picture_of(np.full(shape, level, np.uint8), str(Path("plain"))))
    assert (legibility(result).full >= LEGIBLE) is legible
    assert result.drawn().shape == shape[:2]
