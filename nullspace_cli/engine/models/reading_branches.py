"""What a learned layer reads, as a convolution of the image: its kernel, and where it lies.

Found in two ways, and tested by whoever uses it. Where a convolution reads the image as it is, or padded, resized or in
other colours, its own weight is the kernel. Where pixels were moved to channels or to tokens first (unfolds, fixed
transforms), the kernel of one place is read off by gradients, and its shift to the next place gives the stride.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.models.reading_probe import Arrangement, Reading, probed, same
from nullspace_cli.engine.models.reading_tape import Step, Tape
from nullspace_cli.engine.solvers.image_map import Branch, Resize

COMB = 64
"""Pixels between two whose resizes are had at once: those do not meet."""


class Convolution(NamedTuple):
    """The weight of a layer and how it is laid on what it reads; a linear layer's is that of a 1 x 1 window."""

    weight: Float[Tensor, "d n kh kw"]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]


def reading_of(tape: Tape, reader: Step) -> Reading | None:
    """The branch that a reader is, if it is one; that it is has to be tested."""
    layer, seen = convolution_of(reader), tape.read_by(reader, torch.zeros(1, *tape.input_size, dtype=torch.float64))
    if reader.operation is F.conv2d and seen.ndim == 4 and len(seen) == 1:
        branch = _direct(tape, reader, layer)
        if branch:
            d, height, width = branch.output_size(tape.input_size[1:])
            return Reading(branch, Arrangement(1, (height, width, d), (2, 0, 1), (d, height, width)))
    return _probed(tape, reader, layer)


