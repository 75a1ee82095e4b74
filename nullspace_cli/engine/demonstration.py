"""The whole chain on the embedded models and images: what `vitnull demo` shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine import basis as bases
from nullspace_cli.engine.artifacts import check_output, make_folder, write_bytes
from nullspace_cli.engine.data import ImageSet, open_data
from nullspace_cli.engine.errors import NoNullspaceError
from nullspace_cli.engine.images import encode_png
from nullspace_cli.engine.marks import Placement, read_mark
from nullspace_cli.engine.models import LoadedModel, ModelRequest, load_model
from nullspace_cli.engine.network import Network
from nullspace_cli.engine.plots.basis import draw_basis
from nullspace_cli.engine.plots.watermarks import draw_native, draw_watermarks
from nullspace_cli.engine.stamping import Job, Stamp
from nullspace_cli.engine.watermarking import Design

NOISE_STD = 1.0
PHOTOS = 4
LARGE, LARGE_SIDE = 4, 640  # the drawing that is watermarked at its own size


def run_demo(
    folder: Path, device: str, seed: int, *, images: int, force: bool, progress: Callable[[str], None]
) -> tuple[LoadedModel, dict[str, Any]]:
    """Accuracy, nullspace, exact noise and watermarks on the embedded models; files go into `folder`.

    Args:
        images: how many validation images the accuracy and the noise are measured on.
        progress: is told what comes next.

    Returns:
        The embedded ViT and the body of the JSON document.
    """
    names = [f"photo-{i}.png" for i in range(PHOTOS)]
    files = [
        folder / name
        for name in (
            *names,
            "logo.png",
            "demo.basis.safetensors",
            "demo.basis.png",
            "watermarks.png",
            "large.png",
            "large.watermarked.png",
            "native.png",
            *(f"photo-{i}.watermarked.png" for i in range(PHOTOS)),
        )
    ]
    make_folder(folder)
    for file in files:
        check_output(file, force=force)
    progress("loading the embedded models")
    vit, cnn = (load_model(ModelRequest(name, device=device, seed=seed)) for name in ("demo", "demo-cnn"))

    progress(f"drawing {images} validation images")
    data = open_data("demo", "val")[:images]
    pixels = torch.stack([torch.from_numpy(vit.transform.input_pixels(sample.pixels)) for sample in data])
    x = pixels.permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor([sample.label for sample in data])

    progress("computing the nullspace")
    found = bases.find_basis(vit)
    check = bases.check_basis(vit, found, seed=seed)
    bases.save_basis(folder / "demo.basis.safetensors", vit, found, force=force)
    draw_basis(folder / "demo.basis.png", vit, found, seed=seed, force=force)

    progress("adding exact null noise")
    null = bases.null_noise(found.pixel_basis, vit.transform.input_size[1:], NOISE_STD, seed).float()
    random = bases.equal_norm_noise(null, torch.Generator().manual_seed(seed + 1))
    noises = {"null": null, "random": random}
    models = {model.name: model for model in (vit, cnn)}
    clean = {name: _classes(model, x) for name, model in models.items()}
    kept = {
        name: {kind: 100 * _share(_classes(model, x + noise) == clean[name]) for kind, noise in noises.items()}
        for name, model in models.items()
    }
    try:
        bases.find_basis(cnn)
        cnn_message = None
    except NoNullspaceError as error:
        cnn_message = str(error)

    progress("stamping watermarks")
    records, native = _watermark(ModelRequest(vit.name, device=device, seed=seed), data, folder, force=force)
    return vit, {
        "images": images,
        "accuracy": {name: 100 * _share(classes == labels) for name, classes in clean.items()},
        "nullspace": {**found.describe(), "check": check.to_json()},
        "noise": {"std": NOISE_STD, "match_percent": kept},
        "cnn": cnn_message,
        "watermarks": records,
        "native": native,
        "artifacts": [str(file) for file in files],
    }


def _watermark(
    request: ModelRequest, data: ImageSet, folder: Path, *, force: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Stamp the demo's logo onto some of its images at model size and onto one at its own, and draw sheets of them."""

    def save(name: str, image: np.ndarray) -> Path:
        return write_bytes(folder / name, encode_png(image), force=force)

    design = Design(read_mark(save("logo.png", draw_logo())), Placement())
    network = Network(request)
    stamp = Stamp(network, design, size="model", verify=True, force=force)
    stamp.prepare()
    done = [
        stamp(Job(save(f"photo-{i}.png", sample.pixels), folder / f"photo-{i}.watermarked.png"))
        for i, sample in enumerate(data[1 : 1 + PHOTOS])
    ]
    draw_watermarks(folder / "watermarks.png", done, force=force)
    large = save("large.png", draw("val", LARGE, size=LARGE_SIDE)[0])
    native = Stamp(network, design, force=force)(Job(large, folder / "large.watermarked.png"))
    draw_native(folder / "native.png", native, network.transform, force=force)
    return [stamped.record for stamped in done], native.record


def _classes(model: LoadedModel, images: Float[Tensor, "b 3 h w"]) -> Tensor:
    """The predicted class of images in [0, 1] pixel space."""
    logits = model(model.transform.to_normalized(images)).logits
    assert logits is not None  # both demo models have heads
    return logits.argmax(1)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
