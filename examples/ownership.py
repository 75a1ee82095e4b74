"""Whose model is this? False claims and power of `vitnull claim`: `python examples/ownership.py FOLDER [--owners 8]`.

With `--checkpoint FILE`, weights of vit_small_patch14_dinov2, that model's first layer against changed ones instead.

Trains small ViTs on the demo's drawings, each with a seed and images of its own; holds all of them against the claim of
each other (none is to be called derived), and against that of the first what attacks make of it. Goes on where it was
interrupted: FOLDER keeps the weights, and results.jsonl a line for each comparison. An owner takes a minute and a half
on a core that has little else to do.

Hard negatives: `same-data`, another seed on the first owner's images; `same-seed`, the first owner's initial weights,
trained on other images. The last is not independent of the first as far as initial weights are left in it.
"""

import argparse
import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from scipy.stats import binomtest
from timm.layers import resample_patch_embed
from torch import Tensor, nn
from torch.nn import functional as F

from nullspace_cli import Model, load_model, wrap
from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.data.datasets import open_data
from nullspace_cli.engine.nullspace.basis import patch_map_of
from nullspace_cli.engine.ownership.answers import answers_of
from nullspace_cli.engine.ownership.black_box import judge_answers
from nullspace_cli.engine.ownership.claim import Claim, make_claim
from nullspace_cli.engine.ownership.frequencies import from_spectra, spectra
from nullspace_cli.engine.ownership.probes import probe_images
from nullspace_cli.engine.ownership.randomisation import p_value
from nullspace_cli.engine.ownership.white_box import compare
from nullspace_cli.engine.transforms.eval_transform import from_8_bits, to_8_bits

IMAGES, SIZE, PATCH, STEPS, BATCH, LEVEL = 3000, 64, 16, 700, 64, 0.01
ASKED = (2, 8, 24)
"""Images that a black box is asked about."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("ownership"))
    parser.add_argument("--owners", type=int, default=12)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    if options.checkpoint:
        against_itself(options.checkpoint)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    results = Results(options.folder / "results.jsonl")
    study = Study(options.folder)
    owners = {f"owner {i}": study.trained(f"s{i}d{i}", seed=i, part=i) for i in range(options.owners)}
    claims = {name: make_claim(model) for name, model in owners.items()}
    for one, other in permutations(owners, 2):
        results.of("independent", one, other, by_weights, claims[one], owners[other])
        results.of("equal power", one, other, by_power, claims[one], owners[other])
    first, claim = owners["owner 0"], claims["owner 0"]
    suspects = dict(study.attacks(first))
    for name, model in suspects.items():
        results.of("attack", "owner 0", name, by_weights, claim, model)
    negatives = {
        "same-data": study.trained("s100d0", seed=100, part=0),
        "same-seed": study.trained("s0d100", seed=0, part=100),
    }
    for name, model in negatives.items():
        results.of("hard negative", "owner 0", name, by_weights, claim, model)
    asked = {"owner 0": first, **suspects, **negatives, **{n: m for n, m in owners.items() if m is not first}}
    for name, model in asked.items():
        if model.transform.input_size == first.transform.input_size:
            results.of("asked", "owner 0", name, by_answers, claim, model)
    results.summarise()


class Results:
    """What has been found, a line each; what is there already is not done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        whole = [line for line in lines if line.endswith("}")]  # the last may have been cut off
        path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        self.found = [json.loads(line) for line in whole]
        self.done = {(line["kind"], line["claim"], line["suspect"]) for line in self.found}

    def of(
        self,
        kind: str,
        claim: str,
        suspect: str,
        find: Callable[[Claim, Model], dict[str, Any]],
        made: Claim,
        model: Model,
    ) -> None:
        if (kind, claim, suspect) not in self.done:
            line = {"kind": kind, "claim": claim, "suspect": suspect, **find(made, model)}
            self.found.append(line)
            with self.path.open("a", encoding="utf-8") as file:
                print(json.dumps(line), file=file, flush=True)

    def summarise(self) -> None:
        pairs = [line for line in self.found if line["kind"] == "independent"]
        false = sum(line["verdict"] == "derived" for line in pairs)
        bound = binomtest(false, len(pairs)).proportion_ci(0.95, "exact").high
        print(f"false claims: {false} of {len(pairs)}, at most {bound:.1%} with 95% confidence")
        print(f"largest likeness of independent networks: {max(line['likeness'] for line in pairs):.3f}")
        print("p <= 0.01, 0.05, 0.2:", *(sum(line["p"] <= a for line in pairs) for a in (0.01, 0.05, 0.2)))
        power = [line["p"] <= LEVEL for line in self.found if line["kind"] == "equal power"]
        print(f"with surrogates of equal power instead of mirror images: {sum(power)} of {len(power)} false claims")
        for line in self.found:
            if line["kind"] in ("attack", "hard negative"):
                print(f"{line['suspect']:24} {line['verdict']:12} likeness {line['likeness']:.3f} p {line['p']:.4f}")
        for line in self.found:
            if line["kind"] == "asked":
                said = (f"{key}: {v['verdict']} (p {v['p']:.2f})" for key, v in line["answers"].items())
                print(f"{line['suspect']:24} {'; '.join(said)}")
        verdicts = Counter(line["verdict"] for line in self.found if "verdict" in line)
        print(dict(verdicts))


