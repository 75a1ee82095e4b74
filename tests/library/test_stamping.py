"""Marks on images in memory: of the same kind, with the model's input unchanged, in every process alike."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from nullspace_cli import Model, Stamper, VitnullError, make_watermark, watermark
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine.watermark.native_size import NativeSize
from tests.conftest import contents
from tests.library.conftest import network_input

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def stamper(model: Model) -> Stamper:
    return Stamper(draw_logo(), model=model)


def test_an_array_has_the_pixels_of_make_watermark(model: Model, stamper: Stamper, picture: Pixels) -> None:
    marked = stamper(picture)
    assert np.array_equal(marked, make_watermark(model, picture, draw_logo()).pixels)
    assert torch.equal(network_input(marked), network_input(picture))
    assert np.array_equal(watermark(picture, draw_logo(), model=model), marked)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK"])
def test_a_pil_image_is_one_again(mode: str, stamper: Stamper, picture: Pixels) -> None:
    """Loaders take them alike; what is not opaque stays as it is."""
    image = Image.fromarray(picture).convert(mode)
    image.info["icc_profile"] = b"mine"
    if mode[-1] == "A":
        image.putalpha(Image.fromarray(np.where(np.arange(96)[:, None] < 12, 0, np.full((96, 110), 255, np.uint8))))
    marked = stamper(image)
    assert (marked.mode, marked.size) == ({"P": "RGB", "CMYK": "RGB"}.get(mode, mode), image.size)
    assert marked.info["icc_profile"] == b"mine"
    before, after = (np.asarray(one.convert("RGB")) for one in (image, marked))
    assert np.array_equal(network_input(after), network_input(before))
    assert (after != before).mean() > 0.1
    if mode[-1] == "A":
        hidden = np.asarray(image)[..., -1] == 0
        assert np.array_equal(np.asarray(marked)[..., -1], np.asarray(image)[..., -1])
        assert np.array_equal(after[hidden], before[hidden])


@pytest.mark.parametrize("channels", [0, 1, 2, 4])
def test_an_array_keeps_its_shape(channels: int, stamper: Stamper, picture: Pixels) -> None:
    image = np.full((*picture.shape[:2], channels or 1), 255, np.uint8)
    image[..., : min(max(channels, 1), 3)] = picture[..., :1]
    image = image if channels else image[..., 0]
    before = image.copy()
    marked = stamper(image)
    assert marked.shape == image.shape
    assert marked.dtype == np.uint8
    assert np.array_equal(image, before)
    assert (marked != image).any()


def test_of_a_name_no_weights_are_read_and_nothing_is_written(
    no_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(60, 200, (460, 500, 3), dtype=np.uint8)
    assert (watermark(image, text="mine", model="demo", position="bottom-right") != image).any()
    assert contents() == []


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # is multi-threaded, says Python 3.12 of forks
@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_in_the_workers_of_a_data_loader(start: str, model: Model, picture: Pixels) -> None:
    images = [picture, picture[::-1].copy(), picture[:, ::-1].copy()]
    stamper = Stamper(draw_logo(), model=model)
    expected = [stamper(image) for image in images]
    stamper = Stamper(draw_logo(), model=model)  # one that has made nothing yet
    loader: DataLoader[Pixels] = DataLoader(
        images,  # type: ignore[arg-type] # a list will do
        batch_size=None,
        collate_fn=stamper,
        num_workers=2,
        multiprocessing_context=start,
    )
    for _ in range(2):
        found = list(loader)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        stamper(picture)  # and one that has been used in the parent


def test_a_used_one_can_be_sent(stamper: Stamper, picture: Pixels) -> None:
    expected = stamper(picture)
    assert np.array_equal(pickle.loads(pickle.dumps(stamper))(picture), expected)  # noqa: S301
    assert "for deit_tiny" in repr(stamper)


def test_it_computes_in_one_thread(model: Model, picture: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    call, counts = NativeSize.__call__, []

    def watched(*arguments: Any) -> Any:
        counts.append(torch.get_num_threads())
        return call(*arguments)

    monkeypatch.setattr(NativeSize, "__call__", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        watermark(picture, draw_logo(), model=model)
        assert (counts, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


def test_a_mark_that_can_hardly_be_read_is_a_warning(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    white = np.full((96, 110, 3), 255, np.uint8)
    with caplog.at_level(logging.WARNING, "nullspace_cli"):
        watermark(white, text="mine", model=model, min_legibility=0)
        assert caplog.messages == []
        watermark(white, text="mine", model=model)
    assert caplog.messages == ["The mark can hardly be read: 0% of it can be seen."]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "either a mark or a text"),
        ({"mark": draw_logo(), "text": "a"}, "either a mark or a text"),
        ({"mark": draw_logo(), "font": "a.ttf"}, "A font letters a text"),
        ({"text": "a", "font": "missing.ttf"}, "it is missing"),
        ({"text": "a", "margin": 0.5}, "margin is 0.5; expected a number of at least 0 and of at most 0.49"),
        ({"text": "a", "min_legibility": 2}, "min_legibility is 2"),
        ({"text": "a", "model": 3}, "model is 3"),
        ({"text": 3}, "text is 3; expected letters"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(VitnullError, match=reason):
        Stamper(**settings)


@pytest.mark.parametrize("image", ["photo.jpg", torch.zeros(3, 8, 8), np.zeros((8, 8)), Image.new("I;16", (8, 8))])
def test_images_of_another_kind(image: Any, stamper: Stamper) -> None:
    with pytest.raises(VitnullError, match="image is"):
        stamper(image)
