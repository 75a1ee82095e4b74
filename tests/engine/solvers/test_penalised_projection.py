"""Projection with a penalty on what the patches read: dense least squares within bounds as the oracle."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import lsq_linear
from torch import Tensor

from nullspace_cli.engine.solvers.penalised_projection import Penalty, project_near_view
from nullspace_cli.engine.solvers.resize_projection import DualPoint, ResizeProblem
from nullspace_cli.engine.solvers.solution import Certificate, Status
from tests.engine.solvers.test_resize_projection import axis, image_of, levels, resizes, view_of

SIDE, RANK = 4, 6


class Patches:
    """C: a few orthonormal rows over each 4 x 4 patch of a view of one channel."""

    def __init__(self, rows: int, cols: int) -> None:
        self.grid = (rows, SIDE, 1, cols, SIDE)
        generator = torch.Generator().manual_seed(3)
        self.rows = torch.linalg.qr(torch.randn(SIDE * SIDE, RANK, generator=generator)).Q.T

    def reduce(self, view: Tensor) -> Tensor:
        return view.reshape(self.grid).permute(0, 3, 2, 1, 4).flatten(0, 1).flatten(1) @ self.rows.T

    def spread(self, values: Tensor) -> Tensor:
        rows, _, _, cols, _ = self.grid
        patches = (values @ self.rows).view(rows, cols, 1, SIDE, SIDE)
        return patches.permute(0, 3, 2, 1, 4).reshape(rows * SIDE, 1, cols * SIDE).contiguous()


def penalty(mu: float) -> Penalty:
    return Penalty(torch.tensor([2.0, 1.0, 0.5, 0.2, 0.1, 0.01]), mu, torch.eye(RANK))


def solved(problem: ResizeProblem, view: Tensor, mu: float) -> tuple[Tensor, DualPoint, Certificate]:
    point, certificate = project_near_view(problem, view, penalty(mu), tolerance=0.01, max_iterations=60)
    assert certificate.status is Status.SOLVED
    return image_of(problem, point.y), point, certificate


SHAPES = [(7, 5, 2, 2), (3, 4, 2, 3), (9, 8, 2, 2), (20, 9, 2, 2)]
"""Height and width of the picture, rows and columns of patches: some have more constraints than pixels."""


@pytest.mark.parametrize(("height", "width", "rows", "cols"), SHAPES)
@pytest.mark.parametrize("mu", [0.1, 10.0, 100.0])
def test_same_optimum_as_dense_least_squares(height: int, width: int, rows: int, cols: int, mu: float) -> None:
    resize = resizes(height, width, rows * SIDE, cols * SIDE)
    x, t = (levels(height, width, seed=seed) // 4 + 96 for seed in (0, 1))  # nothing that Pillow would clip
    lower, upper = torch.full_like(x, 110), torch.full_like(x, 145)
    constraint = Patches(rows, cols)
    problem = ResizeProblem(resize, constraint, t, lower, upper)
    view = view_of(resize, x)
    z, point, certificate = solved(problem, view, mu)

    whole = np.kron(axis(rows * SIDE, height), axis(cols * SIDE, width))
    unit = torch.from_numpy(whole.T).reshape(-1, rows * SIDE, 1, cols * SIDE).float()
    read = torch.stack([constraint.reduce(part).flatten() for part in unit], 1).double().numpy()
    weight = np.sqrt(mu) * penalty(mu).sigma.double().repeat(rows * cols).numpy()
    flat, target = x.flatten().double().numpy(), t.flatten().double().numpy()
    A = np.vstack([np.eye(len(flat)), weight[:, None] * read])
    b = np.concatenate([target, weight * (read @ flat)])
    oracle = lsq_linear(A, b, (110, 145), method="bvls", tol=1e-14)
    expected = torch.from_numpy(oracle.x).view_as(z)
    assert float((z.double() - expected).abs().max()) < 0.1
    assert (z == 110).any() or (z == 145).any()
    left = torch.from_numpy(read @ (z.flatten().double().numpy() - flat)).view_as(point.residual)
    torch.testing.assert_close(point.residual.double(), left, rtol=0, atol=2e-3)
    assert float(certificate.residual) == pytest.approx(float(left.abs().max()) / 255, abs=1e-5)
    assert float(certificate.gap) < 1e-4
    assert float(certificate.bound_violation) == 0


def test_a_picture_that_is_clipped_on_the_way_is_its_own_solution() -> None:
    """The view of black and white as Pillow makes it, which is far from the linear one."""
    x = torch.zeros(10, 1, 10, dtype=torch.uint8)
    x[2:5, :, 3:8], x[7:] = 255, 255
    whole = Image.fromarray(x[:, 0].numpy()).resize((16, 16), Image.Resampling.BICUBIC)
    view = torch.from_numpy(np.array(whole, np.float32))[:, None]
    resize = resizes(10, 10, 16, 16)
    assert float((view_of(resize, x) - view).abs().max()) > 10
    problem = ResizeProblem(resize, Patches(4, 4), x)
    point, _ = project_near_view(problem, view, penalty(100.0), tolerance=5.0)
    assert point.iterations == 0
    assert float(point.residual.abs().max()) < 3  # Pillow's roundings


def test_clipping_is_made_up_for() -> None:
    """Towards a target of black and white the view comes as close as the penalty has it, clipped as Pillow does."""
    resize, constraint = resizes(14, 14, 16, 16), Patches(4, 4)
    x, t = levels(14, 14) // 4 + 96, levels(14, 14, saturated=0.9, seed=1)
    problem, view = ResizeProblem(resize, constraint, t), view_of(resize, x)
    z, point, _ = solved(problem, view, 1000.0)
    first = torch.einsum("HcW,wW->Hcw", z, resize.cols).clamp(0, 255)
    seen = torch.einsum("hH,Hcw->hcw", resize.rows, first).clamp(0, 255)
    assert float((seen - view_of(resize, z)).abs().max()) > 1
    torch.testing.assert_close(point.residual, constraint.reduce(seen - view), rtol=0, atol=1e-3)
    assert float((point.residual * penalty(1.0).sigma).norm()) < 0.02 * float(constraint.reduce(view).norm())


def test_a_heavier_penalty_leaves_less() -> None:
    resize, constraint = resizes(9, 10, 16, 16), Patches(4, 4)
    x, t = (levels(9, 10, seed=seed, saturated=0.2) for seed in (0, 1))
    view = view_of(resize, x)
    errors = []
    for mu in (0.01, 1.0, 100.0):
        _, point, _ = solved(ResizeProblem(resize, constraint, t), view, mu)
        errors.append(float((point.residual * penalty(mu).sigma).norm()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_no_room_between_the_bounds() -> None:
    resize, x, t = resizes(9, 10, 16, 16), levels(9, 10), levels(9, 10, seed=1)
    problem = ResizeProblem(resize, Patches(4, 4), t, t, t)
    point, certificate = project_near_view(problem, view_of(resize, x), penalty(1.0), tolerance=1e-3, max_iterations=5)
    assert torch.equal(image_of(problem, point.y), t.float())
    assert point.y.isfinite().all()
    assert certificate.bound_violation.tolist() == [0.0]
