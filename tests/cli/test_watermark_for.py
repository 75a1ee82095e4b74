"""`vitnull watermark --for`: what further readers are given of the file, by plain Pillow, timm and torchvision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from nullspace_cli.demo.drawing import draw
from tests.cli.contract import WATERMARK, check_keys
from tests.cli.reference import Array, Reference, pixels_of
from tests.conftest import Vitnull

MARKED = "large.watermarked.png"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.fromarray(draw("val", 3, size=640)[0]).save(path)
    return path


def by_timm(path: Path | str, size: int, filter_: str, crop_pct: float, mode: str = "center") -> Array:
    transform = create_transform(
        (3, size, size), interpolation=filter_, crop_pct=crop_pct, crop_mode=mode, mean=(0, 0, 0), std=(1, 1, 1)
    )
    with Image.open(path) as image:
        levels: Array = (transform(image.convert("RGB")) * 255).round().int().numpy()
    return levels


def by_torchvision(path: Path | str, size: int, crop_pct: float) -> Array:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    levels = torch.from_numpy(pixels_of(path).astype(np.float32)).movedim(2, 0)
    resized = Resize(int(size / crop_pct), InterpolationMode.BICUBIC, antialias=True)(levels)
    seen: Array = CenterCrop(size)(resized).clamp(0, 255).round().int().numpy()
    return seen


def test_each_reader_is_measured_on_the_file(vitnull: Vitnull, demo: Reference, large: Path, logo: Path) -> None:
    readers = ("224/bilinear/0.875", "256/bicubic/1", "288/lanczos/squash", "224/torch-bicubic/0.9", "demo-cnn")
    options = (part for reader in readers for part in ("--for", reader))
    document = vitnull("watermark", large, logo, "--model", "demo", *options, "--json").document
    check_keys(document, WATERMARK)
    (record,) = document["images"]
    assert [reader["reader"] for reader in record["readers"]] == list(readers)
    assert torch.equal(demo.input(large), demo.input(MARKED))
    seen = {
        "224/bilinear/0.875": lambda path: by_timm(path, 224, "bilinear", 0.875),
        "256/bicubic/1": lambda path: by_timm(path, 256, "bicubic", 1),
        "288/lanczos/squash": lambda path: by_timm(path, 288, "lanczos", 1, "squash"),
        "224/torch-bicubic/0.9": lambda path: by_torchvision(path, 224, 0.9),
    }
    measured = {reader["reader"]: reader for reader in record["readers"]}
    for name, read in seen.items():
        change = np.abs(read(MARKED) - read(large))
        assert change.max() <= 1
        assert 0 < (change > 0).mean() < 0.05
        assert measured[name]["input_pixels_changed"] == pytest.approx((change > 0).mean(), abs=1e-5)
        assert measured[name]["rms"] == pytest.approx((change**2).mean() ** 0.5, abs=1e-3)
        assert measured[name]["max"] == change.max()
    assert measured["demo-cnn"]["max"] <= 1
    assert record["mark_correlation"] > 0.6


def test_without_it_nobody_else_is_looked_at(vitnull: Vitnull, large: Path, logo: Path) -> None:
    (record,) = vitnull("watermark", large, logo, "--model", "demo", "--json").document["images"]
    assert record["readers"] == []


def test_common_readers_are_chosen_by_the_pictures_size(vitnull: Vitnull, large: Path, logo: Path) -> None:
    done = vitnull("watermark", large, logo, "--model", "demo", "--for", "common", "--json")
    (record,) = done.document["images"]
    assert "224/bicubic/0.875" in {reader["reader"] for reader in record["readers"]}
    assert "224/torch-bicubic/0.875" in {reader["reader"] for reader in record["readers"]}
    assert max(reader["max"] for reader in record["readers"]) == 1
    assert max(reader["input_pixels_changed"] for reader in record["readers"]) < 0.05
    assert "read such a picture at more than 1 / 2 of its width or height" in done.stderr


@pytest.mark.parametrize(("size", "reading"), [((500, 640), "timm"), ((640, 500), "shown")])
def test_a_photo_stored_sideways_keeps_by_the_reading_that_was_asked_for(
    vitnull: Vitnull, demo: Reference, logo: Path, size: tuple[int, int], reading: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.fromarray(draw("val", 3, size=640)[0]).crop((0, 0, *size)))
    Image.fromarray(pixels).save("turned.png", exif=exif)
    options = ("--reading", reading, "--for", "160/bilinear/squash")
    (record,) = vitnull("watermark", "turned.png", logo, "--model", "demo", *options, "--json").document["images"]
    turned = pixels_of("turned.watermarked.png")
    seen = [
        np.asarray(
            Image.fromarray(np.rot90(image, -1) if reading == "shown" else image).resize(
                (160, 160), Image.Resampling.BILINEAR
            )
        ).astype(int)
        for image in (pixels, turned)
    ]
    change = np.abs(seen[1] - seen[0])
    assert change.max() <= 1
    assert record["readers"][0]["input_pixels_changed"] == pytest.approx((change > 0).mean())
    assert record["input_pixels_changed" if reading == "timm" else "input_pixels_changed_shown"] == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L"])
def test_alpha_and_grey(vitnull: Vitnull, demo: Reference, large: Path, logo: Path, mode: str) -> None:
    with Image.open(large) as image:
        source = image.convert(mode)
    if "A" in mode:
        slope = np.linspace(128, 400, source.width).clip(max=255).astype(np.uint8)
        source.putalpha(Image.fromarray(np.tile(slope, (source.height, 1))))
    source.save("source.png")
    reader = ("--for", "256/bicubic/1", "--min-legibility", "0")
    (record,) = vitnull("watermark", "source.png", logo, "--model", "demo", *reader, "--json").document["images"]
    change = np.abs(by_timm("source.watermarked.png", 256, "bicubic", 1) - by_timm("source.png", 256, "bicubic", 1))
    assert change.max() <= 1
    assert record["readers"][0]["input_pixels_changed"] == pytest.approx((change > 0).mean(), abs=1e-6)
    assert torch.equal(demo.input("source.png"), demo.input("source.watermarked.png"))
    assert record["mark_correlation"] > 0.3


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--for", "224/bicubic/0.9", "--size", "model"), 2, "there is one reader, the model"),
        (("--for", "common", "--nullspace", "patch"), 2, "one model's own"),
        (("--for", "224/cubic/0.9"), 2, "no filter 'cubic'"),
        (("--for", "resnet5000"), 1, "has no model 'resnet5000'"),
        (("--for", "640/bicubic/1"), 1, "640/bicubic/1 resizes 640 x 640 to 640 x 640"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    vitnull: Vitnull, large: Path, logo: Path, options: tuple[str, ...], code: int, reason: str
) -> None:
    refused = vitnull("watermark", large, logo, "--model", "demo", *options, expect=code)
    assert reason in refused.stderr.replace("\n", " ")
    assert not Path(MARKED).exists()


def test_a_table_tells_of_each_reader(vitnull: Vitnull, large: Path, logo: Path) -> None:
    shown = vitnull("watermark", large, logo, "--model", "demo", "--for", "256/bicubic/1").stdout
    assert "256/bicubic/1:" in shown
    assert "at most 1" in shown
