"""Whose model is this? False claims and power of `vitnull claim`: `python examples/ownership.py FOLDER`.

Trains small ViTs on two data sets, the demo's drawings and Fashion-MNIST, each with a seed and a part of the data, and
holds all of them against the claims of each other: by weights, by logits and labels of 8-bit images, and by what needs
no claim at all, whether both err alike on as many images. Then holds what attacks make of four of them against their
claims. Owners that set thresholds are others than those that are reported, with other seeds and other parts.

Fashion-MNIST is four files, as its authors publish them and Debian's package dataset-fashion-mnist installs them.
Goes on where it was interrupted: FOLDER keeps the weights, and results.jsonl a line for each comparison.
"""

import argparse
import copy
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from ownership_attacks import (
    CHANGES,
    first_layer,
    mixed,
    mixtures,
    noises,
    normalised_otherwise,
    resampled,
    weights_changed,
    with_kernel,
)
from ownership_summary import ASKED, summarise
from torch import Tensor, nn
from torch.nn import functional as F

from nullspace_cli import Model, wrap
from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.nullspace.basis import patch_map_of
from nullspace_cli.engine.ownership.answers import answers_of
from nullspace_cli.engine.ownership.black_box import judge_answers
from nullspace_cli.engine.ownership.claim import Claim, make_claim
from nullspace_cli.engine.ownership.frequencies import from_spectra, spectra
from nullspace_cli.engine.ownership.probes import probe_images
from nullspace_cli.engine.ownership.randomisation import p_value
from nullspace_cli.engine.ownership.verdict import DEFAULT_LEVEL
from nullspace_cli.engine.ownership.white_box import compare
from nullspace_cli.engine.transforms.eval_transform import from_8_bits, to_8_bits

SIZE, PATCH, WIDTH = 32, 8, 64
IMAGES, HELD_OUT = 3000, 10_000
STEPS, TUNING, BATCH, RATE = 700, 150, 64, 2e-3
QUERIES = 24 * 101
"""Images on which an owner errs: as many as the probes of 24 images."""
ALLOWED = 0.02
"""Accuracy that whoever adds noise may lose."""


@dataclass(frozen=True)
class Owner:
    """A network of its own: what it was trained on, and the seed of its initial weights and batches."""

    data: str
    part: int
    seed: int

    def __str__(self) -> str:
        return f"{self.data} {self.part}, seed {self.seed}"


def grid(parts: Iterable[int], seeds: Iterable[int]) -> list[Owner]:
    return [Owner(data, part, seed) for seed, part, data in product(seeds, parts, ("drawings", "fashion"))]


