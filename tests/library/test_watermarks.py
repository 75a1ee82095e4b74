"""Watermarks on images at hand: what timm's own transform and the plain network make of them, whatever they come as."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from nullspace_cli import Model, VitnullError, WatermarkResult, make_watermark, text_image
from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine.errors import UsageError
from tests.library.conftest import network_input

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def marked(model: Model, picture: Pixels) -> WatermarkResult:
    return make_watermark(model, picture, draw_logo())


def test_at_native_size_not_a_bit_of_the_models_input_changes(marked: WatermarkResult, picture: Pixels) -> None:
    assert marked.pixels.shape == picture.shape
    assert torch.equal(network_input(marked.pixels), network_input(picture))
    assert (marked.pixels != picture).mean() > 0.2
    assert np.abs(marked.pixels.astype(int) - picture).max() > 20
    assert marked.verified is True
    assert marked.verification.input_pixels_changed == 0


def test_its_record_is_that_of_the_command_line(marked: WatermarkResult, picture: Pixels) -> None:
    record = marked.to_dict()
    change = marked.pixels.astype(float) - picture
    assert record["psnr"] == pytest.approx(10 * np.log10(255**2 / (change**2).mean()))
    assert (record["size"], record["nullspace"], record["match"]) == ([110, 96], "resize", True)
    assert "110 x 96" in repr(marked)


def test_the_solution_before_rounding_is_near(marked: WatermarkResult, picture: Pixels) -> None:
    unrounded = marked.unrounded()
    assert unrounded.image.shape == (3, 96, 110)
    assert np.abs(255 * unrounded.source.movedim(0, -1).numpy() - picture).max() < 1e-3
    assert 0 <= unrounded.image.min() <= unrounded.image.max() <= 1


def test_further_readers_are_given_the_same_within_a_level(model: Model) -> None:
    picture = draw("val", 3, size=320)[0]
    marked = make_watermark(model, picture, draw_logo(), readers=["40/bilinear/1", "56/lanczos/squash"])
    assert torch.equal(network_input(marked.pixels), network_input(picture))
    squashed = [
        np.asarray(Image.fromarray(pixels).resize((56, 56), Image.Resampling.LANCZOS)).astype(int)
        for pixels in (picture, marked.pixels)
    ]
    change = np.abs(squashed[1] - squashed[0])
    record = marked.to_dict()["readers"][1]
    assert marked.readers[1] == record
    assert record == {
        "reader": "56/lanczos/squash",
        "input_pixels_changed": (change > 0).mean(),
        "rms": pytest.approx((change**2).mean() ** 0.5),
        "max": 1,
    }
    assert np.abs(255 * marked.unrounded().image.movedim(0, -1).numpy() - marked.pixels).mean() < 1


@pytest.mark.parametrize(
    "settings",
    [{"readers": "common"}, {"readers": ["40/bilinear/1"], "size": "model"}, {"readers": ["40/nothing/1"]}],
)
def test_readers_that_make_no_sense_are_refused(model: Model, picture: Pixels, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make_watermark(model, picture, draw_logo(), **settings)


def test_the_saved_file_holds_these_pixels(marked: WatermarkResult, tmp_path: Path) -> None:
    path = marked.save(tmp_path / "marked.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image.convert("RGB")), marked.pixels)
    with pytest.raises(VitnullError, match=r"marked\.png"):
        marked.save(path)
    assert marked.save(str(path), overwrite=True) == path


@pytest.mark.parametrize("p", [1, 2])
def test_at_the_models_size_the_network_says_the_same(
    p: Any, model: Model, plain: nn.Module, picture: Pixels, mean_std: tuple[Tensor, Tensor]
) -> None:
    """The result is the resized picture; the network reads its middle."""
    made = make_watermark(model, picture, draw_logo(), size="model", p=p)
    resized = np.asarray(Image.fromarray(picture).resize((40, 35), Image.Resampling.BICUBIC))
    assert made.pixels.shape == resized.shape == (35, 40, 3)
    assert (made.pixels != resized).mean() > 0.1
    mean, std = mean_std
    views = [
        (torch.from_numpy(image[2:34, 4:36].copy()).movedim(-1, 0) / 255 - mean) / std
        for image in (resized, made.pixels)
    ]
    with torch.no_grad():
        tokens = [plain.patch_embed.proj(view[None]) - plain.patch_embed.proj.bias[:, None, None] for view in views]  # type: ignore[union-attr, operator, index]
        answers = [int(plain(view[None]).argmax()) for view in views]
    error = float((tokens[1] - tokens[0]).norm() / tokens[0].norm())
    assert made.verification.embedding_error == pytest.approx(error, rel=0.05)
    assert error < 0.01
    assert answers[0] == answers[1]
    assert made.verification.before is not None
    assert made.verification.before["class"] == answers[0]


def test_the_embedding_that_is_rounded_for_moves_less(model: Model, picture: Pixels) -> None:
    aware, nearest = (
        make_watermark(model, picture, draw_logo(), size="model", rounding=rounding).verification.embedding_error
        for rounding in ("aware", "nearest")
    )
    assert aware is not None
    assert nearest is not None
    assert aware < 0.7 * nearest


def saved(image: Image.Image, folder: Path, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_an_image_is_the_same_whatever_it_comes_as(model: Model, picture: Pixels, tmp_path: Path) -> None:
    image = Image.fromarray(picture)
    path = saved(image, tmp_path)
    expected = make_watermark(model, picture, draw_logo()).pixels
    for given in (path, str(path), image, Image.open(path)):
        assert np.array_equal(make_watermark(model, given, Image.fromarray(draw_logo())).pixels, expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_every_kind_of_image_is_the_same_from_a_file_and_at_hand(
    mode: str, model: Model, picture: Pixels, tmp_path: Path
) -> None:
    image = Image.fromarray(picture).convert(mode)
    if mode in ("LA", "RGBA"):
        alpha = Image.fromarray(np.linspace(120, 255, 96 * 110).reshape(96, 110).astype(np.uint8))
        image.putalpha(alpha)
    path = saved(image, tmp_path)
    from_file, at_hand = (make_watermark(model, given, text_image("ab")) for given in (path, image))
    assert np.array_equal(from_file.pixels, at_hand.pixels)
    if mode in ("L", "LA", "1"):
        assert np.array_equal(from_file.pixels[..., 0], from_file.pixels[..., 1])
    if mode in ("L", "LA", "RGBA"):
        assert np.array_equal(make_watermark(model, np.asarray(image), text_image("ab")).pixels, at_hand.pixels)
    at_hand.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as out:
        assert out.mode == {"P": "RGB", "1": "L"}.get(mode, mode)


def test_an_image_at_hand_is_turned_as_its_file_would_be(model: Model, picture: Pixels, tmp_path: Path) -> None:
    image = Image.fromarray(picture)
    exif = image.getexif()
    exif[0x0112] = 6
    path = saved(image, tmp_path, exif=exif)
    with Image.open(path) as opened:
        at_hand = make_watermark(model, opened, text_image("ab"))
        assert opened.size == (110, 96)  # the caller's stays as it was
    assert at_hand.pixels.shape == (96, 110, 3)  # as a loader gives it
    assert np.array_equal(at_hand.pixels, make_watermark(model, path, text_image("ab")).pixels)
    saved_again = at_hand.save(tmp_path / "again.png")
    with Image.open(saved_again) as written:
        assert ImageOps.exif_transpose(written).size == (96, 110)
    shown = make_watermark(model, path, text_image("ab"), reading="shown")
    assert shown.pixels.shape == (110, 96, 3)


def test_lettering_is_white_and_as_wide_as_it_is_long() -> None:
    short, long = text_image("ab"), text_image("ab ab ab")
    assert short.dtype == np.uint8
    assert short.shape[2] == long.shape[2] == 4
    assert (short[..., :3] == 255).all()
    assert short[..., 3].max() == 255
    assert long.shape[1] > 2 * short.shape[1]
    assert text_image("ab\nab").shape[0] > 1.5 * short.shape[0]


def test_two_threads_make_what_each_makes_alone(model: Model, picture: Pixels, marked: WatermarkResult) -> None:
    def make(image: Pixels) -> Pixels:
        return make_watermark(model, image, draw_logo()).pixels

    other = picture[::-1].copy()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(make, [picture, other, picture, other]))
    assert np.array_equal(found[0], marked.pixels)
    assert np.array_equal(found[2], marked.pixels)
    assert np.array_equal(found[1], make(other))
    assert np.array_equal(found[3], found[1])


# What is refused

ask: Any = make_watermark  # without its types, which forbid what is asked here
IMAGE = np.zeros((40, 40, 3), np.uint8)
MARK = np.full((8, 8, 4), 255, np.uint8)

NO_PICTURES: list[tuple[Any, str]] = [
    (None, "{} is NoneType; expected a path, a PIL image, or an array of uint8"),
    (b"abc", "{} is bytes"),
    (IMAGE / 255.0, r"{} is ndarray of float64 \[40, 40, 3\]"),
    (IMAGE.astype(np.uint16), "{} is ndarray of uint16"),
    (torch.from_numpy(IMAGE), r"{} is Tensor of torch.uint8 \[40, 40, 3\]"),
    (IMAGE[None], r"{} is ndarray of uint8 \[1, 40, 40, 3\]"),
    (IMAGE.transpose(2, 0, 1), r"{} is ndarray of uint8 \[3, 40, 40\]"),
    (IMAGE[:0], "Cannot read the {}: it is 40 x 0"),
    ("nowhere.png", "Cannot read nowhere.png: there is no such file"),
    (Image.fromarray(IMAGE[..., 0].astype(np.int32)), "{} is a PIL image of mode I; expected 8 bits a channel"),
    (Image.fromarray(IMAGE[..., 0].astype(np.uint16)), "{} is a PIL image of mode I;16"),
    (Image.fromarray(IMAGE[..., 0].astype(np.float32)), "{} is a PIL image of mode F"),
]


@pytest.mark.parametrize(("given", "message"), NO_PICTURES)
def test_what_is_no_picture(given: Any, message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message.format("image")):
        ask(model, given, MARK)
    with pytest.raises(VitnullError, match=message.format("mark")):
        ask(model, IMAGE, given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "big"}, "size is 'big'; expected one of 'native', 'model'"),
        ({"nullspace": "all"}, "nullspace is 'all'; expected one of 'auto', 'resize', 'patch'"),
        ({"p": 3, "size": "model"}, "p is 3; expected one of 1, 2"),
        ({"p": 1}, r"p = 1 is solved at the model's size. Give size='model'"),
        ({"size": "model", "nullspace": "resize"}, "At model size nothing is resized"),
        ({"rounding": "up"}, "rounding is 'up'; expected one of 'aware', 'nearest'"),
        ({"style": "bold"}, "style is 'bold'; expected one of 'plain', 'outline', 'hatch'"),
        ({"fit": "fill"}, "fit is 'fill'; expected one of 'contain', 'cover', 'stretch', 'tile'"),
        ({"position": "middle"}, "position is 'middle'; expected one of 'center'"),
        ({"scale": 0}, "scale is 0; expected a number of at least 0.01 and of at most 1"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"opacity": 2}, "opacity is 2; expected a number above 0 and of at most 1"),
        ({"strength": -1}, "strength is -1; expected a number above 0"),
        ({"tolerance": "1%"}, "tolerance is '1%'; expected a number of at least 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        ask(model, IMAGE, MARK, **settings)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda m: ask(m.module, IMAGE, MARK), "model is VisionTransformer; expected a Model"),
        (lambda m: ask(m, IMAGE, np.zeros_like(MARK)), "blank"),
        (lambda m: text_image(" "), "The text ' ' is blank"),
        (lambda m: text_image("\u8a9e"), "has a glyph for 語"),
        (lambda m: text_image(3), "text is 3; expected letters"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(refused: Callable[[Any], Any], message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        refused(model)
