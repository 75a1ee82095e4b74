"""Watermarks on files as people have them: turned, transparent, deep. What readers get is re-computed from the files.

By timm's own transform on Pillow's plain `convert("RGB")`, and on the picture turned upright over white by Pillow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from timm.data import create_transform

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.files.two_readings import Reading
from nullspace_cli.engine.models.model import ModelView
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace import lazy_model as networks
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.marks import Placement
from nullspace_cli.engine.workflows.watermark import WatermarkFiles, WatermarkPipeline

TRANSFORM = EvalTransform((3, 64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9)
WIDTH, HEIGHT = 200, 160
LETTERS = text_mark("ab")
Pixels = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "load_view", lambda request: ModelView("tiny", TRANSFORM, has_head=True))


def photo(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    return Image.fromarray(draw("test", 3, size=max(width, height))[0][:height, :width].copy())


def marked(source: Path, reading: Reading = "timm", **settings: Any) -> tuple[Path, Mapping[str, Any]]:
    """The watermarked file and its record."""
    pipeline = WatermarkPipeline(
        LazyModel(ModelRequest("tiny", device="cpu")),
        Design(LETTERS, Placement()),
        nullspace="resize",
        reading=reading,
        **settings,
    )
    done = pipeline(WatermarkFiles(source, source.with_name("marked.png")))
    return source.with_name("marked.png"), done.record


def loaded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def shown(path: Path) -> Image.Image:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    ground = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(ground, upright.convert("RGBA")).convert("RGB")


def levels(image: Image.Image) -> NDArray[np.int64]:
    """timm's input for it, in levels."""
    see = create_transform(TRANSFORM.input_size, interpolation="bicubic", mean=(0,) * 3, std=(1,) * 3, crop_pct=0.9)
    return (see(image) * 255).round().to(torch.int64).numpy()


def change(read: Any, before: Path, after: Path) -> NDArray[np.int64]:
    return np.abs(levels(read(before)) - levels(read(after)))


def turned(folder: Path, name: str, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Model] = "camera"
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    photo().save(folder / name, exif=exif, **options)
    return folder / name


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos(name: str, orientation: int, tmp_path: Path) -> None:
    source = turned(tmp_path, name, orientation)
    result, record = marked(source)
    assert change(loaded, source, result).max() == 0
    upright = change(shown, source, result)
    # Only where rows and columns change places may rounding differ: by a level, hardly ever by two.
    assert upright.max() <= (2 if orientation >= 5 else 0)
    assert (upright > 1).mean() < 3e-4
    assert record["reading"] == "timm"
    assert record["input_pixels_changed"] == 0
    assert record["input_pixels_changed_shown"] == pytest.approx((upright > 0).mean())
    with Image.open(result) as written:
        tag = written.getexif().get(ExifTags.Base.Orientation, 1)
    assert tag == (1 if name == "a.tif" else orientation)  # a TIFF is upright to every loader of Pillow
    # The mark is where it is on the upright photo: that of the same photo stored upright.
    plain = tmp_path / "plain"
    plain.mkdir()
    shown(source).save(plain / "a.png")
    expected, _ = marked(plain / "a.png")
    ours, theirs = (
        np.asarray(shown(made)).astype(float) - np.asarray(shown(before))
        for made, before in ((result, source), (expected, plain / "a.png"))
    )
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.7


def transparent(name: str) -> tuple[Image.Image, dict[str, Any]]:
    rng = np.random.default_rng(0)
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[40:90, 60:120] = rng.integers(0, 255, (50, 60))
    plane, picture = Image.fromarray(alpha), photo()
    grey = picture.convert("L")
    if name == "rgba":
        picture.putalpha(plane)
        return picture, {}
    if name == "la":
        return Image.merge("LA", (grey, plane)), {}
    if name == "p-one":
        return picture.quantize(32), {"transparency": 5}
    if name == "p-many":
        return picture.quantize(32), {"transparency": bytes([*rng.integers(0, 255, 6, np.uint8), *[255] * 26])}
    return grey, {"transparency": int(np.asarray(grey)[70, 90])}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", ["rgba", "la", "p-one", "p-many", "l-one"])
def test_transparent_pictures(name: str, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    image, options = transparent(name)
    image.save(source, **options)
    result, record = marked(source)
    assert change(loaded, source, result).max() == 0
    upright = change(shown, source, result)
    assert upright.max() <= 1
    assert record["input_pixels_changed_shown"] == pytest.approx((upright > 0).mean())
    with Image.open(source) as before, Image.open(result) as after:
        old, new = (np.asarray(picture.convert("RGBA")) for picture in (before, after))
    np.testing.assert_array_equal(old[..., 3], new[..., 3])
    glass = old[..., 3] < 255
    assert 0 < glass.mean() < 0.9
    np.testing.assert_array_equal(old[glass], new[glass])
    assert (old != new).any()


@pytest.mark.parametrize("low", [False, True])
def test_deep_grey(low: bool, tmp_path: Path) -> None:
    """Which timm's loader clips at 255, and a viewer scales: both get what they got."""
    values = np.asarray(photo().convert("L")).astype(np.uint16) * 257
    if low:
        values[:80] //= 300
    Image.fromarray(values).save(tmp_path / "a.png")
    result, record = marked(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as before, Image.open(result) as after:
        assert after.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(before.convert("RGB")), np.asarray(after.convert("RGB")))
        old, new = (np.rint(np.asarray(image) / 257).astype(np.uint8) for image in (before, after))
    assert (old != new).mean() > 0.02
    scaled = np.abs(levels(Image.fromarray(old).convert("RGB")) - levels(Image.fromarray(new).convert("RGB")))
    assert scaled.max() == 0
    assert (record["input_pixels_changed"], record["input_pixels_changed_shown"]) == (0, 0)


def test_for_who_reads_what_is_shown(tmp_path: Path) -> None:
    """--reading shown: then it is the upright picture, on white, of which not a bit changes."""
    image, _ = transparent("rgba")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "a.png", exif=exif)
    result, record = marked(tmp_path / "a.png", "shown")
    assert change(shown, tmp_path / "a.png", result).max() == 0
    assert (record["reading"], record["input_pixels_changed_shown"]) == ("shown", 0)
    assert record["input_pixels_changed"] == pytest.approx((change(loaded, tmp_path / "a.png", result) > 0).mean())
    assert record["verified"] is True
    with Image.open(result) as written:
        assert written.size == (WIDTH, HEIGHT)
        assert written.getexif()[ExifTags.Base.Orientation] == 6
