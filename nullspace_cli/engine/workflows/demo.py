"""The whole chain on the embedded models and images: what `vitnull demo` shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine.adversarial.attack import Attack
from nullspace_cli.engine.data.datasets import ImageSet, open_data
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.errors import NoNullspaceError
from nullspace_cli.engine.evaluation.noises_under_test import cases_of, read_noises_under_test
from nullspace_cli.engine.evaluation.stability import evaluate
from nullspace_cli.engine.files.pictures import encode_png, read_picture
from nullspace_cli.engine.files.writing import check_output, make_folder, write_bytes
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import injection_site
from nullspace_cli.engine.noise.recipe import Recipe
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.basis_file import save_basis
from nullspace_cli.engine.nullspace.check import check_basis
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.nullspace.preview import preview_of
from nullspace_cli.engine.nullspace.sampling import equal_norm_noise, null_noise
from nullspace_cli.engine.plots.basis import draw_basis
from nullspace_cli.engine.plots.fooling import draw_fooling
from nullspace_cli.engine.plots.learning import draw_losses
from nullspace_cli.engine.plots.watermarks import draw_native, draw_watermarks
from nullspace_cli.engine.report.demo import DemoGalleries
from nullspace_cli.engine.report.fool import show_fooled
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.saliency.methods import choose, default_methods
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.marks import Placement, read_mark
from nullspace_cli.engine.workflows.explain import Explained, Explainer, ExplainFiles
from nullspace_cli.engine.workflows.fool import FoolFiles, report
from nullspace_cli.engine.workflows.learn_noise import NoiseRun
from nullspace_cli.engine.workflows.watermark import WatermarkFiles, WatermarkPipeline

INDEX = "index.html"
NOISE_STD = 1.0
PHOTOS = 4
LARGE, LARGE_SIDE = 4, 640  # the drawing that is watermarked at its own size
SOURCE, TARGET = 6, 5  # the drawing that the network sees, and the one that people see
LIMIT, FRACTION, ROUNDS, STEP_IMAGES, LR = 12.0, 0.1, 6, 20, 0.6
"""By which noise is learned in some seconds that clearly differs from its controls."""


def run_demo(
    folder: Path, device: str, seed: int, *, images: int, force: bool, progress: Callable[[str], None]
) -> tuple[Model, dict[str, Any], DemoGalleries]:
    """Accuracy, nullspace, exact and learned noise, watermarks, a fooled network and saliency maps on embedded models.

    All files go into `folder`.

    Args:
        images: how many validation images the accuracy and the noises are measured on.
        progress: is told what comes next.

    Returns:
        The embedded ViT, the body of the JSON document, and pictures for the page, which the last file is to be.
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
            "demo.encoder.noise.safetensors",
            "demo.encoder.loss.png",
            *(f"{_class_of(drawing)}.png" for drawing in (SOURCE, TARGET)),
            *(path.name for path in _fooled(folder) if path),
            "photo-0.demo.saliency.png",
            "photo-0.demo-cnn.saliency.png",
            INDEX,
        )
    ]
    make_folder(folder)
    for file in files:
        check_output(file, force=force)
    galleries = DemoGalleries.beside(folder)
    progress("loading the embedded models")
    network = LazyModel(ModelRequest("demo", device=device, seed=seed))
    vit, cnn = network.model, load_model(ModelRequest("demo-cnn", device=device, seed=seed))

    progress(f"drawing {images} validation images")
    data = open_data("demo", "val")[:images]
    pixels = torch.stack([torch.from_numpy(vit.transform.input_pixels(sample.pixels)) for sample in data])
    x = pixels.permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor([sample.label for sample in data])

    progress("computing the nullspace")
    found = find_basis(vit)
    check = check_basis(vit, found, seed=seed)
    save_basis(folder / "demo.basis.safetensors", vit, found, force=force)
    draw_basis(folder / "demo.basis.png", vit.name, found, preview_of(vit, found, seed=seed), force=force)

    progress("adding exact null noise")
    null = null_noise(found.pixel_basis, vit.transform.input_size[1:], NOISE_STD, seed).float()
    random = equal_norm_noise(null, torch.Generator().manual_seed(seed + 1))
    noises = {"null": null, "random": random}
    models = {model.name: model for model in (vit, cnn)}
    clean = {name: _classes(model, x) for name, model in models.items()}
    kept = {
        name: {kind: 100 * _share(_classes(model, x + noise) == clean[name]) for kind, noise in noises.items()}
        for name, model in models.items()
    }
    try:
        find_basis(cnn)
        cnn_message = None
    except NoNullspaceError as error:
        cnn_message = str(error)

    progress("stamping watermarks")
    records, native = _watermark(network, data, folder, galleries, force=force)
    progress("learning noise")
    learned = _learn(vit, data, folder, seed, force=force)
    progress("fooling the network")
    fooled = _fool(network, folder, galleries.fooled, force=force)
    progress("explaining")
    pictures = (vit, galleries.vit), (cnn, galleries.cnn)
    explained = [_explain(model, folder, gallery, force=force) for model, gallery in pictures]
    body = {
        "images": images,
        "accuracy": {name: 100 * _share(classes == labels) for name, classes in clean.items()},
        "nullspace": {**found.describe(), "check": check.to_dict()},
        "noise": {"std": NOISE_STD, "match_percent": kept},
        "cnn": cnn_message,
        "watermarks": records,
        "native": native,
        "learned_noise": learned,
        "fool": fooled,
        "explain": explained,
        "artifacts": [str(file) for file in files],
    }
    return vit, body, galleries


