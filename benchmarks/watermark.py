"""The watermark problem of one 224 x 224 image at model size: all its patches at once against one after the other."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import osqp
import scipy.sparse as sp
import torch
from jaxtyping import Float
from scipy.optimize import LinearConstraint, linprog, minimize
from torch import Tensor

from benchmarks.measure import Row, seconds
from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.solvers.box_projection import project_affine_box
from nullspace_cli.engine.solvers.interior_point import solve_affine_box
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.mark_style import MODEL_PERIOD, visible_tint
from nullspace_cli.engine.watermark.marks import TILE_SCALE, Mark, Placement

CHOSEN = (24, 12)
"""The patches that OSQP solves; SLSQP and HiGHS, which take far longer, solve the first of them."""

SLSQP_ITERATIONS = 4


class Problem(NamedTuple):
    """For each patch: minimise ||z - t||_p subject to A z = A x, 0 <= z <= 1; B spans the nullspace of A."""

    A: Float[Tensor, "rank n"]
    B: Float[Tensor, "nullity n"]
    x: Float[Tensor, "p n"]
    t: Float[Tensor, "p n"]


def rows() -> list[Row]:
    problem = make_problem()
    return [*by_norm_2(problem), by_norm_1(problem)]


def make_problem() -> Problem:
    """ViT-S/32 with random weights, and the outline of a logo tiled all over a drawing, so that no patch is idle."""
    request = ModelRequest("vit_small_patch32_224", pretrained=False, kwargs={"depth": 1}, device="cpu")
    patch_map, nullspace = find_basis(load_model(request))
    A, B = nullspace.row_space.flatten(1), nullspace.basis.flatten(1)
    logo = draw_logo() / 255
    design = Design(Mark(logo[..., :3], logo[..., 3], Path("logo")), Placement("tile", scale=TILE_SCALE))
    source = torch.from_numpy(draw("val", 4)[0].copy()).permute(2, 0, 1).double() / 255
    tint = visible_tint(PatchSpace(patch_map, A).read_part, patch_map.patch_size, MODEL_PERIOD)
    target = design.target(source, "outline", MODEL_PERIOD, tint)
    return Problem(A, B, patch_map.patchify(source), patch_map.patchify(target))


def by_norm_2(problem: Problem) -> list[Row]:
    A, _, x, t = problem
    solution = project_affine_box(A, x, t)
    ours = min(seconds(lambda: project_affine_box(A, x, t)) for _ in range(3))
    optimum = (solution.value - t).norm(dim=1)
    by_osqp, osqp_seconds = run_osqp(problem)
    apart = max(abs(float((z - t[i]).norm() / optimum[i]) - 1) for i, z in zip(CHOSEN, by_osqp, strict=True))
    print(
        f"p = 2: {solution.status}, residual {float(solution.residual.max()):.1e}, gap {float(solution.gap.max()):.1e}"
        f"; optima differ from OSQP's by {apart:.1e}, relatively"
    )
    by_slsqp, slsqp_seconds = run_slsqp(problem)
    above = float((by_slsqp - t[CHOSEN[0]]).norm() / optimum[CHOSEN[0]]) - 1
    print(
        f"SLSQP: {slsqp_seconds:.1f} s an iteration of one patch, in {problem.B.shape[0]} coefficients; extrapolated "
        f"is one iteration for each of {len(t)} patches. After {SLSQP_ITERATIONS} it was {above:.1%} above the optimum"
    )
    what = f"watermark, p = 2, {len(t)} patches of ViT-S/32 (random weights)"
    return [
        Row(what, ours, f"OSQP, one set-up, {len(CHOSEN)} patches scaled up,", osqp_seconds, "<= 0.04"),
        Row(what, ours, "SLSQP, one iteration a patch, extrapolated,", slsqp_seconds * len(t)),
    ]


def by_norm_1(problem: Problem) -> Row:
    A, _, x, t = problem
    start = time.perf_counter()
    solution = solve_affine_box(A, x, t, norm=1)
    ours = (time.perf_counter() - start) / len(t)
    optimum, theirs = run_highs(problem)
    apart = abs(float((solution.value - t)[CHOSEN[0]].abs().sum()) / optimum - 1)
    print(
        f"p = 1: {solution.status}, residual {float(solution.residual.max()):.1e}, gap {float(solution.gap.max()):.1e}"
        f"; optimum differs from HiGHS's by {apart:.1e}, relatively"
    )
    what = f"watermark, p = 1, one patch of ViT-S/32 (random weights): {len(t)} at once, divided by {len(t)}"
    return Row(what, ours, "linprog, highs-ipm, one patch,", theirs, "<= 0.0067")


def run_osqp(problem: Problem) -> tuple[list[Tensor], float]:
    """The chosen patches to an accuracy of 1e-5, and what all would take: the matrix is factorised once for all."""
    A, _, x, t = problem
    n = A.shape[1]
    rows = sp.csc_matrix(np.vstack([A.numpy(), np.eye(n)]))
    right = (x @ A.mT).numpy()
    lower, upper = (np.hstack([right, np.full(x.shape, bound)]) for bound in (0.0, 1.0))
    solver, first = osqp.OSQP(), CHOSEN[0]
    set_up = seconds(
        lambda: solver.setup(
            sp.eye(n, format="csc"), -t[first].numpy(), rows, lower[first], upper[first],
            verbose=False, eps_abs=1e-5, eps_rel=1e-5,
        )
    )  # fmt: skip
    found = []
    start = time.perf_counter()
    for i in CHOSEN:
        solver.update(q=-t[i].numpy(), l=lower[i], u=upper[i])
        found.append(torch.from_numpy(solver.solve().x))
    return found, set_up + (time.perf_counter() - start) / len(CHOSEN) * len(t)


def run_slsqp(problem: Problem) -> tuple[Tensor, float]:
    """One patch as in the paper, by coefficients, z = x + B^T c: where it stops, and seconds an iteration."""
    B, x, t = (part.numpy() for part in (problem.B, problem.x[CHOSEN[0]], problem.t[CHOSEN[0]]))

    def distance(c: np.ndarray) -> float:
        return float(np.linalg.norm(x + c @ B - t))

    def gradient(c: np.ndarray) -> np.ndarray:
        return B @ (x + c @ B - t) / distance(c)

    start = time.perf_counter()
    result = minimize(
        distance,
        np.zeros(len(B)),
        jac=gradient,
        constraints=LinearConstraint(B.T, -x, 1 - x),
        method="SLSQP",
        options={"maxiter": SLSQP_ITERATIONS},
    )
    return torch.from_numpy(x + result.x @ B), (time.perf_counter() - start) / result.nit


def run_highs(problem: Problem) -> tuple[float, float]:
    """The optimum of one patch and the seconds that it took: moves up and down from the target, clipped to the box."""
    A, x, t = problem.A, problem.x[CHOSEN[0]], problem.t[CHOSEN[0]]
    start = t.clamp(0, 1)
    rows = torch.cat([A, -A], 1).numpy()
    ranges = torch.cat([1 - start, start]).numpy()
    bounds = [(0.0, upper) for upper in ranges.tolist()]
    begun = time.perf_counter()
    result = linprog(np.ones_like(ranges), A_eq=rows, b_eq=(A @ (x - start)).numpy(), bounds=bounds, method="highs-ipm")
    elapsed = time.perf_counter() - begun
    assert result.fun is not None, result.message
    return result.fun + float((start - t).abs().sum()), elapsed
