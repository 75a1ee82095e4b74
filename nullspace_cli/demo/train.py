"""Trains the two embedded demo models on images that `drawing.py` draws, and writes their safetensors files.

    python -m nullspace_cli.demo.train vit --out nullspace_cli/demo/weights    # about an hour on 2 cores
    python -m nullspace_cli.demo.train cnn --out nullspace_cli/demo/weights    # about a quarter of an hour

Every image is drawn fresh: no image is seen twice, and none of the validation or test draws is ever seen. Training
starts kind (large bright figures alone) and hardens to the demo's own data: a small ViT that meets the hard data first
stays at chance for a long time.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from scipy.fft import dct
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.demo.models import DEMO_MODELS, DemoModel

BATCH = 128


class Drawn(Dataset[tuple[Tensor, int]]):
    """`count` images of a split, whose hardness grows with the index when `curriculum` is set."""

    def __init__(self, split: str, count: int, first: int = 0, curriculum: bool = False) -> None:
        self.split, self.count, self.first, self.curriculum = split, count, first, curriculum

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        # The hardest images come in over the first half of the run, kinder ones stay in the mix until the last third.
        progress = index / self.count
        hardest = min(1.0, 2 * progress)
        kindest = max(0.0, 3 * progress - 2)
        hardness = kindest + (hardest - kindest) * ((index * 0.6180339887498949) % 1) if self.curriculum else 1.0
        pixels, label = draw(self.split, self.first + index, hardness=hardness)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), label


def normalise(pixels: Tensor) -> Tensor:
    return pixels.float().div_(127.5).sub_(1.0)  # the demo models' mean and std are 0.5


@torch.inference_mode()
def accuracy(model: nn.Module, split: str, count: int) -> float:
    """Top-1 share on `count` images of the demo's own hardness."""
    model.eval()
    hits = sum(
        int((model(normalise(pixels)).argmax(1) == labels).sum())
        for pixels, labels in DataLoader(Drawn(split, count), batch_size=BATCH)
    )
    model.train()
    return hits / count


class Smooth:
    """Keeps a patch projection [d, 3, r, r] to its lowest 8 x 8 spatial frequencies, and reads all of them.

    Without it the weights' random start stays in the filters as noise for good: the network reads every frequency a
    little, and whatever hides from it is a mottle. Trained ViTs of full size read low frequencies, and so does this
    one: its row space is the 3 * 8 * 8 = 192 lowest frequencies, its nullspace all others.
    """

    def __init__(self, weight: Tensor, frequencies: int = 8, floor: float = 0.01) -> None:
        low = torch.from_numpy(dct(np.eye(weight.shape[-1]), norm="ortho", axis=0)[:frequencies]).float()
        self.weight, self.low, self.floor = weight, low, floor
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Project, and lift singular values to `floor` of the largest, so that half precision keeps the rank."""
        spectrum = self.low @ self.weight @ self.low.mT
        U, sigma, V = torch.linalg.svd(spectrum.flatten(1), full_matrices=False)
        lifted = (U * sigma.clamp_min(self.floor * float(sigma[0]))) @ V
        self.weight.copy_(self.low.mT @ lifted.view_as(spectrum) @ self.low)


def build(spec: DemoModel, start: Path | None) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(spec.architecture, pretrained=False, **spec.model_kwargs)
    if start:
        model.load_state_dict(load_file(start))
    return model.to(memory_format=torch.channels_last)


def train(name: str, images: int, learning_rate: float, out: Path, start: Path | None = None) -> None:
    """Train on `images` fresh drawings: by the curriculum, or at full hardness when going on from `start`."""
    spec = DEMO_MODELS[name]
    model = build(spec, start)
    smooth = Smooth(model.get_parameter("patch_embed.proj.weight")) if hasattr(model, "patch_embed") else None
    steps = images // BATCH
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=learning_rate
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    # What goes on from a start draws beyond the images that the curriculum has used.
    drawn = Drawn("train", steps * BATCH, first=spec.training_images if start else 0, curriculum=start is None)
    began, loss_sum, hits = time.monotonic(), 0.0, 0
    for step, (pixels, labels) in enumerate(DataLoader(drawn, BATCH, num_workers=1, prefetch_factor=4), start=1):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(normalise(pixels).contiguous(memory_format=torch.channels_last)).float()
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if smooth:
            smooth.apply()
        loss_sum, hits = loss_sum + loss.item(), hits + int((logits.argmax(1) == labels).sum())
        if step % 100 == 0 or step == steps:
            rate = step * BATCH / (time.monotonic() - began)
            print(f"{step}/{steps} loss {loss_sum / 100:.3f} train {hits / BATCH:.1f}% {rate:.0f} images/s", end=" ")
            print(f"val {accuracy(model, 'val', 300):.3f}", flush=True)
            loss_sum, hits = 0.0, 0
            save(model, spec, out)
    print(f"test {accuracy(model, 'test', 2000):.4f}")


def save(model: nn.Module, spec: DemoModel, out: Path) -> None:
    """Half precision: it costs no accuracy here and keeps the package small."""
    out.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    # One key: safetensors writes several in an order of its own, and equal weights would give different files.
    card = {"architecture": spec.architecture, "model_kwargs": spec.model_kwargs, "classes": CLASSES}
    metadata = {"model": json.dumps(card)}
    save_file(state, out / spec.weights, metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train an embedded demo model.")
    parser.add_argument("name", choices=["vit", "cnn"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, help="images to draw and train on (default: the demo's own number)")
    parser.add_argument("--learning-rate", type=float, help="its peak (default: the demo's own)")
    parser.add_argument("--start", type=Path, help="weights to go on from, at full hardness")
    arguments = parser.parse_args()
    key = {"vit": "demo", "cnn": "demo-cnn"}[arguments.name]
    chosen = DEMO_MODELS[key]
    train(
        key,
        arguments.images or chosen.training_images,
        arguments.learning_rate or chosen.learning_rate,
        arguments.out,
        arguments.start,
    )