REPORTED, SETTING = grid((0, 1), (1, 2, 3)), grid((2, 3), (11, 12))
ATTACKED = [Owner("drawings", 0, 1), Owner("fashion", 0, 1), Owner("drawings", 1, 2), Owner("fashion", 1, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("ownership"))
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--summary", action="store_true", help="say what was found so far, and do nothing more")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = Results(options.folder / "results.jsonl")
    if not options.summary:
        study = Study(options.folder, options.fashion)
        pairs_of(study, REPORTED, "reported", results)
        for owner in ATTACKED:
            for suspect in study.attacks(owner, done=partial(results.has, "attack", str(owner))):
                results.add("attack", str(owner), suspect.name, study.held(owner, suspect))
        pairs_of(study, SETTING, "setting", results)
        universal(study, results)
    summarise(results.found)


def pairs_of(study: "Study", owners: Sequence[Owner], part: str, results: "Results") -> None:
    for one, other in permutations(owners, 2):
        if not results.has(part, str(one), str(other)):
            found = study.held(one, Suspect(str(other), study.network(other)))
            results.add(part, str(one), str(other), {"relation": relation(one, other), **found})


def relation(one: Owner, other: Owner) -> str:
    if one.seed == other.seed:
        return "same seed, other data"
    return "same data, other seed" if (one.data, one.part) == (other.data, other.part) else "independent"


class Results:
    """What has been found, a line each; what is there already is not done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        whole = [line for line in lines if line.endswith("}")]  # the last may have been cut off
        if whole != lines:
            path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        self.found = [json.loads(line) for line in whole]

    def has(self, kind: str, claim: str, suspect: str) -> bool:
        return any((one["kind"], one["claim"], one["suspect"]) == (kind, claim, suspect) for one in self.found)

    def add(self, kind: str, claim: str, suspect: str, found: dict[str, Any]) -> None:
        line = {"kind": kind, "claim": claim, "suspect": suspect, **found}
        self.found.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            print(json.dumps(line), file=file, flush=True)


@dataclass(frozen=True)
class Suspect:
    """A network whose weights are at hand, and how it answers to images of the owners' size."""

    name: str
    model: Model
    asked: Model | None = None


class Study:
    """Networks, each trained once, and what is found of them."""

    def __init__(self, folder: Path, fashion: Path) -> None:
        self.folder, self.fashion = folder, fashion
        self.images, self.network, self.claim = cache(self._images), cache(self._network), cache(self._claim)
        self.probes, self.errors = cache(self._probes), cache(self._errors)

    def _images(self, data: str, part: int | None) -> tuple[Tensor, Tensor]:
        """A part of a data set to train on, or what is held out: levels [n, 3, SIZE, SIZE], and labels."""
        if data == "fashion":
            found = idx(self.fashion, "t10k" if part is None else "train")
            taken = slice(HELD_OUT) if part is None else slice(part * IMAGES, (part + 1) * IMAGES)
            pixels, labels = (torch.from_numpy(array[taken].copy()) for array in found)
            return F.pad(pixels, [(SIZE - 28) // 2] * 4)[:, None].expand(-1, 3, -1, -1), labels.long()
        path = self.folder / f"drawings-{'held-out' if part is None else part}.pt"
        if not path.exists():
            split, first, count = ("test", 0, HELD_OUT) if part is None else ("train", part * IMAGES, IMAGES)
            drawn = [draw(split, first + i, size=SIZE, hardness=0.3) for i in range(count)]
            pixels = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2).contiguous()
            save((pixels, torch.tensor([label for _, label in drawn])), path)
        images, classes = torch.load(path, weights_only=True)
        return images, classes

    def _network(self, owner: Owner) -> Model:
        """A network whose initial embedding is small, so that most of what is left is learned."""

        def make() -> nn.Module:
            module = vit(owner.seed)
            with torch.no_grad():
                module.get_parameter("patch_embed.proj.weight").mul_(0.1)
            train(module, *self.images(owner.data, owner.part), owner.seed * 100 + owner.part, STEPS, RATE)
            return module

        return wrapped(self.kept(str(owner), make), str(owner))

    def kept(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        path = self.folder / f"{name}.pt"
        if not path.exists():
            save(make().state_dict(), path)
        module = vit(0)
        module.load_state_dict(torch.load(path, weights_only=True))
        return module.eval()

    def _claim(self, owner: Owner) -> Claim:
        return make_claim(self.network(owner))

    def _probes(self, owner: Owner) -> Tensor:
        """The probes of the owner's claim on images that were held out, as 8 bits: [image, probe, c, h, w]."""
        images, _ = self.images(owner.data, None)
        return shown(self.claim(owner), [images[7 * i] for i in range(max(ASKED))])

    def _errors(self, owner: Owner) -> tuple[Tensor, Tensor]:
        """Images that were held out and on which an owner errs, and what it says of them."""
        images, labels = self.images(owner.data, None)
        said = logits(self.network(owner), images.float() / 255).argmax(1)
        wrong = (said != labels).nonzero()[:QUERIES, 0]
        return images[wrong].float() / 255, said[wrong]

    def held(self, owner: Owner, suspect: Suspect) -> dict[str, Any]:
        """A suspect against an owner's claim."""
        asked = suspect.asked or suspect.model
        images, labels = self.errors(owner)
        same = float((logits(asked, images).argmax(1) == labels).double().mean())
        held_out, truth = self.images(owner.data, None)
        right = logits(asked, held_out[:2000].float() / 255).argmax(1) == truth[:2000]
        return {
            "accuracy": float(right.double().mean()),
            "weights": by_weights(self.claim(owner), suspect.model),
            "answers": by_answers(self.claim(owner), self.probes(owner), asked),
            "same errors": {"of": len(labels), "share": same},
            "equal power": by_power(self.claim(owner), suspect.model),
        }

    def attacks(self, owner: Owner, done: Callable[[str], bool]) -> Iterator[Suspect]:
        """What becomes of a network in other hands, less what was done before."""
        model = self.network(owner)
        other = self.images(owner.data, 1 - owner.part)

        def tuned(rate: float, part: str = "") -> nn.Module:
            module = copy.deepcopy(model.module).train()
            for name, weight in module.named_parameters():
                weight.requires_grad_(name.startswith(part))
            return train(module, *other, 7, TUNING, rate)

        def distilled() -> nn.Module:
            taught = logits(model, other[0].float() / 255).softmax(1)
            return train(vit(owner.seed + 1000), other[0], taught, 7, STEPS, RATE)

        made: dict[str, Callable[[], nn.Module]] = {
            "head fine-tuned": partial(self.kept, f"{owner} head", partial(tuned, 1e-3, "head.")),
            **{
                f"fine-tuned, rate {rate:g}": partial(self.kept, f"{owner} {rate:g}", partial(tuned, rate))
                for rate in (3e-4, 1e-3, 3e-3)
            },
            **{name: partial(weights_changed, model.module, change) for name, change in CHANGES.items()},
            **{name: partial(mixed, model.module, M) for name, M in mixtures(WIDTH).items()},
            "distilled": partial(self.kept, f"{owner} distilled", distilled),
        }
        for name, make in made.items():
            if not done(name):
                yield Suspect(name, wrapped(make(), name))
        if not done("other mean and std"):
            yield Suspect("other mean and std", normalised_otherwise(model))
        kernel = model.module.get_parameter("patch_embed.proj.weight").detach()
        for name, direction in noises(kernel, self.claim(owner)).items():
            if not done(name):
                yield Suspect(name, self.with_noise(owner, direction))
        for size in (6, 10, 12):
            name, side = f"patches of {size}", SIZE // PATCH * size
            if not done(name):
                module = resampled(model.module, size)
                asked = nn.Sequential(nn.UpsamplingBilinear2d(side), module)  # who asks has images of the owner's size
                yield Suspect(name, wrapped(module, name, side), wrapped(asked, name))

    def with_noise(self, owner: Owner, direction: Tensor) -> Model:
        """W + eps N at the largest eps that loses at most `ALLOWED` of the accuracy."""
        model = self.network(owner)
        held_out, truth = self.images(owner.data, None)
        images = held_out[2000:4000].float() / 255

        kernel = model.module.get_parameter("patch_embed.proj.weight").detach()

        def changed(eps: float) -> Model:
            return wrapped(with_kernel(model.module, kernel + eps * direction), f"noise of {eps:.3g}")

        def lost(eps: float) -> float:
            right = [logits(one, images).argmax(1) == truth[2000:4000] for one in (model, changed(eps))]
            return float(right[0].double().mean() - right[1].double().mean())

        low, high = 0.0, 0.25
        while lost(high) <= ALLOWED and high < 64:
            low, high = high, 2 * high
        for _ in range(5):
            middle = (low + high) / 2
            low, high = (middle, high) if lost(middle) <= ALLOWED else (low, middle)
        return changed(low)


def universal(study: Study, results: Results) -> None:
    """A malicious claim to no network at all: the most one-sided noise there is for networks that are known.

    Of M, the sum of their A^T A, and its mirror image J M J: the negative half of M - J M J is called null.
    """
    known = [study.network(owner) for owner in SETTING]
    read = torch.cat([A / A.square().sum().sqrt() for A in map(matrix_of, known)])
    M = read.mT @ read
    mirrored = M.view(3, PATCH, PATCH, 3, PATCH, PATCH).flip(2, 5).view_as(M)
    values, vectors = torch.linalg.eigh(M - mirrored)
    kernel = vectors[:, values > 0].mT.unflatten(1, (3, PATCH, PATCH)).float()
    claim = make_claim(first_layer(known[0], kernel))
    for kind, owners in (("universal", REPORTED), ("universal, known", SETTING)):
        for owner in owners:
            if not results.has(kind, "universal", str(owner)):
                found = by_weights(claim, study.network(owner))
                results.add(kind, "universal", str(owner), {"weights": found})


def idx(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28] and labels of Fashion-MNIST."""
    try:
        images = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    except FileNotFoundError as error:
        raise SystemExit(f"There is no {error.filename}. Give --fashion, a folder of Fashion-MNIST's files.") from error
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def vit(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    module: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=10, **arguments)
    return module


def normalized(images: Tensor) -> Tensor:
    """Levels, by a mean and std of a half."""
    return images.float() / 127.5 - 1


def train(
    module: nn.Module,
    images: Tensor,
    targets: Tensor,
    seed: int,
    steps: int,
    rate: float,
    *,
    batch: int = BATCH,
    read: Callable[[Tensor], Tensor] = normalized,
) -> nn.Module:
    """Train what requires gradients, on labels or on probabilities."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        seen = read(images[chosen])
        seen = seen.flip(3) if torch.rand((), generator=generator) < 0.5 else seen
        loss = F.cross_entropy(module(seen), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module


def wrapped(module: nn.Module, name: str, size: int = SIZE) -> Model:
    module = module.eval().requires_grad_(False)
    half = (0.5,) * 3
    return wrap(module, mean=half, std=half, input_size=(3, size, size), classes=10, name=name, batch_size=256)


def logits(model: Model, images: Tensor) -> Tensor:
    """Of images in [0, 1]; of a network without a head its features."""
    found = model.predict(images)
    return found.features if found.logits is None else found.logits


def matrix_of(model: Model) -> Tensor:
    """A first layer, for differences of pixels: [d, n]."""
    patch_map = patch_map_of(model)
    assert patch_map is not None
    return patch_map.matrix("pixel")


def save(content: Any, path: Path) -> None:
    temporary = path.with_suffix(".part")
    torch.save(content, temporary)
    temporary.replace(path)


def shown(claim: Claim, images: Sequence[Tensor]) -> Tensor:
    """The probes of a claim on images of levels, as 8 bits: [image, probe, c, h, w]."""
    made = [[probe for _, probe in probe_images(claim, i, image.double() / 255)] for i, image in enumerate(images)]
    return torch.stack([torch.stack([from_8_bits(to_8_bits(probe)) for probe in one]) for one in made]).float()


def by_weights(claim: Claim, model: Model) -> dict[str, Any]:
    found = compare(claim, model)
    return {"verdict": found.finding(DEFAULT_LEVEL).verdict, **found.to_dict()}


def by_answers(claim: Claim, probes: Tensor, model: Model, counts: Sequence[int] = ASKED) -> dict[str, Any]:
    """The verdicts by logits and by labels alone, for several numbers of images."""
    rows = logits(model, probes.flatten(0, 1)).double().unflatten(0, probes.shape[:2])
    found = {}
    for count in counts:
        for kind, said in (("logits", rows.tolist()), ("labels", rows.argmax(2).tolist())):
            judged = judge_answers(answers_of(said[:count], claim.recipe.pairs))
            found[f"{count} {kind}"] = {"verdict": judged.finding(DEFAULT_LEVEL).verdict, **judged.to_dict()}
    return found


def by_power(claim: Claim, model: Model) -> dict[str, Any]:
    """What `claim` does not do: null vectors beside others of equal power at each frequency and colour.

    T = sum_i log(||A v_i||^2 / mean_j ||A v_ij||^2), v_ij with random signs of its own; p by exchanging v_i and v_ij.
    """
    matrix, rows = matrix_of(model), claim.row_space.flatten(1)
    if matrix.shape[1] != rows.shape[1]:
        return {"p": None}
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(64, rows.shape[1], generator=generator, dtype=torch.float64)
    null = spectra((white - (white @ rows.mT) @ rows).unflatten(1, claim.row_space.shape[1:]))
    signs = 2.0 * torch.randint(2, (100, *null.shape), generator=generator) - 1.0
    signs[0] = 1.0
    read = torch.stack([(from_spectra(null * one).flatten(1) @ matrix.mT).square().sum(1) for one in signs])
    logs = (read / read.mean(0)).log()
    exchanged = logs[torch.randint(100, (9999, 64), generator=generator), torch.arange(64)].sum(1)
    return {"p": p_value(float(logs[0].sum()), exchanged)}


if __name__ == "__main__":
    main()
