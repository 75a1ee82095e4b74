"""The inverse of A A^T block by block, along the edges where zeros around the image cut kernels.

There the circular twin knows nothing of A, and what is left of the kernels is the worst conditioned. The grid of
outputs is cut into squares; the outputs of a square that lie near such an edge are a block, whose A A^T is inverted
whole.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nullspace_cli.engine.solvers.image_map import Branch
from nullspace_cli.engine.solvers.readings import Reading, readings

DEPTH = 3
"""Outputs from an edge inwards that are near it, those that are cut among them."""

BLOCK = 800
"""Outputs of a block, about."""


class EdgeBlocks:
    """For outputs of one branch; 0 at those that lie near no edge where kernels are cut."""

    def __init__(self, branch: Branch, size: tuple[int, int]) -> None:
        down, across = readings(branch, size)
        near = _near(down)[:, None] | _near(across)
        self.any = bool(near.any())
        """Whether there are such edges."""
        d, device = len(branch.kernel), near.device
        side = max(2, BLOCK // (DEPTH * d))
        rows, cols = (torch.arange(count, device=device) // side for count in near.shape)
        of_size: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for i in range(int(rows[-1]) + 1):
            for j in range(int(cols[-1]) + 1):
                inside = near & (rows == i)[:, None] & (cols == j)
                if bool(inside.any()):
                    places = inside.flatten().nonzero()[:, 0] + near.numel() * torch.arange(d, device=device)[:, None]
                    inverse = torch.linalg.inv(_gram(branch, down, across, inside))
                    of_size.setdefault(len(inverse), []).append((places.flatten(), inverse))
        self._blocks = [tuple(torch.stack(parts) for parts in zip(*alike, strict=True)) for alike in of_size.values()]

    def __call__(self, outputs: Float[Tensor, "b d oh ow"]) -> Float[Tensor, "b d oh ow"]:
        flat = outputs.flatten(1)
        solved = torch.zeros_like(flat)
        for places, inverses in self._blocks:
            solved[:, places.flatten()] = torch.einsum("kmn,bkn->bkm", inverses, flat[:, places]).flatten(1)
        return solved.view(outputs.shape)


def _near(reading: Reading) -> Bool[Tensor, " outputs"]:
    """Along one axis: outputs within DEPTH of one whose window is not whole."""
    cut = ~(reading != 0).any(2).all(1)
    places = torch.arange(len(cut), device=cut.device)
    return ((places[:, None] - places).abs().lt(DEPTH) & cut).any(1)


def _gram(
    branch: Branch, down: Reading, across: Reading, inside: Bool[Tensor, "oh ow"]
) -> Float[Tensor, "outputs outputs"]:
    """A A^T of the outputs that are `inside`, with what keeps it invertible where they depend on each other."""
    rows, cols = inside.any(1), inside.any(0)
    down, across = (
        reading[chosen][:, :, (reading[chosen] != 0).any(1).any(0)]
        for reading, chosen in ((down, rows), (across, cols))
    )
    half = torch.einsum("dcuv,jvq->dcujq", branch.kernel, across)
    whole = torch.einsum("dcujq,iup->dijcpq", half, down)
    A = whole[:, inside[rows][:, cols]].flatten(2).flatten(0, 1)
    gram = A @ A.mT
    return gram + 1e-9 * gram.diagonal().max() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