class Study:
    """Networks, each trained once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def images(self, part: int) -> tuple[Tensor, Tensor]:
        path = self.folder / f"images{part}.pt"
        if not path.exists():
            drawn = [draw("train", part * IMAGES + i, size=SIZE, hardness=0.3) for i in range(IMAGES)]
            pixels = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2).contiguous()
            _save((pixels, torch.tensor([label for _, label in drawn])), path)
        images, labels = torch.load(path, weights_only=True)
        return images, labels

    def trained(self, name: str, *, seed: int, part: int) -> Model:
        """A network whose initial embedding is small, so that what is left is learned."""
        module = vit(seed)
        path = self.folder / f"{name}.pt"
        if not path.exists():
            with torch.no_grad():
                module.get_parameter("patch_embed.proj.weight").mul_(0.1)
            self.train(module, part, seed * 100 + part, STEPS, 2e-3)
            _save(module.state_dict(), path)
        module.load_state_dict(torch.load(path, weights_only=True))
        return wrapped(module, name)

    def tuned(self, model: Model, steps: int, rate: float) -> Model:
        """All weights of a network, trained on with other images."""
        module = copy.deepcopy(model.module)
        path = self.folder / f"tuned-{steps}-{rate:g}.pt"
        if not path.exists():
            self.train(module.train().requires_grad_(), 1, 7, steps, rate)
            _save(module.state_dict(), path)
        module.load_state_dict(torch.load(path, weights_only=True))
        return wrapped(module, path.stem)

    def train(self, module: nn.Module, part: int, seed: int, steps: int, rate: float) -> None:
        images, labels = self.images(part)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(IMAGES, (BATCH,), generator=generator)
            batch = images[chosen].float() / 127.5 - 1
            batch = batch.flip(3) if torch.rand((), generator=generator) < 0.5 else batch
            loss = F.cross_entropy(module(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def attacks(self, model: Model) -> Iterator[tuple[str, Model]]:
        """What becomes of a network in other hands."""
        for rate in (3e-4, 1e-3, 3e-3):
            yield f"fine-tuned at {rate:g}", self.tuned(model, 150, rate)
        for name, kernel in changes(model):
            if kernel.shape[-1] == PATCH:
                module = copy.deepcopy(model.module)
                with torch.no_grad():
                    module.get_parameter("patch_embed.proj.weight").copy_(kernel)
                yield name, wrapped(module, name)
            else:
                yield name, first_layer(model, kernel)


def changes(model: Model) -> Iterator[tuple[str, Tensor]]:
    """What becomes of a first layer."""
    kernel = model.module.get_parameter("patch_embed.proj.weight").detach()
    generator = torch.Generator().manual_seed(5)
    step = kernel.abs().amax((1, 2, 3), keepdim=True) / 127
    yield "mixed", torch.einsum("ij,jchw->ichw", torch.randn(len(kernel), len(kernel), generator=generator), kernel)
    yield "fp16", kernel.half().float()
    yield "int8", (kernel / step).round() * step
    for share in (0.2, 0.5, 0.8):
        yield f"{share:.0%} pruned", kernel * (kernel.abs() > kernel.abs().flatten().quantile(share))
    for share in (0.1, 0.3, 1.0):
        noise = torch.randn(kernel.shape, generator=generator)
        yield f"{share:.0%} noise", kernel + share * kernel.square().mean().sqrt() * noise
    for size in (10, 12, 18, 20):
        yield f"patches of {size}", resample_patch_embed(kernel, [size, size])


def against_itself(checkpoint: Path) -> None:
    """A published first layer against what becomes of it, and against what has its spectrum and colours alone."""
    model = load_model("vit_small_patch14_dinov2", checkpoint=checkpoint, device="cpu")
    claim = make_claim(model)
    kernel = model.module.get_parameter("patch_embed.proj.weight").detach()
    others = {
        "mirrored": kernel.flip(3),
        "upside down": kernel.flip(2),
        "transposed": kernel.transpose(2, 3),
        "transposed otherwise": kernel.transpose(2, 3).flip(2, 3),
        "turned": torch.rot90(kernel, 1, (2, 3)),
        "random": torch.randn(kernel.shape, generator=torch.Generator().manual_seed(1)),
    }
    for name, other in [("itself", kernel), *changes(model), *others.items()]:
        found = by_weights(claim, first_layer(model, other.contiguous()))
        print(f"{name:24} {found['verdict']:12} likeness {found['likeness']:.3f} p {found['p']:.4f}", flush=True)


def first_layer(model: Model, kernel: Tensor) -> Model:
    """A network of no more than a first layer, for whoever compares no more."""
    width, channels, size, _ = kernel.shape
    layer = nn.Conv2d(channels, width, size, size)
    with torch.no_grad():
        layer.weight.copy_(kernel)
    module = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return wrap(module, mean=model.transform.mean, std=model.transform.std, input_size=(3, 4 * size, 4 * size))


def vit(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {"img_size": SIZE, "embed_dim": 96, "depth": 2, "num_heads": 3}
    module: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=10, **arguments)
    return module


def wrapped(module: nn.Module, name: str) -> Model:
    return wrap(module.eval(), mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(3, SIZE, SIZE), classes=10, name=name)


def by_weights(claim: Claim, model: Model) -> dict[str, Any]:
    found = compare(claim, model)
    return {"verdict": found.finding(LEVEL).verdict, **found.to_dict()}


def by_power(claim: Claim, model: Model) -> dict[str, Any]:
    """What `claim` does not do: null vectors beside others of equal power at each frequency and colour.

    T = sum_i log(||A v_i||^2 / mean_j ||A v_ij||^2), v_ij with random signs of its own; p by exchanging v_i and v_ij.
    """
    generator = torch.Generator().manual_seed(0)
    rows = claim.row_space.flatten(1)
    patch_map = patch_map_of(model)
    assert patch_map is not None
    matrix = patch_map.matrix("pixel")
    white = torch.randn(64, rows.shape[1], generator=generator, dtype=torch.float64)
    null = spectra((white - (white @ rows.mT) @ rows).unflatten(1, claim.row_space.shape[1:]))
    signs = 2.0 * torch.randint(2, (100, *null.shape), generator=generator) - 1.0
    signs[0] = 1.0
    read = torch.stack([(from_spectra(null * one).flatten(1) @ matrix.mT).square().sum(1) for one in signs])
    logs = (read / read.mean(0)).log()
    exchanged = logs[torch.randint(100, (9999, 64), generator=generator), torch.arange(64)].sum(1)
    return {"p": p_value(float(logs[0].sum()), exchanged)}


def by_answers(claim: Claim, model: Model) -> dict[str, Any]:
    """The verdicts by logits and by labels alone, for several numbers of images, each as 8 bits."""
    data = open_data("demo")
    rows = []
    for image in range(max(ASKED)):
        pixels = from_8_bits(data.read(7 * image, model.transform).pixels)
        shown = [from_8_bits(to_8_bits(probe)).float() for _, probe in probe_images(claim, image, pixels)]
        logits = model.predict(torch.stack(shown)).logits
        assert logits is not None
        rows.append(logits.double().tolist())
    found = {}
    for count in ASKED:
        for kind in ("logits", "labels"):
            answered = [[row if kind == "logits" else int(np.argmax(row)) for row in image] for image in rows[:count]]
            judged = judge_answers(answers_of(answered, claim.recipe.pairs))
            found[f"{count} images, {kind}"] = {"verdict": judged.finding(LEVEL).verdict, **judged.to_dict()}
    return {"answers": found}


def _save(content: Any, path: Path) -> None:
    temporary = path.with_suffix(".part")
    torch.save(content, temporary)
    temporary.replace(path)


if __name__ == "__main__":
    main()
