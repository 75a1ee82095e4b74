"""How outputs read an image along one axis: padding, strides and a resize as weights, the kernel itself left out.

With R down and S across, output (i, j) of a kernel W is sum_{u v p q} W[u, v] R[i, u, p] S[j, v, q] x[p, q].
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.solvers.image_map import Branch

Reading = Float[Tensor, "_outputs _window _pixels"]
"""How much of each pixel an output finds at each place of its kernel's window."""


def readings(branch: Branch, size: tuple[int, int]) -> tuple[Reading, Reading]:
    """R and S, of images of `size` (height, width)."""
    resizes = (branch.resize.rows, branch.resize.cols) if branch.resize else (None, None)
    (_, *outputs), windows, before = branch.output_size(size), branch.kernel.shape[2:], branch.padding[::2]

    kind: Any = {"dtype": branch.kernel.dtype, "device": branch.kernel.device}

    def along(axis: int) -> Reading:
        resize = resizes[axis]
        read = torch.eye(size[axis], **kind) if resize is None else resize
        steps, window = (torch.arange(count, device=read.device) for count in (outputs[axis], windows[axis]))
        places = branch.stride[axis] * steps[:, None] + window - before[axis]
        inside = (places >= 0) & (places < len(read))
        return torch.where(inside[..., None], read[places.clamp(0, len(read) - 1)], 0.0)

    return along(0), along(1)