def _watermark(
    network: LazyModel, data: ImageSet, folder: Path, galleries: DemoGalleries, *, force: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Stamp the demo's logo onto some of its images at model size and onto one at its own, and draw sheets of them."""

    def save(name: str, image: np.ndarray) -> Path:
        return write_bytes(folder / name, encode_png(image), force=force)

    design = Design(read_mark(save("logo.png", draw_logo())), Placement())
    pipeline = WatermarkPipeline(network, design, size="model", verify=True, force=force, gallery=galleries.watermarks)
    pipeline.prepare()
    done = [
        pipeline(WatermarkFiles(save(f"photo-{i}.png", sample.pixels), folder / f"photo-{i}.watermarked.png"))
        for i, sample in enumerate(data[1 : 1 + PHOTOS])
    ]
    draw_watermarks(folder / "watermarks.png", done, force=force)
    large = save("large.png", draw("val", LARGE, size=LARGE_SIDE)[0])
    own_size = WatermarkPipeline(network, design, force=force, gallery=galleries.native)
    native = own_size(WatermarkFiles(large, folder / "large.watermarked.png"))
    draw_native(folder / "native.png", native, network.transform, force=force)
    return [result.record for result in done], native.record


def _learn(model: Model, data: ImageSet, folder: Path, seed: int, *, force: bool) -> dict[str, Any]:
    """Learn noise on the patch embeddings, from drawings of the training set, and hold it against its controls."""
    drawings, transform = open_data("demo", "train"), model.transform
    recipe = Recipe("encoder", (LIMIT,), "adamw", ROUNDS, LR, FRACTION, step_images=STEP_IMAGES)
    images = drawings.select(recipe.chosen_images(len(drawings), seed))
    plan = recipe.plan(images.fingerprint(), len(images), transform, seed)
    path = folder / "demo.encoder.noise.safetensors"
    learned = NoiseRun(
        model,
        injection_site(model, "encoder"),
        images,
        transform,
        plan,
        (path,),
        folder / ".learning.resume",
        Store(2**30),
        Ranks(),
        force=force,
        every=plan.steps + 1,  # a run as short as this is not worth saving half-way
    )()
    preview = draw_losses(folder / "demo.encoder.loss.png", model.name, learned.noises, force=force)
    cases = cases_of(read_noises_under_test([path], model), ("shuffle", "uniform"), 1, seed)
    return {
        "level": plan.level,
        "noises": [noise.record for noise in learned.noises],
        "images": len(images),
        "plan": plan.to_dict(),
        "preview": str(preview),
        "results": evaluate(model, data, cases).results(),
    }


def _fool(network: LazyModel, folder: Path, gallery: Gallery, *, force: bool) -> dict[str, Any]:
    """Make one drawing look like another, as a float image: 8-bit ones take outlines alone from the target here."""
    source, target = (
        write_bytes(folder / f"{_class_of(drawing)}.png", encode_png(draw("val", drawing)[0]), force=force)
        for drawing in (SOURCE, TARGET)
    )
    fool, picture = Attack(network, bounded=False, norm=1, strength=1.0), read_picture(source)
    methods = default_methods(network.model)
    files = _fooled(folder)
    done = report(
        fool, fool(picture, read_picture(target, "shown").pixels), picture, target, files, methods, force=force
    )
    draw_fooling(files.sheet, done, force=force)
    show_fooled(gallery, done)
    return done.record


def _explain(model: Model, folder: Path, gallery: Gallery, *, force: bool) -> dict[str, Any]:
    """Draw a sheet of all saliency methods that the model has."""
    job = ExplainFiles(folder / "photo-0.png", {}, folder / f"photo-0.{model.name}.saliency.png")
    ((done,),) = Explainer(model, choose(model, ["all"]), force=force, gallery=gallery).each([job])
    if not isinstance(done, Explained):
        raise done.error
    return done.record


def _fooled(folder: Path) -> FoolFiles:
    return FoolFiles.of(folder, _class_of(SOURCE), _class_of(TARGET))


def _class_of(drawing: int) -> str:
    return CLASSES[drawing % len(CLASSES)]


def _classes(model: Model, images: Float[Tensor, "b 3 h w"]) -> Tensor:
    """The predicted class of images in [0, 1] pixel space."""
    logits = model(model.transform.to_normalized(images)).logits
    assert logits is not None  # both demo models have heads
    return logits.argmax(1)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
