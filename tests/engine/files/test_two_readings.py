"""What a network is given of a file is, to the bit, what timm's own loader gives."""

import gc
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import ExifTags, Image
from timm.data import create_dataset, create_loader
from timm.data.readers import add_img_extensions, get_img_extensions, set_img_extensions

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.data.datasets import open_data
from nullspace_cli.engine.data.loader import batches
from nullspace_cli.engine.files.pictures import encode_like, read_picture
from nullspace_cli.engine.files.two_readings import DifferenceNotice
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

TRANSFORM = EvalTransform((3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.9)


def pictures() -> dict[str, tuple[Image.Image, dict[str, Any]]]:
    """By file name: all orientations in all formats that hold them, and all modes that Pillow writes."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(draw("val", 3, size=120)[0][:90])
    alpha = Image.fromarray(rng.integers(0, 256, (90, 120), np.uint8))
    found: dict[str, tuple[Image.Image, dict[str, Any]]] = {}
    for value in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = value
        for name, options in (("png", {}), ("jpg", {"quality": 90}), ("webp", {"lossless": True}), ("tif", {})):
            found[f"turned{value}.{name}"] = photo, {"exif": exif, **options}
    translucent = photo.convert("RGBA")
    translucent.putalpha(alpha)
    grey = photo.convert("L")
    grey_alpha = Image.merge("LA", (grey, alpha))
    palette = photo.quantize(40)
    deep = Image.fromarray(rng.integers(0, 65536, (90, 120)).astype(np.uint16))
    low = Image.fromarray((np.asarray(grey).astype(np.uint16)) * 3)
    found |= {
        "rgba.png": (translucent, {}),
        "rgba.webp": (translucent, {"lossless": True, "exact": True}),
        "rgba.tif": (translucent, {}),
        "premultiplied.tif": (translucent, {}),
        "la.png": (grey_alpha, {}),
        "la.tif": (grey_alpha, {}),
        "l.png": (grey, {}),
        "l.jpg": (grey, {}),
        "l-transparent.png": (grey, {"transparency": 200}),
        "rgb-transparent.png": (photo, {"transparency": photo.getpixel((5, 5))}),
        "1.png": (photo.convert("1"), {}),
        "p.png": (palette, {}),
        "p-one.png": (palette, {"transparency": 3}),
        "p-many.png": (palette, {"transparency": bytes(rng.integers(0, 256, 40, np.uint8))}),
        "p.gif": (palette, {"transparency": 3}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "cmyk.tif": (photo.convert("CMYK"), {}),
        "ycbcr.tif": (photo.convert("YCbCr"), {}),
        "i16.png": (deep, {}),
        "i16.tif": (deep, {}),
        "i16-low.png": (low, {}),
        "i.tif": (Image.fromarray(rng.integers(-300, 70000, (90, 120)).astype(np.int32)), {}),
        "f.tif": (Image.fromarray((rng.random((90, 120)) * 300 - 20).astype(np.float32)), {}),
        "p.bmp": (palette, {}),
    }
    if int(PIL.__version__.partition(".")[0]) < 13:
        del found["ycbcr.tif"]  # neither timm's loader nor we can read it
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for index, (name, (image, options)) in enumerate(sorted(pictures().items())):
        (root / "ab"[index % 2]).mkdir(exist_ok=True)
        path = root / "ab"[index % 2] / name
        image.save(path, **options)
        if name == "premultiplied.tif":  # which Pillow reads and does not write: ExtraSamples 1 in place of 2
            straight, premultiplied = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))
            assert path.read_bytes().count(straight) == 1
            path.write_bytes(path.read_bytes().replace(straight, premultiplied))
    return root


@pytest.fixture
def timm_takes_all() -> Iterator[None]:
    """timm looks for PNG and JPEG alone unless it is told."""
    before = get_img_extensions()
    add_img_extensions([".webp", ".tif", ".gif", ".bmp"])
    yield
    set_img_extensions(before)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow, to timm
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.usefixtures("timm_takes_all")
def test_what_an_evaluation_reads_is_what_timms_loader_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, labels and the very bits of the model's input, in timm's order."""
    plain_open = Image.open
    dataset = create_dataset("", root=str(folder))
    loader = create_loader(
        dataset,
        input_size=TRANSFORM.input_size,
        batch_size=8,
        use_prefetcher=False,
        interpolation=TRANSFORM.interpolation,
        mean=TRANSFORM.mean,
        std=TRANSFORM.std,
        crop_pct=TRANSFORM.crop_pct,
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    opened: list[Image.Image] = []

    def open_and_note(*arguments: Any) -> Image.Image:
        opened.append(plain_open(*arguments))
        return opened[-1]

    monkeypatch.setattr(Image, "open", open_and_note)
    theirs = list(loader)
    monkeypatch.undo()
    for image in opened:  # timm leaves them open
        image.close()
    opened.clear()
    gc.collect()
    names = [Path(name).name for name in dataset.filenames(absolute=True)]
    ours = {
        Path(name).name: (label, TRANSFORM.normalize(pixels))
        for batch in batches(open_data(str(folder)), TRANSFORM, 8)
        for name, label, pixels in zip(batch.names, batch.labels, batch.pixels, strict=True)
    }
    assert set(names) == set(ours) == set(pictures())
    images, labels = torch.cat([image for image, _ in theirs]), torch.cat([label for _, label in theirs])
    for name, image, label in zip(names, images, labels, strict=True):
        assert ours[name][0] == label, name
        assert torch.equal(ours[name][1], image), name


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", sorted(pictures()))
def test_a_copy_is_to_a_loader_what_the_source_is(folder: Path, tmp_path: Path, name: str) -> None:
    """Written again with its own levels: for Pillow's plain reading, and for the upright one on white."""
    (path,) = folder.glob(f"*/{name}")
    picture = read_picture(path)
    if name in ("i.tif", "f.tif"):  # whose white is unknown
        return
    copy = tmp_path / "copy.png"
    copy.write_bytes(encode_like(picture, picture.levels).data)
    with Image.open(path) as source, Image.open(copy) as written:
        np.testing.assert_array_equal(np.asarray(written.convert("RGB")), np.asarray(source.convert("RGB")))
    np.testing.assert_array_equal(read_picture(copy, "shown").pixels, picture.read_as("shown").pixels)


@pytest.mark.parametrize("name", ["turned6.jpg", "rgba.png", "la.tif", "p-many.png", "i16.png"])
def test_the_user_is_told_once_where_readings_differ(folder: Path, name: str) -> None:
    said: list[str] = []
    tell = DifferenceNotice(said.append, "timm")
    (path,), (plain,) = folder.glob(f"*/{name}"), folder.glob("*/l.png")
    for file in (plain, path, path):
        tell(str(file), read_picture(file))
    (text,) = said
    assert text.startswith(f"{path} ")
    assert '`reading="shown"`' in text
