"""One 224 x 224 image at model size, p = 2: our batched solver against OSQP patch by patch."""

import time
from pathlib import Path

import numpy as np
import osqp
import scipy.sparse as sp
import torch
from torch import Tensor

from benchmarks.measure import Row, seconds
from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine.basis import find_basis
from nullspace_cli.engine.marks import Mark, Placement, target_image
from nullspace_cli.engine.models import ModelRequest, load_model
from nullspace_cli.engine.solvers.box_l2 import project_affine_box

TOLERANCE = 1e-9
PATCHES = 2
"""OSQP is timed on this many patches of the mark and scaled up to the 49 of the image."""


def rows() -> list[Row]:
    patch_map, nullspace = find_basis(load_model(ModelRequest("demo", device="cpu")))
    logo = draw_logo() / 255
    mark = Mark(logo[..., :3], logo[..., 3], Path("logo"))
    source = torch.from_numpy(draw("val", 4)[0].copy()).permute(2, 0, 1).double() / 255
    x, t = (patch_map.patchify(image) for image in (source, target_image(source, mark, Placement())))
    A = nullspace.row_space.flatten(1)

    solution = project_affine_box(A, x, t, tolerance=TOLERANCE)
    ours = min(seconds(lambda: project_affine_box(A, x, t, tolerance=TOLERANCE)) for _ in range(3))
    marked = torch.nonzero((t - x).abs().amax(1) > 0.1)[:PATCHES, 0].tolist()
    theirs, apart = 0.0, 0.0
    for patch in marked:
        start = time.perf_counter()
        reference = by_osqp(A, x[patch], t[patch])
        theirs += time.perf_counter() - start
        optimum = float((reference - t[patch]).square().sum())
        apart = max(apart, abs(float((solution.value[patch] - t[patch]).square().sum()) - optimum) / optimum)
    print(
        f"watermark: {solution.status}, residual {float(solution.residual.max()):.1e}, "
        f"gap {float(solution.gap.max()):.1e}; optima differ from OSQP's by {apart:.1e}, relatively\n"
    )
    return [
        Row(
            f"watermark, p = 2, {len(x)} patches of 32 x 32",
            ours,
            f"OSQP, {len(marked)} patches scaled up,",
            theirs * len(x) / len(marked),
            "<= 0.04",
        )
    ]


def by_osqp(A: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The same problem for one patch, to an accuracy of 1e-5, at most OSQP's default 4,000 iterations."""
    n = A.shape[1]
    right = (A @ x).numpy()
    solver = osqp.OSQP()
    solver.setup(
        sp.eye(n, format="csc"),
        -t.numpy(),
        sp.csc_matrix(np.vstack([A.numpy(), np.eye(n)])),
        np.concatenate([right, np.zeros(n)]),
        np.concatenate([right, np.ones(n)]),
        verbose=False,
        eps_abs=1e-5,
        eps_rel=1e-5,
        max_iter=4_000,
    )
    return torch.from_numpy(np.asarray(solver.solve().x))
