"""Learning encoder-level noise for ViT-S/32 over several rounds, against the authors' procedure written out again.

Theirs decodes every image in every round and runs the clean image beside the noisy one in every step. And the command's
memory, with some photos and with four times as many.
"""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.measure import Figure, Row, in_turns, vitnull
from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.data.datasets import open_data
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import injection_site
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import Plan, Trainer
from nullspace_cli.engine.runtime.distributed import Ranks

IMAGES, STEP, ROUNDS, LIMIT, LR = 64, 32, 6, 0.5, 0.01


def rows() -> list[Row | Figure]:
    return [*against_theirs(), memory()]


def memory() -> Figure:
    """Of the command in a process of its own, by the number of photos, of which no more than a batch need be held."""
    few, many = IMAGES, 4 * IMAGES
    with TemporaryDirectory() as folder:
        peaks = []
        for count in (few, many):
            photos = save_photos(Path(folder, str(count)), count)
            run = vitnull(
                "learn-noise", "vit_small_patch32_224", "--no-pretrained", "--data", photos,
                "--fraction", 1, "--rounds", 1, "--step-images", STEP, "--cache-limit", 0, "--device", "cpu",
                "--out-dir", Path(folder) / f"{count} noises", "--no-preview",
            )  # fmt: skip
            peaks.append(run.memory)
    return Figure(
        f"vitnull learn-noise, ViT-S/32, {few} and {many} photos, peak memory",
        " and ".join(f"{peak / 2**30:.3f} GiB" for peak in peaks),
        besides=f"{(peaks[1] - peaks[0]) / (many - few) / 2**10:.0f} KiB for each photo more, which a file holds",
    )


def against_theirs() -> list[Row]:
    model = load_model(ModelRequest("vit_small_patch32_224", pretrained=False, device="cpu", batch_size=STEP))
    site = injection_site(model, "encoder")
    transform = model.transform.squashed()
    with TemporaryDirectory() as folder:
        data = ImageFolder(save_photos(Path(folder)), their_transform(model))
        images = open_data(folder)
        plan = Plan("encoder", (LIMIT,), "paper-accum", ROUNDS, LR, 1.0, 2.0, None, STEP, 0, "", IMAGES, {})

        def read() -> ReferenceCache:
            return ReferenceCache(model, site, images, range(IMAGES), transform, Store(2**30))

        def ours(cache: ReferenceCache) -> Tensor:
            trainer = Trainer(model, site, cache, plan, Ranks())
            for _ in trainer.steps():
                pass
            return trainer.learners[0].noise.detach()

        loader = DataLoader(data, STEP, num_workers=2)
        whole = in_turns(lambda: ours(read()), lambda: theirs(model, loader), 2)
        kept, pixels = read(), [batch for batch, _ in loader]

        def ours_decoded() -> None:
            model(torch.cat(pixels))  # the clean answers, which `kept` has already
            ours(kept)

        decoded = in_turns(ours_decoded, lambda: theirs(model, [(batch, None) for batch in pixels]), 2)
    what = f"learn-noise, ViT-S/32, {IMAGES} photos, {ROUNDS} rounds"
    return [
        Row(what, whole[0], "the authors' procedure,", whole[1], "<= 0.5"),
        Row(f"{what}, without decoding", decoded[0], "the authors' procedure,", decoded[1], "<= 0.714"),
    ]


def theirs(model: Model, loader: Iterable[Any]) -> Tensor:
    noise = torch.empty(1, 49, 384).uniform_(-LIMIT, LIMIT).requires_grad_()
    for _ in range(ROUNDS):
        authors_round(model, loader, noise)
    return noise.detach()


def authors_round(model: Model, loader: Iterable[Any], noise: Tensor) -> None:
    """Every image decoded, and the clean one run beside the noisy one in every step; the noise is changed in place."""
    vit: Any = model.module
    for batch, _ in loader:
        images = batch.to(noise.device, non_blocking=True)
        with torch.no_grad():
            clean = vit(images)
        tokens = vit.blocks(vit.norm_pre(vit._pos_embed(vit.patch_embed(images) + noise)))
        loss = ((vit.forward_head(vit.norm(tokens)) - clean) ** 2).sum(-1).sqrt().mean()
        loss.backward()
        with torch.no_grad():
            noise -= LR * noise.grad  # type: ignore[operator]


def their_transform(model: Model) -> Any:
    size, normalize = model.transform.input_size[1:], transforms.Normalize(model.transform.mean, model.transform.std)
    return transforms.Compose([transforms.Resize(size), transforms.ToTensor(), normalize])


def save_photos(folder: Path, count: int = IMAGES) -> Path:
    """JPEG files of Imagenette's usual size, with grain, so that they take as long to decode as photos do."""
    (folder / "photos").mkdir(parents=True)
    dice = np.random.default_rng(0)
    for i in range(count):
        pixels = draw("train", i, size=500)[0][:375] + dice.normal(0, 8, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / f"{i}.jpg", quality=90)
    return folder
