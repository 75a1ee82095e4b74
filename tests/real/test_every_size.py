"""Every real photo, at its size and smaller, stored in every orientation: what plain timm makes of the files.

    VITNULL_REAL=FOLDER pytest tests/real/test_every_size.py -m real -s

prints the rows of the table in docs/watermarks.md. It takes some hours.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config

pytestmark = pytest.mark.real

SCALES = (1.0, 0.5, 0.35, 0.25)
LEGIBLE = 0.3
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a picture that is upright must be turned to be stored with an orientation."""


@dataclass
class Network:
    """A model by plain timm, and how the command line is told of it."""

    name: str
    weights: str
    arguments: dict[str, int]

    def options(self, real: Path) -> list[str]:
        pairs = [f"{key}={value}" for key, value in self.arguments.items()]
        return ["--model", self.name, "--checkpoint", str(real / self.weights)] + [
            word for pair in pairs for word in ("--model-kwargs", pair)
        ]

    def by_timm(self, real: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
        model = timm.create_model(self.name, checkpoint_path=str(real / self.weights), **self.arguments).eval()
        return model, resolve_data_config(dict(self.arguments), model=model)


NETWORKS = [
    Network("vit_small_patch14_dinov2", "vit_small_patch14_dinov2.safetensors", {"img_size": 224, "num_classes": 0}),
    Network("tf_efficientnet_lite0", "tf_efficientnet_lite0.safetensors", {}),
]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
@pytest.mark.parametrize("reading", ["timm", "shown"])
def test_every_size(
    reading: str, network: Network, scale: float, real: Path, run: Any, logo: Path, tmp_path: Path
) -> None:
    sources = [
        stored(path, scale, 1 + i % 8, tmp_path / "photos" / f"{i:02d}-{path.stem}.png")
        for i, path in enumerate(sorted(real.glob("*/**/*.jpg")))
    ]
    result = run(
        "watermark", str(tmp_path / "photos"), str(logo), *network.options(real), "--reading", reading,
        "--out-dir", str(tmp_path / "out"), "--verify", "--json",
    )  # fmt: skip
    document = json.loads(result.stdout)
    records, failures = document["images"], document["failures"]
    assert len(records) + len(failures) == len(sources)
    model, config = network.by_timm(real)
    measured = [Measured.of(model, config, reading, record) for record in records]
    for one, record in zip(measured, records, strict=True):
        assert one.changed == pytest.approx(record[KEYS[reading]], abs=1e-12)
        assert record["mark_correlation"] > LEGIBLE
        if record["nullspace"] == "resize":
            assert one.changed == 0
            assert one.feature_change == 0
        else:
            assert one.embedding_error == pytest.approx(record["embedding_error"], rel=1e-3)
            assert record["embedding_error"] <= 0.01
    for failure in failures:
        assert "too small" in failure["error"]
    other = [record[KEYS["shown" if reading == "timm" else "timm"]] for record in records]
    sys.stdout.write(
        f"\n| {network.name} | {scale:g} | {reading} | {len(records)} of {len(sources)} | "
        f"{sum(one.changed == 0 for one in measured)} | {spread(other, '.2%')} | "
        f"{spread([one.embedding_error for one in measured if one.changed], '.2%')} | "
        f"{spread([one.feature_change for one in measured], '.2%')} | "
        f"{spread([one.confidence_change for one in measured], '.3%')} | "
        f"{spread([record['mark_correlation'] for record in records], '.2f')} |\n"
    )


KEYS = {"timm": "input_pixels_changed", "shown": "input_pixels_changed_shown"}


def stored(photo: Path, scale: float, orientation: int, path: Path) -> Path:
    """The photo at that scale as a camera that was held otherwise would have stored it."""
    path.parent.mkdir(exist_ok=True)
    with Image.open(photo) as image:
        size = [max(1, round(length * scale)) for length in image.size]
        small = image.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    if orientation in TRANSPOSE:
        small = small.transpose(TRANSPOSE[orientation])
    tags = Image.Exif()
    tags[274] = orientation
    small.save(path, exif=tags)
    return path


@dataclass
class Measured:
    """What plain timm says of a source and its result."""

    changed: float
    embedding_error: float | None
    feature_change: float
    confidence_change: float | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: torch.nn.Module, config: dict[str, Any], reading: str, record: dict[str, Any]) -> "Measured":
        before, after = (read(record[key], config, reading) for key in ("source", "output"))
        network: Any = model
        mean, std = (np.array(config[key], np.float32) for key in ("mean", "std"))
        images = [
            torch.from_numpy((pixels / np.float32(255) - mean) / std).permute(2, 0, 1)[None]
            for pixels in (before, after)
        ]
        error = None
        if hasattr(network, "patch_embed"):
            proj = network.patch_embed.proj
            tokens = [torch.nn.functional.conv2d(image.double(), proj.weight.double(), stride=14) for image in images]
            error = change(*tokens)
        features = [network.forward_head(network.forward_features(image), pre_logits=True) for image in images]
        confidence = None
        if network.num_classes:
            shares = [network(image).double().softmax(1)[0] for image in images]
            confidence = abs(float(shares[1][shares[0].argmax()] - shares[0].max()))
        return cls(float((before != after).mean()), error, change(*features), confidence)


def read(path: str, config: dict[str, Any], reading: str) -> NDArray[np.uint8]:
    """The 8-bit input of a file, by timm's transform; upright where it is read as shown."""
    settings = {**config, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    transform: Callable[[Image.Image], torch.Tensor] = create_transform(**settings)
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image) if reading == "shown" else image
        values = transform(shown.convert("RGB")) * 255
    pixels: NDArray[np.uint8] = values.round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels


def change(before: torch.Tensor, after: torch.Tensor) -> float:
    """Relative, by the root mean square."""
    return float((after.double() - before.double()).norm() / before.double().norm())


def spread(values: list[Any], form: str) -> str:
    """Mean and largest of those that were measured."""
    known = [value for value in values if value is not None]
    return f"{np.mean(known):{form}} / {max(known):{form}}" if known else "-"
