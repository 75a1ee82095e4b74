"""watermark, fool and explain on first layers whose windows overlap: all measured again with plain timm."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_data_config
from torch import Tensor

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.files.pictures import encode_png
from tests.cli.contract import FOOL, WATERMARK, check_keys
from tests.cli.reference import Reference
from tests.conftest import Vitnull, contents

PIT = ("pit_ti_224", "--no-pretrained", "--model-kwargs", "img_size=64")
MODEL = ("--size", "model", "--model", *PIT)
OUTPUT = "photo.watermarked.png"


@pytest.fixture(scope="module")
def pit() -> Reference:
    """Windows of 16 pixels every 8."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model("pit_ti_224", img_size=64).eval()
    return Reference(PIT, module, resolve_data_config({"input_size": (3, 64, 64)}, model=module))


def first_layer(pit: Reference, normalised: Tensor) -> Tensor:
    """What it makes of images without its bias, in float64."""
    weight = pit.module.get_parameter("patch_embed.conv.weight").detach().double()
    return torch.nn.functional.conv2d(normalised.double(), weight, stride=8)


def moved(before: Tensor, after: Tensor) -> float:
    return float((after - before).norm() / before.norm())


def crop_of(image: Tensor) -> Tensor:
    """What the network reads of an image at model size."""
    top, left = (round((side - 64) / 2) for side in image.shape[1:])
    return image[:, top : top + 64, left : left + 64].double()


def normalised(pit: Reference, image: Tensor) -> Tensor:
    mean, std = (torch.tensor(pit.config[name], dtype=torch.float64)[:, None, None] for name in ("mean", "std"))
    return (image - mean) / std


def test_a_watermark(vitnull: Vitnull, pit: Reference, photo: Path, logo: Path) -> None:
    options = (*MODEL, "--float", "exact.safetensors", "--json")
    document = vitnull("watermark", photo, logo, *options).document
    check_keys(document, WATERMARK)
    (record,) = document["images"]
    assert (record["nullspace"], record["rounding"], record["match"]) == ("affine", "aware", True)
    solver = record["solver"]
    assert (solver["norm"], solver["status"], solver["bound_violation"]) == (2, "solved", 0)
    assert solver["residual"] <= 1e-9
    assert solver["gap"] <= 1e-9
    assert "patches" not in solver

    # The exact solution is read as its source.
    tensors = load_file("exact.safetensors")
    image, source, target = (crop_of(tensors[name]) for name in ("image", "source", "target"))
    assert 0 <= image.min() <= image.max() <= 1
    assert moved(*(first_layer(pit, normalised(pit, part)[None]) for part in (source, image))) < 1e-11
    assert (image - source).abs().max() > 0.1
    distances = [float((image + t * (source - image) - target).norm()) for t in (0, 0.01, 0.1, 1)]
    assert distances == sorted(distances)

    # And of the file it is off by what the record says.
    error = moved(*(first_layer(pit, pit.input(path)) for path in (photo, OUTPUT)))
    assert record["embedding_error"] == pytest.approx(error, rel=1e-4)
    assert 0 < error < 0.01
    assert moved(pit.input(photo), pit.input(OUTPUT)) > 0.1
    mse = float((pit.logits(photo) - pit.logits(OUTPUT)).double().square().sum())
    assert record["logit_mse"] == pytest.approx(mse, rel=0.05)


def test_by_a_file(vitnull: Vitnull, photo: Path, logo: Path) -> None:
    vitnull("basis", *PIT, "--no-preview", "--no-check", "--space", "normalized", "-o", "b.safetensors")
    vitnull("watermark", photo, logo, *MODEL, "-o", "own.png")
    vitnull("watermark", photo, logo, *MODEL, "--basis", "b.safetensors", "-o", "given.png")
    own, given = (Reference.input(Reference((), torch.nn.Identity(), CONFIG), f"{n}.png") for n in ("own", "given"))
    assert float((own != given).double().mean()) < 0.001
    message = vitnull(
        "watermark", photo, logo, *MODEL, "--seed", "1", "--basis", "b.safetensors", "-o", "c.png", expect=1
    ).message
    assert "b.safetensors was made from other weights" in message


