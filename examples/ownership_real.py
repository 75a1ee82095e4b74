"""A published ViT-S/14 against what becomes of it: `python examples/ownership_real.py FILE`, its weights.

By weights against what becomes of its first layer, and against what has its spectrum and colours alone; by its answers
to 8-bit images, too, against networks as wholes. --other NAME FILE is one without kinship, tf_efficientnet_lite0, say.
Goes on where it was interrupted: FOLDER keeps fine-tuned weights, and real.jsonl a line for each comparison.
"""

import argparse
import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ownership import Results, by_answers, by_weights, logits, save, shown, train
from ownership_attacks import CHANGES, first_layer, mixed, mixtures, noises, weights_changed, with_kernel
from timm.layers import resample_patch_embed
from torch import Tensor, nn
from torch.nn import functional as F

from nullspace_cli import Model, load_model, wrap
from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.ownership.claim import Claim, make_claim

NAME = "vit_small_patch14_dinov2"
SIZE, ASKED = 98, (2, 8, 16)
"""Pixels of the images that are asked about, seven patches a side for the sake of time, and how many they are."""
TUNING, BATCH, DRAWINGS = 40, 16, 640


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("ownership"))
    parser.add_argument("--other", nargs=2, metavar=("NAME", "FILE"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = Results(options.folder / "real.jsonl")
    model = load_model(NAME, checkpoint=options.checkpoint, device="cpu", img_size=224)
    claim = make_claim(model)
    for name, kernel in kernels(model, claim):
        if not results.has("first layer", model.name, name):
            found = by_weights(claim, first_layer(model, kernel.contiguous()))
            results.add("first layer", model.name, name, {"weights": found})
    images = [torch.from_numpy(draw("test", i, size=SIZE)[0]).permute(2, 0, 1) for i in range(max(ASKED))]
    probes = shown(claim, images)
    first = next(networks(model, claim, options.folder, None))[1]()
    for name, suspect in networks(model, claim, options.folder, options.other):
        if not results.has("network", model.name, name):
            one = suspect()
            found = {"weights": by_weights(claim, one), "answers": by_answers(claim, probes, one, ASKED)}
            own, its = logits(first, probes[:, 0]), logits(one, probes[:, 0])
            if own.shape == its.shape:
                found["cosine"] = float(F.cosine_similarity(own, its).mean())
            results.add("network", model.name, name, found)
    for line in results.found:
        answers = [f"| {key}: {said(one, 'null_to_mirrored')}" for key, one in line.get("answers", {}).items()]
        like = f"| cosine {line['cosine']:.4f}" if "cosine" in line else ""
        print(f"{line['kind']:12} {line['suspect']:24} {said(line['weights'], 'likeness')}", like, *answers)


def said(found: dict[str, Any], of: str) -> str:
    return " ".join([found["verdict"], *(f"{found[key]:.3g}" for key in (of, "p") if found[key] is not None)])


def kernels(model: Model, claim: Claim) -> Iterator[tuple[str, Tensor]]:
    """What becomes of a first layer, and what is not made of it but is like it."""
    kernel = model.module.get_parameter("patch_embed.proj.weight").detach()
    generator = torch.Generator().manual_seed(5)
    yield "itself", kernel
    for name, change in CHANGES.items():
        yield name, change(kernel)
    for name, M in mixtures(len(kernel)).items():
        yield name, (M @ kernel.double().flatten(1)).float().view_as(kernel)
    for name, noise in noises(kernel, claim).items():
        for share in (0.03, 0.1, 0.3, 1.0):
            yield f"{share:.0%} {name}", kernel + share * noise
    for size in (10, 12, 18, 20):
        yield f"patches of {size}", resample_patch_embed(kernel, [size, size])
    yield "mirrored", kernel.flip(3)
    yield "upside down", kernel.flip(2)
    yield "transposed", kernel.transpose(2, 3)
    yield "transposed otherwise", kernel.transpose(2, 3).flip(2, 3)
    yield "turned", torch.rot90(kernel, 1, (2, 3))
    yield "random", torch.randn(kernel.shape, generator=generator)


def networks(
    model: Model, claim: Claim, folder: Path, other: tuple[str, str] | None
) -> Iterator[tuple[str, partial[Model]]]:
    """What becomes of a network as a whole, and networks without kinship; made where they are asked for."""
    small: Any = copy.deepcopy(model.module)
    small.set_input_size(img_size=(SIZE, SIZE))
    std, mean = model.transform.std, model.transform.mean
    ready = partial(wrap, mean=mean, std=std, input_size=(3, SIZE, SIZE), batch_size=64)
    yield "itself", partial(ready, small)
    for rate in (1e-5, 1e-4):
        yield f"fine-tuned, rate {rate:g}", partial(tuned, model, small, rate, folder / f"real {rate:g}.pt")
    kernel = small.patch_embed.proj.weight.detach()
    yield "10% null noise", partial(ready, with_kernel(small, kernel + 0.1 * noises(kernel, claim)["null noise"]))
    if other:
        yield other[0], partial(load_model, other[0], checkpoint=other[1], device="cpu")
    yield "random weights", partial(load_model, NAME, pretrained=False, device="cpu", seed=1, img_size=SIZE)
    yield "mixed", partial(ready, mixed(small, mixtures(small.embed_dim)["mixed"]))
    for name, change in CHANGES.items():
        yield name, partial(ready, weights_changed(small, change))


def tuned(model: Model, small: nn.Module, rate: float, path: Path) -> Model:
    """All weights trained on drawings, with a head for their classes."""
    module: Any = copy.deepcopy(small)
    module.reset_classifier(10)
    if not path.exists():
        drawn = [draw("train", i, size=SIZE, hardness=0.3) for i in range(DRAWINGS)]
        images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
        labels = torch.tensor([label for _, label in drawn])

        def read(levels: Tensor) -> Tensor:
            return model.transform.to_normalized(levels.float() / 255)

        train(module.train().requires_grad_(), images, labels, 7, TUNING, rate, batch=BATCH, read=read)
        save(module.state_dict(), path)
    module.load_state_dict(torch.load(path, weights_only=True))
    mean, std = model.transform.mean, model.transform.std
    return wrap(module.eval(), mean=mean, std=std, input_size=(3, SIZE, SIZE), classes=10, batch_size=64)


if __name__ == "__main__":
    main()
