"""Projection onto the nullspace of whole first layers: iterations with and without a preconditioner, and seconds.

Seconds are the processor's: with OMP_NUM_THREADS=1 those of one core, however busy the machine is with other work.
Kernels are random, but for those of an EfficientNet-Lite0 if VITNULL_REAL names the folder with its weights.
"""

import os
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.measure import Figure
from nullspace_cli.engine.nullspace.independent_kernels import independent_kernels
from nullspace_cli.engine.nullspace.nullity import find_nullity
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap
from nullspace_cli.engine.solvers.null_projection import NullProjection

RTOL = 1.2e-7
"""The machine epsilon of float32."""

TOLERANCE = 1e-13

SIDES = (224, 512)


def rows() -> list[Figure]:
    return [figure for name, branch in stems().items() for side in SIDES for figure in measured(name, branch, side)]


def stems() -> dict[str, Branch]:
    """PiT-Ti's, PVTv2-B0's and LCNet-0.5's geometry; trained kernels eight at a time, which together are injective."""
    found = {
        "PiT-Ti": Branch(kernels(64, 16), (8, 8)),
        "PVTv2-B0": Branch(kernels(32, 7), (4, 4), (3, 3, 3, 3)),
        "LCNet-0.5": Branch(kernels(8, 3), (2, 2), (1, 1, 1, 1)),
    }
    if folder := os.environ.get("VITNULL_REAL"):
        weights = load_file(Path(folder, "tf_efficientnet_lite0.safetensors"))["conv_stem.weight"].double()
        found["EfficientNet-Lite0, kernels 1 to 8"] = Branch(weights[:8], (2, 2), (0, 1, 0, 1))
        found["EfficientNet-Lite0, kernels 9 to 16"] = Branch(weights[8:16], (2, 2), (0, 1, 0, 1))
    return found


def kernels(count: int, side: int) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def measured(name: str, branch: Branch, side: int) -> list[Figure]:
    image_map = ImageMap((branch,), (3, side, side))
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = time.process_time()
    nullity = find_nullity(image_map, RTOL)
    start = time.process_time()
    projection = NullProjection(independent_kernels(image_map, RTOL))
    ready = time.process_time()
    found = projection(images, tolerance=TOLERANCE)
    elapsed = time.process_time() - ready
    what = f"{name}, {side} px"
    figures = [
        Figure(
            f"{what}: nullity",
            f"{start - before:.2f} s",
            besides=f"{nullity.nullity}, {nullity.share:.4f} of all; {nullity.proof}",
        ),
        Figure(
            f"{what}: projection",
            f"{elapsed:.2f} s",
            besides=f"{elapsed / side**2 * 1e6:.1f} us a pixel; set up in {ready - start:.2f} s; "
            f"||A z|| {float(found.residual):.0e} of ||A|| ||x||",
        ),
    ]
    if side == SIDES[0]:
        plain = NullProjection(image_map, preconditioned=False)(images, tolerance=TOLERANCE, max_iterations=1000)
        told = "" if bool(plain.converged) else " (not converged)"
        figures.append(
            Figure(
                f"{what}: iterations",
                f"{found.iterations}",
                f"<= 1/5 of {plain.iterations}{told}",
                f"A A^T applied {found.products} times with the preconditioner, {plain.products} times without",
            )
        )
    return figures
