"""Any number of channels: tensors for all of them, and pictures for those that read grey."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from nullspace_cli import (
    VitnullError,
    attack,
    evaluate_noise,
    explain,
    find_nullspace,
    learn_noise,
    load_model,
    make_watermark,
)
from nullspace_cli.demo.drawing import draw

SMALL: dict[str, Any] = {"depth": 1, "img_size": (32, 48)}
NAME = "vit_tiny_patch16_224"


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_tensors_of_any_number_of_channels(channels: int) -> None:
    model = load_model(NAME, pretrained=False, device="cpu", in_chans=channels, **SMALL)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = timm.create_model(NAME, in_chans=channels, **SMALL).eval()
    images = torch.rand(3, channels, 32, 48, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.transform.mean, model.transform.std))
    with torch.no_grad():
        classes = plain((images - mean) / std).argmax(1)
    null = find_nullspace(model).sample((32, 48), rms=0.1)
    noise = learn_noise(model, images, site="input", limit=0.1, epochs=1)
    found = evaluate_noise(model, images, [noise, null.float()], labels=classes)
    assert found.accuracy == 100
    assert found.results()[2]["match_percent"] == 100
    assert explain(model, images, "gradient").shape == (3, 32, 48)


def test_pictures_in_grey(tmp_path: Path) -> None:
    model = load_model(NAME, pretrained=False, device="cpu", in_chans=1, **SMALL)
    picture, other = (Image.fromarray(draw("val", i, size=200)[0]) for i in (1, 2))
    grey = picture.convert("L")
    made = make_watermark(model, picture, other)
    assert made.verification.input_pixels_changed == 0
    Image.open(made.save(tmp_path / "a.png")).load()
    change = made.pixels.astype(int) - np.asarray(picture)
    assert change.any()
    assert (change == change[..., :1]).all()
    for result in (make_watermark(model, grey, other, size="model"), attack(model, grey, other)):
        assert result.verified is True
        assert (result.pixels == result.pixels[..., :1]).all()


def test_pictures_for_other_numbers_of_channels() -> None:
    model = load_model(NAME, pretrained=False, device="cpu", in_chans=4, **SMALL)
    picture = draw("val", 1, size=200)[0]
    for ask in (make_watermark, attack):
        with pytest.raises(VitnullError, match=r"reads 4 channels; pictures have 3, or 1 in grey\."):
            ask(model, picture, picture)
