"""The nullspace of ViT-S/32's patch embedding in float64: ours against `scipy.linalg.null_space`."""

import scipy.linalg
import torch

from benchmarks.measure import Row, in_turns
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.decomposition import split_space

RTOL = 1e-7


def rows() -> list[Row]:
    model = load_model(ModelRequest("vit_small_patch32_224", pretrained=False, kwargs={"depth": 1}, device="cpu"))
    A = find_basis(model).patch_map.matrix("pixel")
    reference = A.numpy()
    ours, theirs = in_turns(lambda: split_space(A, RTOL), lambda: scipy.linalg.null_space(reference, rcond=RTOL), 7)
    _, null, sigma = split_space(A, RTOL)
    oracle = torch.from_numpy(scipy.linalg.null_space(reference, rcond=RTOL))
    apart = float((null.mT @ null - oracle @ oracle.mT).abs().max())
    residuals = [float((A @ basis).norm(dim=0).max() / sigma.max()) for basis in (null.mT, oracle)]
    print(f"basis: projectors differ by {apart:.1e}; largest ||A v|| / sigma_max: ours {residuals[0]:.1e}, "
          f"scipy {residuals[1]:.1e}")  # fmt: skip
    return [Row("nullspace of ViT-S/32, 384 x 3072", ours, "scipy.linalg.null_space", theirs, "<= 0.6")]
