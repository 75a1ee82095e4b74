"""How a network first touches the image: found by watching one forward pass, not by knowing architectures.

All layers that read the image before anything else has are one map of it, their outputs side by side. If that map is
affine, what lies in the nullspace of its linear part changes the image and nothing that the network ever sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import lcm
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nullspace_cli.engine.models.reading_branches import convolution_of, reading_of, weight_of
from nullspace_cli.engine.models.reading_probe import EXACT, Reading
from nullspace_cli.engine.models.reading_tape import Step, Tape, record
from nullspace_cli.engine.runtime.autograd import differentiating
from nullspace_cli.engine.runtime.precision import stored_eps
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap

StemKind = Literal["patch", "affine", "not_affine"]


@dataclass(frozen=True)
class Stem:
    """The learned layers that read the image before any other learned layer has.

    Attributes:
        kind: "patch" for one linear map over disjoint patches, "affine" for any other affine map that is made of
            convolutions, "not_affine" else.
        names: the layers' names in the module.
        layers: the same with what they are, for messages.
        reason: of "not_affine", what is in the way.
        image_map: the linear part of the layers, float64, of normalised images of the model's input size.
        weight: for "patch", the kernel [d, c, r_h, r_w], float64: of all layers, one after another.
        stored_eps: machine epsilon of the precision that the layers' weights are stored in.
    """

    kind: StemKind
    names: tuple[str, ...]
    layers: tuple[str, ...]
    reason: str = ""
    image_map: ImageMap | None = None
    weight: Float[Tensor, "d c rh rw"] | None = None
    stored_eps: float = 0.0


def find_stem(module: nn.Module, input_size: tuple[int, int, int]) -> Stem:
    """Run the module once on an image of `input_size` (c, h, w) and see which layers read it first, and as what map."""
    return stem_of(record(module, input_size), type(module).__name__)


@differentiating
def stem_of(tape: Tape, network: str) -> Stem:
    """The map that a recording's readers are, tested in float64 on other images by the very operations it has.

    Args:
        network: what to call a reader that is the network itself, and no layer of it.
    """
    names = tuple(reader.layer for reader in tape.readers)
    layers = tuple(f"{reader.layer or network}: {_describe(reader)}" for reader in tape.readers)
    reason = _in_the_way(tape)
    if reason:
        return Stem("not_affine", names, layers, reason)
    image, nothing = tape.play(_noise(tape, 3)), tape.play(torch.zeros(1, *tape.input_size, dtype=torch.float64))
    branches = []
    for reader in tape.readers:
        reading, number = reading_of(tape, reader), reader.results[0]
        if reading is None or not _is_read_so(reading, image[0], image[number], nothing[number]):
            where = reader.layer or "the network itself"
            return Stem("not_affine", names, layers, f"{where} reads it by no convolution, however it is laid out")
        branches.append(reading.branch)
    image_map = ImageMap(tuple(branches), tape.input_size)
    weight = _patch_weight(image_map)
    eps = max(stored_eps(weight_of(reader)) for reader in tape.readers)
    return Stem("affine" if weight is None else "patch", names, layers, "", image_map, weight, eps)


def _in_the_way(tape: Tape) -> str:
    """Why what the layers read of the image is no affine function of it; "" where it is one."""
    if not tape.readers:
        return "no convolution and no linear layer reads it"
    if tape.stray:
        return f"{tape.stray} takes it beside what a layer has read of it, or turns it into numbers to decide by"
    x, y = (_noise(tape, seed) for seed in (1, 2))
    played = [tape.play(image) for image in (x + y, x, y, torch.zeros_like(x))]

    def off(step: Step) -> bool:
        for number in step.results:
            both, one, other, none = (known[number] for known in played)
            largest = max(float(term.abs().max()) for term in (both, one, other, none))
            if not float((both - one - other + none).abs().max()) <= EXACT * largest:
                return True
        return False

    if any(off(reader) for reader in tape.readers):
        return f"{next(step for step in tape.steps if off(step))} is not an affine function of it"
    return ""


def _is_read_so(reading: Reading, image: Float[Tensor, "1 c h w"], values: Tensor, nothing: Tensor) -> bool:
    """Whether a branch, and where its outputs are said to be, is what a layer reads of an image that neither knows."""
    expected = reading.branch.forward(image)[0]
    if values.numel() != expected.numel():
        return False
    change = reading.arranged(values - nothing)
    return bool((change - expected).abs().max() <= EXACT * torch.maximum(values.abs().max(), nothing.abs().max()))


def _noise(tape: Tape, seed: int) -> Float[Tensor, "1 c h w"]:
    return torch.randn(1, *tape.input_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _patch_weight(image_map: ImageMap) -> Float[Tensor, "d c rh rw"] | None:
    """All branches as one kernel of disjoint patches, from the corner on; None where a window lies in no patch."""
    branches, (_, *size) = image_map.branches, image_map.input_size
    patch = tuple(lcm(*(branch.stride[axis] for branch in branches)) for axis in (0, 1))
    for branch in branches:
        (kh, kw), (sh, sw), (top, _, left, _) = branch.kernel.shape[2:], branch.stride, branch.padding
        inside = 0 <= -top <= sh - kh and 0 <= -left <= sw - kw
        if branch.resize or not inside or branch.output_size((size[0], size[1]))[1:] != (size[0] // sh, size[1] // sw):
            return None
    return torch.cat([part for branch in branches for part in _in_patch(branch, patch)])


def _in_patch(branch: Branch, patch: tuple[int, ...]) -> Iterator[Float[Tensor, "d c rh rw"]]:
    """The windows of a branch that lie in one patch, each as a kernel of the whole patch."""
    (d, c, kh, kw), (top, _, left, _) = branch.kernel.shape, branch.padding
    for row, column in product(*(range(0, patch[axis], branch.stride[axis]) for axis in (0, 1))):
        part = branch.kernel.new_zeros(d, c, *patch)
        part[:, :, row - top : row - top + kh, column - left : column - left + kw] = branch.kernel
        yield part


def _describe(reader: Step) -> str:
    if reader.operation is F.linear:
        d, n = weight_of(reader).shape
        return f"linear {n} -> {d}"
    layer = convolution_of(reader)
    (d, n), (kh, kw), (sh, sw) = layer.weight.shape[:2], weight_of(reader).shape[2:], layer.stride
    return f"convolution {n} -> {d}, window {kh} x {kw}, stride {sh} x {sw}"