CONFIG = {"input_size": (3, 64, 64), "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bicubic", "crop_pct": 0.9}


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ([*MODEL, "--norm", "1"], 2, "p = 1 is solved patch by patch. Use --norm 2"),
        (["--nullspace", "patch", "--model", *PIT], 5, "no exact patch nullspace"),
        (["--nullspace", "patch", "--model", *PIT], 5, "At --size model the image as a whole may have one"),
        (["--size", "model", "--model", "demo-cnn"], 5, "no exact nullspace: its first layers read"),
    ],
)
def test_what_no_watermark_can_be_had_by(
    vitnull: Vitnull, photo: Path, logo: Path, given: list[str], code: int, words: str
) -> None:
    assert words in vitnull("watermark", photo, logo, *given, expect=code).message
    assert contents() == []


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two drawings of different things."""
    for name, index in (("source", 3), ("target", 4)):
        (tmp_path / f"{name}.png").write_bytes(encode_png(draw("test", index, size=80)[0]))
    return ["source.png", "target.png"]


@pytest.mark.parametrize("bounded", [True, False])
def test_fooled(vitnull: Vitnull, pit: Reference, pair: list[str], bounded: bool) -> None:
    options = ("--bounded" if bounded else "--unbounded", "--strength", "1", "--explain", "gradient", "--json")
    document = vitnull("fool", *pair, "--model", *PIT, *options).document
    check_keys(document, FOOL)
    assert (document["nullspace"], document["match"], document["verified"]) == ("affine", True, True)
    assert document["solver"]["gap"] <= 1e-9
    tensors = load_file("source.target.fooled.safetensors")
    image, source, target = (tensors[name].double() for name in ("image", "source", "target"))
    reads = [first_layer(pit, normalised(pit, crop_of(part))[None]) for part in (source, image)]
    assert moved(*reads) < 1e-6  # unbounded, what is written is float32
    assert (image - target).norm() < 0.8 * (source - target).norm()
    assert bounded is bool(image.min() >= 0 and image.max() <= 1)
    # All that the network reads is in the row space: a control there keeps nothing of the map.
    maps = document["saliency"]["gradient"]
    assert maps["source_transformed"]["spearman"] > 0.999
    assert maps["control_row_space"]["spearman"] < 0.9


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--channels", "red"], "red alone is solved for patch by patch. Use --channels all"),
        (["--norm", "1"], "p = 1 is solved patch by patch. Use --norm 2"),
    ],
)
def test_what_nobody_is_fooled_by(vitnull: Vitnull, pair: list[str], given: list[str], words: str) -> None:
    assert words in vitnull("fool", *pair, "--model", *PIT, *given, expect=2).message
    assert contents() == sorted(pair)


def test_maps_under_null_noise(vitnull: Vitnull, pair: list[str]) -> None:
    options = ("--method", "gradient", "--compare-noise", "0.1", "--json")
    noise = vitnull("explain", pair[0], "--model", *PIT, *options).document["noise"]
    maps = noise["methods"]["gradient"]
    assert np.isclose(noise["match_percent"]["null"], 100)
    assert maps["null"]["spearman"] > 0.999
    assert maps["random"]["spearman"] < 0.99
    assert maps["row_space"]["spearman"] < maps["random"]["spearman"] + 0.1


def read_by(module: torch.nn.Module, layers: tuple[str, ...], image: Tensor) -> Tensor:
    """What layers of a plain network, run as a whole in float64, make of an image."""
    found: list[Tensor] = []
    hooks = [
        module.get_submodule(name).register_forward_hook(lambda *call: found.append(call[2].flatten()))
        for name in layers
    ]
    with torch.no_grad():
        module.double()(image[None])
    for hook in hooks:
        hook.remove()
    return torch.cat(found)


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [
        ("pit_ti_224", 64, ("patch_embed.conv",)),
        ("crossvit_tiny_240", 120, ("patch_embed.0.proj", "patch_embed.1.proj")),
    ],
)
def test_timm_itself_reads_the_solution_as_its_source(
    vitnull: Vitnull, photo: Path, logo: Path, name: str, size: int, layers: tuple[str, ...]
) -> None:
    """Of branches, too, one of which reads the image resized: the network's first layers within its own pass."""
    given = (name, "--no-pretrained", "--model-kwargs", f"img_size={size}")
    options = ("--size", "model", "--model", *given, "--float", "exact.safetensors", "--no-verify", "--json")
    (record,) = vitnull("watermark", photo, logo, *options).document["images"]
    assert record["solver"]["status"] == "solved"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, img_size=size).eval()
    plain = Reference(given, module, resolve_data_config({"input_size": (3, size, size)}, model=module))
    tensors = load_file("exact.safetensors")
    top, left = (round((n - size) / 2) for n in tensors["image"].shape[1:])
    image, source = (tensors[part][:, top : top + size, left : left + size].double() for part in ("image", "source"))
    reads = [read_by(module, layers, normalised(plain, part)) for part in (source, image)]
    assert len(reads[0]) >= 8 * (size // 16) ** 2
    assert moved(*reads) < 1e-7  # timm's bicubic kernel is in float32
    assert (image - source).abs().max() > 0.1
