"""What came of fooling a network: what it says of the images, and whether its saliency maps can tell."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine import metrics
from nullspace_cli.engine.adversarial.attack import Attack, AttackSolution
from nullspace_cli.engine.files.orientation import Orientation
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.nullspace.first_layer import FirstLayer
from nullspace_cli.engine.nullspace.sampling import control_noises
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.saliency.methods import Method, SaliencyMaps
from nullspace_cli.engine.saliency.similarity import similarity
from nullspace_cli.engine.transforms.eval_transform import from_8_bits, to_8_bits
from nullspace_cli.engine.watermark.result import Pixels
from nullspace_cli.engine.watermark.verification import Verification, verify, verify_inputs


@dataclass(frozen=True, eq=False)
class Report:
    """One pair done.

    Attributes:
        record: its part of the JSON document.
        pictures: source, target and transformed image as a person sees them, 8 bits, all of one size.
        read: the rows and columns of the pictures that the network reads.
        views: what the network is shown of them, in [0, 1]; bounded, of the files.
        maps: of each method the maps of these three views.
        turn: of all of them, to be seen upright.
    """

    record: dict[str, Any]
    pictures: tuple[Pixels, Pixels, Pixels]
    read: tuple[slice, slice]
    views: Float[Tensor, "3 c h w"]
    maps: Mapping[str, Float[Tensor, "3 gh gw"]]
    turn: Orientation


@full_precision
def measured(
    attack: Attack,
    result: AttackSolution,
    source: Picture,
    saved: Picture,
    methods: Sequence[Method],
    tolerance: float = 0.01,
) -> Report:
    """What the network says of a result, and whether its saliency maps can tell.

    Args:
        saved: the 8-bit result as it was read back.
        tolerance: largest embedding_error that passes verification: of the re-read file, or unbounded of the float
            image.
    """
    network, model, native = attack.network, attack.network.model, attack.size == "native"
    views = torch.stack([result.seen(image) for image in (result.source, result.target, result.image)])
    space = None if result.nullspace == "resize" else network.first_layer
    height, width, _ = result.pixels.shape
    read = model.transform.seen_part(width, height, native=native) if result.bounded else (slice(None),) * 2
    noises = controls(result, space, read, network.request.seed)
    explain = SaliencyMaps(model)
    maps = {method.name: _maps(explain, method, torch.stack([*views, *(views[0] + noises)])) for method in methods}
    if result.bounded:
        pictures = [model.transform.input_pixels(p) for p in (source.pixels, to_8_bits(result.target), saved.pixels)]
    else:
        pictures = [to_8_bits(view) for view in views]
    read_back = torch.stack([from_8_bits(pixels) for pixels in pictures])
    maps_png = {method.name: _maps(explain, method, read_back) for method in methods}
    shown, drawn = (read_back, maps_png) if result.bounded else (views, maps)
    verdict, answers = _verified(attack, result, source, saved, views, read_back)
    named = ("source", "target", "transformed", "preview")
    record = {
        "size": [result.pixels.shape[1], result.pixels.shape[0]],
        "channels": attack.channels,
        "bounded": result.bounded,
        "strength": result.strength,
        "nullspace": result.nullspace,
        "prediction": dict(zip(named, answers, strict=True)) if answers else dict.fromkeys(named),
        **{key: value for key, value in asdict(verdict).items() if key not in ("before", "after")},
        "range": _range(result),
        "likeness": result.likeness._asdict(),
        "saliency": _all_similarities(maps),
        "saliency_png": _all_similarities(maps_png),
        "solver": result.solver,
        "verified": verdict.holds(tolerance),
    }
    return Report(
        record,
        (to_8_bits(result.source), to_8_bits(result.target), result.pixels),
        read,
        shown,
        {name: found[:3] for name, found in drawn.items()},
        source.turn,
    )


def _verified(
    attack: Attack,
    result: AttackSolution,
    source: Picture,
    saved: Picture,
    views: Float[Tensor, "3 c h w"],
    read_back: Float[Tensor, "3 c h w"],
) -> tuple[Verification, list[dict[str, Any] | None] | None]:
    """What the model says of source and result; of bounded ones, of the files.

    With its answers for source, target and result, and for the preview of an unbounded one; None without a head.
    """
    model, first_layer = attack.network.model, attack.network.reading
    if result.bounded:
        verdict = verify(model, first_layer, source, saved)
    else:
        verdict = verify_inputs(model, first_layer, model.transform.to_normalized(views[[0, 2]].float()))
    if verdict.before is None or verdict.after is None:
        return verdict, None
    logits = model.in_full_precision()(model.transform.to_normalized(read_back[1:].float())).logits
    assert logits is not None  # the model has answered
    target, preview = (model.answer(*metrics.top1(row)) for row in logits)
    return verdict, [verdict.before, target, verdict.after, None if result.bounded else preview]


def controls(
    result: AttackSolution, space: FirstLayer | None, read: tuple[slice, slice], seed: int
) -> Float[Tensor, "2 c h w"]:
    """Noises of the norm of what was done to the source: Gaussian, and Gaussian within what the network reads.

    Both as they reach the network. Where the first layers' nullspace was used, the norm is that of the change of
    the network's input, and what it reads is the row space. Where it was the resize's, the norm is that of the change
    of the picture, where it is read, and the noises too are added there; what the network reads are the rows of the
    resize.

    Args:
        space: of the first layers; None for the resize.
        read: the rows and columns of the picture that the network reads.
    """
    generator = torch.Generator().manual_seed(seed)
    if space is not None:
        change = result.seen(result.image) - result.seen(result.source)
        return torch.stack(control_noises(space.read_part, change, generator))
    seen = torch.randn(result.seen(result.source).shape, generator=generator, dtype=torch.float64)
    view = result.view
    assert view is not None  # results at native size have one
    change = result.read(result.image - result.source)
    norm = change[:, *read].norm()
    gaussian = torch.zeros_like(change)
    gaussian[:, *read] = torch.randn(gaussian[:, *read].shape, generator=generator, dtype=torch.float64)
    noises = (noise * (norm / noise.norm()) for noise in (gaussian, view.adjoint(seen)))
    return torch.stack([view.apply(noise) - view.fill for noise in noises])


def _range(result: AttackSolution) -> list[float]:
    """The least and the largest pixel of the result, in [0, 1] pixel units."""
    values = result.pixels / np.float64(255) if result.bounded else result.image
    return [float(values.min()), float(values.max())]


def _maps(explain: SaliencyMaps, method: Method, views: Float[Tensor, "b c h w"]) -> Float[Tensor, "b gh gw"]:
    """The maps of what the model sees in each image: each is asked about its own top-1 class."""
    return explain(explain.model.transform.to_normalized(views).float(), method)


def _all_similarities(maps: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """`_similarities` of each method; None where none was asked for."""
    return {name: _similarities(found) for name, found in maps.items()} or None


def _similarities(maps: Float[Tensor, "b gh gw"]) -> dict[str, dict[str, float | None]]:
    """Of the transformed image's map to the source's and the target's; then of the controls', if any, to the source's.

    Args:
        maps: of the source, the target, the transformed image, and of the source with either noise.
    """
    names = ("source_transformed", "target_transformed", "control", "control_row_space")
    pairs = ((0, 2), (1, 2), (0, 3), (0, 4))
    return {
        name: asdict(similarity(maps[a], maps[b])) for name, (a, b) in zip(names, pairs, strict=True) if b < len(maps)
    }