def _probed(tape: Tape, reader: Step, layer: Convolution) -> Reading | None:
    """A layer of whatever was made of the image."""
    pointwise = layer.weight.shape[2:] == (1, 1) and layer.stride == (1, 1) and not any(layer.padding)
    image = torch.zeros(1, *tape.input_size, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        # A pointwise layer mixes what is at one place; from what it reads the way back to the image is shorter.
        values = tape.read_by(reader, image) if pointwise else tape.play(image)[reader.results[0]]
    channel = values.ndim - (1 if reader.operation is F.linear else 3)
    return probed(image, values, channel, layer.weight[:, :, 0, 0] if pointwise else None)


def convolution_of(reader: Step) -> Convolution:
    """A reader's weight without groups and dilation, in float64, and its stride and padding."""
    if reader.operation is F.linear:
        return Convolution(weight_of(reader).double()[:, :, None, None], (1, 1), (0, 0, 0, 0))
    return _convolution(*reader.args, **reader.kwargs)


def weight_of(reader: Step) -> Tensor:
    """The weight as the layer uses it."""
    weight: Tensor = reader.args[1] if len(reader.args) > 1 else reader.kwargs["weight"]
    return weight.detach().cpu()


def _convolution(
    input: object,
    weight: Tensor,
    bias: object = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Convolution:
    kernel, (across, down) = weight.detach().cpu().double(), _pair(dilation)[::-1]
    d, n, kh, kw = kernel.shape
    height, width = (kh - 1) * down + 1, (kw - 1) * across + 1
    dense = kernel.new_zeros(groups, d // groups, groups, n, height, width)
    for group, part in enumerate(kernel.chunk(groups)):
        dense[group, :, group, :, ::down, ::across] = part
    if isinstance(padding, str):
        rows, cols = (height - 1, width - 1) if padding == "same" else (0, 0)
        edges = (rows // 2, rows - rows // 2, cols // 2, cols - cols // 2)
    else:
        edges = (_pair(padding)[0],) * 2 + (_pair(padding)[1],) * 2
    return Convolution(dense.reshape(d, groups * n, height, width), _pair(stride), edges)


def _direct(tape: Tape, reader: Step, layer: Convolution) -> Branch | None:
    """A convolution of what is the image up to its colours, zeros around it, and a separable resize."""
    if reader.args[0].number == 0:
        return Branch(layer.weight, layer.stride, layer.padding)
    found = _separable(lambda image: tape.read_by(reader, image), tape.input_size)
    if found is None:
        return None
    mix, resize = found
    kernel = torch.einsum("dnhw,nc->dchw", layer.weight, mix)
    edges = (*_shift(resize.rows), *_shift(resize.cols))
    # A crop is not undone by zeros.
    if None not in edges and (min(edges) >= 0 or not any(layer.padding)):
        around = tuple(edge + own for edge, own in zip(edges, layer.padding, strict=True))
        return Branch(kernel, layer.stride, around)
    return Branch(kernel, layer.stride, layer.padding, resize)


def _separable(
    become: Callable[[Tensor], Tensor], input_size: tuple[int, int, int]
) -> tuple[Float[Tensor, "n c"], Resize] | None:
    """What the image becomes, as other colours of its resize; None where it is not that."""
    c, *sides = input_size
    nothing = become(torch.zeros(1, *input_size, dtype=torch.float64))

    def change(channel: int, pixels: Float[Tensor, "h w"]) -> Float[Tensor, "n H W"]:
        image = torch.zeros(1, *input_size, dtype=torch.float64)
        image[0, channel] = pixels
        return (become(image) - nothing)[0]

    ones = [torch.ones(side, dtype=torch.float64) for side in sides]
    i, j = nothing.shape[2] // 2, nothing.shape[3] // 2
    mix = torch.stack([change(channel, torch.outer(*ones))[:, i, j] for channel in range(c)], 1)
    n, channel = divmod(int(mix.abs().argmax()), c)
    generator = torch.Generator().manual_seed(0)
    random = (torch.rand(side, generator=generator, dtype=torch.float64) for side in sides)
    product = change(channel, torch.outer(*random))
    one = product[n] * product[n, i, j]
    if mix[n, channel] == 0 or not same(one, torch.outer(product[n, :, j], product[n, i])):
        return None
    if not same(product * product[n, i, j], product[:, i, j, None, None] * product[n]):
        return None
    rows = _combed(lambda comb: change(channel, torch.outer(comb, ones[1]))[n, :, j], sides[0]) / mix[n, channel]
    cols = _combed(lambda comb: change(channel, torch.outer(ones[0], comb))[n, i], sides[1]) / mix[n, channel]
    image = torch.randn(1, *input_size, generator=generator, dtype=torch.float64)
    expected = torch.einsum("nc,chw->nhw", mix, (rows @ image @ cols.mT)[0])
    return (mix, Resize(rows, cols)) if same((become(image) - nothing)[0], expected) else None


def _combed(become: Callable[[Tensor], Tensor], length: int) -> Float[Tensor, "m n"]:
    """The matrix of a resize of `length` numbers, each of which goes no further than half a `COMB` from its place."""
    found = []
    for first in range(min(COMB, length)):
        comb = torch.zeros(length, dtype=torch.float64)
        comb[first::COMB] = 1
        found.append(become(comb))
    places = torch.arange(len(found[0]), dtype=torch.float64)
    # In pixels of what is resized; of what is padded they are off by as much as is added.
    places = (places + 0.5) * (length / len(places)) - 0.5
    matrix = torch.zeros(len(places), length, dtype=torch.float64)
    for first, column in enumerate(found):
        nearest = ((places - first) / COMB).round().clamp(0, (length - 1 - first) // COMB).long() * COMB + first
        matrix[torch.arange(len(places)), nearest] = column
    return matrix


def _shift(matrix: Float[Tensor, "m n"]) -> tuple[int, int] | tuple[None, None]:
    """How many zeros a matrix puts before and after what it is given (negative: how many it leaves out), if it does."""
    m, n = matrix.shape
    places = matrix.nonzero()
    before = int(places[0, 0] - places[0, 1]) if len(places) else 0
    shifted = torch.zeros_like(matrix)
    shifted.diagonal(-before).fill_(1)
    return (before, m - n - before) if torch.equal(matrix, shifted) else (None, None)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
