"""Marks on JPEGs: what plain Pillow and the transform make of the files, and whose coefficients they hold."""

import io
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.fft import dctn

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.files.jpeg_coefficients import read_luma
from nullspace_cli.engine.files.jpeg_pictures import JpegPicture, jpeg_of
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.files.two_readings import Reading
from nullspace_cli.engine.preimage import luma_descent
from nullspace_cli.engine.preimage.pillow_passes import Passes
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.jpeg_size import JpegSize, _Task
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Mark, Placement
from nullspace_cli.engine.watermark.result import Watermarked, fidelity

WIDTH, HEIGHT = 333, 250
DESIGN = Design(text_mark("Mark"), Placement("contain", "center", 0.5))


def transform_of(channels: int = 3, side: int = 48) -> EvalTransform:
    return EvalTransform((channels, side, side), (0.5,) * channels, (0.5,) * channels, "bicubic", 0.9)


def photo(path: Path, mode: str = "RGB", orientation: int = 1, **options: Any) -> Path:
    """Mid-grey enough that there is room for a mark."""
    pixels = draw("val", 3, size=WIDTH)[0][:HEIGHT]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray((64 + pixels * 0.5).astype(np.uint8)).convert(mode)
    image.save(path, **{"quality": 90, "exif": exif, **options})
    return path


def seen(file: Path | io.BytesIO, mode: str, reading: Reading = "timm", side: int = 48) -> Any:
    """By Pillow alone: the resize and the crop of `transform_of`."""
    image: Image.Image = Image.open(file)
    image = ImageOps.exif_transpose(image) if reading == "shown" else image
    image = image.convert(mode)
    short = int(side / 0.9)
    width, height = image.size
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side))).astype(int)


def marked(jpeg: JpegPicture, channels: int = 3) -> tuple[Watermarked, io.BytesIO]:
    made = JpegSize(transform_of(channels), DESIGN)(jpeg)
    assert made.jpeg is not None
    return made, io.BytesIO(made.jpeg.data)


@pytest.mark.parametrize(
    ("reading", "channels", "options"),
    [
        ("timm", 3, {}),
        ("shown", 3, {"orientation": 6}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("timm", 3, {"progressive": True, "subsampling": 0, "quality": 75}),
                ("timm", 3, {"orientation": 6}),
                ("timm", 3, {"mode": "L"}),
                ("timm", 1, {}),
                *(("shown", 3, {"orientation": value}) for value in (2, 3, 4, 5, 7, 8)),
            )
        ),
    ],
)
def test_the_models_input_stays(reading: Reading, channels: int, options: dict[str, Any], tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", **options)
    jpeg = jpeg_of(read_picture(path, reading))
    made, file = marked(jpeg, channels)
    mode = "L" if channels == 1 else "RGB"
    change = np.abs(seen(file, mode, reading) - seen(path, mode, reading))
    assert (change > 0).mean() <= 0.001
    assert change.max() <= 1
    quality = fidelity(made)["mark_correlation"]
    assert quality is not None
    assert quality > 0.6
    data = file.getvalue()
    assert Image.open(file).getexif().get(0x0112) == options.get("orientation", 1)
    own, new = read_luma(path.read_bytes()), read_luma(data)
    same = (own.coefficients == new.coefficients).all((2, 3))
    assert 0.5 < same.mean() < 1
    stored = [np.asarray(Image.open(source).convert("RGB")) for source in (path, file)]
    differs = (stored[0] != stored[1]).any(2)
    away = np.repeat(np.repeat(same, 8, 0), 8, 1)[:HEIGHT, :WIDTH]
    assert not differs[away].any()


def test_no_value_moves_by_more_than_two_levels_where_channels_are_clipped(tmp_path: Path) -> None:
    path, side = tmp_path / "a.jpg", 56  # which leaves the view's values few coefficients each
    pixels = draw("val", 3, size=160)[0][:120] * 0.3 + (177, 62, 2)
    pixels += 20 * np.random.default_rng(0).normal(size=(*pixels.shape[:2], 1))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)
    made = JpegSize(transform_of(side=side), DESIGN, least=0)(jpeg_of(read_picture(path)))
    assert made.jpeg is not None
    before, after = (seen(file, "RGB", side=side) for file in (path, io.BytesIO(made.jpeg.data)))
    assert 0 < np.abs(after - before).max() <= 2


@pytest.mark.parametrize(("reading", "orientation"), list(product(("timm", "shown"), range(1, 9))))
def test_the_hatch_is_a_cosine_wave_of_the_stored_blocks(reading: Reading, orientation: int, tmp_path: Path) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)).save(path, exif=exif)  # the sides are no multiples of 8
    ground = Mark(np.ones((8, 8, 3), np.float32), np.ones((8, 8), np.float32), "a block")
    design = Design(ground, Placement("stretch", "center", 0.8, strength=1))
    task = _Task(JpegSize(transform_of(), design), jpeg_of(read_picture(path, reading)), design)
    blocks = task._wish()[80:160, 80:240].astype(float).reshape(10, 8, 20, 8).swapaxes(1, 2)
    power = (dctn(blocks - 128, axes=(2, 3), norm="ortho") ** 2).sum((0, 1))
    along = power[0, 1:].sum()
    assert along > 0.99 * power.sum()  # the rest is roundings
    assert power.max() > 0.8 * along


@pytest.mark.parametrize(("side", "within"), [(100, True), (108, False)])
def test_blocks_are_given_back_where_few_of_them_bring_the_input_within_one_percent(
    side: int, within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photo(tmp_path / "a.jpg", quality=85)
    before, changed, files = seen(path, "RGB", side=side), [], []
    for tolerated in (1.0, 0.01):
        monkeypatch.setattr(luma_descent, "TOLERATED", tolerated)
        made = JpegSize(transform_of(side=side), DESIGN)(jpeg_of(read_picture(path)))
        assert made.jpeg is not None
        files.append(made.jpeg.data)
        changed.append((seen(io.BytesIO(made.jpeg.data), "RGB", side=side) != before).mean())
    assert changed[0] > 0.01
    assert changed[1] <= 0.01 if within else files[0] == files[1]


def test_trials_are_what_pillow_makes_of_the_whole_picture(tmp_path: Path) -> None:
    jpeg = jpeg_of(read_picture(photo(tmp_path / "a.jpg")))
    task = _Task(JpegSize(transform_of(), DESIGN), jpeg, DESIGN)
    (view,) = task.readers
    assert not (np.abs(view.error()) > 0.5).any()
    at = np.array([5, 20]), np.array([7, 30])
    own = jpeg.luma.coefficients[at][:, None]
    steps = np.random.default_rng(0).integers(-3, 4, (2, 4, 8, 8), np.int32)
    hood = view.around(at)
    trial = hood.tried(task.decoder(own + steps, at).astype(float) - task.decoder(own, at))
    hood.apply(trial, np.array([1, 3]))
    coefficients = jpeg.luma.coefficients.copy()
    coefficients[at] += steps[[0, 1], [1, 3]]
    pixels = np.asarray(Image.open(io.BytesIO(jpeg.written(coefficients))))
    passes = Passes(ResizeOperator(transform_of(), WIDTH, HEIGHT))
    levels = np.ascontiguousarray(pixels.transpose(1, 2, 0) if passes.transposed else pixels.swapaxes(1, 2))
    assert np.array_equal(np.floor(view.values + 0.5).clip(0, 255), passes(levels))
