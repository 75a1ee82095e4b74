"""One pair from files to files: what `vitnull attack` runs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from nullspace_cli.engine.adversarial.attack import Attack, AttackResult
from nullspace_cli.engine.adversarial.report import Report, all_similarities, controls, maps_of, value_range, verified
from nullspace_cli.engine.documents.artefacts import Provenance, write_tensors
from nullspace_cli.engine.documents.kinds import FOOLED
from nullspace_cli.engine.files.hashes import sha256_of_each
from nullspace_cli.engine.files.pictures import Picture, encode_like, encode_png, read_picture
from nullspace_cli.engine.files.writing import write_bytes
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.saliency.methods import Method
from nullspace_cli.engine.transforms.evaluation import from_8_bits, to_8_bits
from nullspace_cli.engine.watermark.result import shown_noise


class FoolFiles(NamedTuple):
    """Where the artefacts of one pair go; `exact`, the float image, only if it is wanted."""

    image: Path
    exact: Path | None
    noise: Path
    sheet: Path

    @classmethod
    def of(cls, folder: Path, source: str, target: str, *, exact: bool = True) -> "FoolFiles":
        stem = f"{source}.{target}"
        endings = ("fooled.png", "fooled.safetensors", "noise.png", "sheet.png")
        image, tensors, noise, sheet = (folder / f"{stem}.{ending}" for ending in endings)
        return cls(image, tensors if exact else None, noise, sheet)


@full_precision
def report(
    attack: Attack,
    result: AttackResult,
    source: Picture,
    target: Path,
    files: FoolFiles,
    methods: Sequence[Method],
    *,
    tolerance: float = 0.01,
    force: bool = False,
) -> Report:
    """Write the image, the exact solution and the noise, and measure what was written.

    Args:
        tolerance: largest embedding_error that passes verification: of the re-read file, or unbounded of the float
            image.
    """
    network, model = attack.network, attack.network.model
    like_source = attack.size == "native"
    data = encode_like(source, result.pixels) if like_source else encode_png(result.pixels)
    write_bytes(files.image, data, force=force)
    noise = (result.image - result.source).permute(1, 2, 0).numpy()
    write_bytes(files.noise, encode_png(shown_noise(noise)), force=force)
    if files.exact:
        _save(files.exact, attack, result, source.path, target, force=force)
    saved = read_picture(files.image)
    views = torch.stack([result.seen(image) for image in (result.source, result.target, result.image)])
    space = network.patches if result.nullspace == "patch" else None
    height, width, _ = result.pixels.shape
    read = model.transform.seen_part(width, height, native=like_source) if result.bounded else (slice(None),) * 2
    noises = controls(result, space, read, network.request.seed)
    maps = {method.name: maps_of(model, method, torch.stack([*views, *(views[0] + noises)])) for method in methods}
    if result.bounded:
        pictures = [model.transform.input_pixels(p) for p in (source.pixels, to_8_bits(result.target), saved.pixels)]
    else:
        pictures = [to_8_bits(view) for view in views]
    read_back = torch.stack([from_8_bits(pixels) for pixels in pictures])
    maps_png = {method.name: maps_of(model, method, read_back) for method in methods}
    shown, drawn = (read_back, maps_png) if result.bounded else (views, maps)
    verdict, answers = verified(attack, result, source, saved, views, read_back)
    named = ("source", "target", "transformed", "preview")
    record = {
        "source": str(source.path),
        "target": str(target),
        "size": [result.pixels.shape[1], result.pixels.shape[0]],
        "channels": attack.channels,
        "bounded": result.bounded,
        "strength": result.strength,
        "nullspace": result.nullspace,
        "prediction": dict(zip(named, answers, strict=True)) if answers else dict.fromkeys(named),
        **{key: value for key, value in asdict(verdict).items() if key not in ("before", "after")},
        "range": value_range(result),
        "likeness": result.likeness._asdict(),
        "saliency": all_similarities(maps),
        "saliency_png": all_similarities(maps_png),
        "solver": result.solver,
        "verified": verdict.holds(tolerance),
        "artifacts": {name: str(path) if path else None for name, path in files._asdict().items()},
    }
    return Report(
        record,
        (to_8_bits(result.source), to_8_bits(result.target), result.pixels),
        read,
        shown,
        {name: found[:3] for name, found in drawn.items()},
    )


def _save(path: Path, attack: Attack, result: AttackResult, source: Path, target: Path, *, force: bool) -> None:
    """Write `image`, the solution before rounding, `noise`, `source` and `target`, [3, H, W] in pixel space."""
    model = attack.network.model
    parameters = {
        "size": attack.size,
        "channels": attack.channels,
        "bounded": attack.bounded,
        "norm": attack.norm,
        "strength": result.strength,
        "nullspace": result.nullspace,
        "rounding": attack.rounding if attack.bounded else None,
    }
    parents = sha256_of_each({"source": source, "target": target, "basis": attack.network.basis})
    seed = attack.network.request.seed
    provenance = Provenance(FOOLED, "pixel", model.name, model.weights_sha256, seed, parameters, parents)
    tensors = {
        "image": result.image,
        "noise": result.image - result.source,
        "source": result.source,
        "target": result.target,
    }
    write_tensors(path, tensors, provenance, force=force)
