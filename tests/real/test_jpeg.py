"""Real JPEGs with real weights, at their own quality: what plain timm makes of the files that come out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config

pytestmark = pytest.mark.real

MODEL = "tf_efficientnet_lite0"


def test_a_photo_stays_a_jpeg(real: Path, run: Any, logo: Path, tmp_path: Path) -> None:
    photo, out = sorted((real / "interiors").glob("*.jpg"))[1], tmp_path / "out.jpg"
    weights = ("--model", MODEL, "--checkpoint", str(real / f"{MODEL}.safetensors"))
    result = run("watermark", str(photo), str(logo), *weights, "-o", str(out), "--verify", "--json")
    (record,) = json.loads(result.stdout)["images"]
    before, after = (levels(path) for path in (photo, out))
    assert record["input_pixels_changed"] == pytest.approx(float((before != after).mean()), abs=1e-12)
    assert record["input_max_change"] == np.abs(before - after).max() <= 2
    assert record["input_pixels_changed"] < 0.0005
    assert record["match"] is True
    assert record["mark_correlation"] > 0.7
    with Image.open(photo) as source, Image.open(out) as image:
        assert (image.quantization, image.info.get("progressive")) == (source.quantization, 1)  # type: ignore[attr-defined]
        assert image.info["icc_profile"] == source.info["icc_profile"]


def levels(path: Path) -> NDArray[np.int16]:
    """The 8-bit input, by timm's transform."""
    config = resolve_data_config({}, model=timm.create_model(MODEL))
    transform = create_transform(**{**config, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    with Image.open(path) as image:
        seen: NDArray[np.int16] = np.rint(255 * transform(image.convert("RGB")).numpy()).astype(np.int16)
    return seen
