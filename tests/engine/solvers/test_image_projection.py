"""Projection of whole images onto an affine set and a box, against sequential quadratic programming."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor

from nullspace_cli.engine.nullspace.independent_kernels import independent_kernels
from nullspace_cli.engine.solvers.image_map import Branch, ImageMap, Resize
from nullspace_cli.engine.solvers.image_projection import project_image_box
from nullspace_cli.engine.solvers.null_projection import NullProjection
from nullspace_cli.engine.solvers.solution import Solution, Status
from tests.stems import null_projector

SIZE = (3, 6, 6)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MAPS = {
    "overlapping": (Branch(random(3, 3, 3, 3) - 0.5, (2, 2), (1, 1, 1, 1)),),
    "cropped": (Branch(random(4, 3, 3, 3) - 0.5, (2, 2), (0, 0, -1, 0)),),
    "two, one of a resize": (
        Branch(random(4, 3, 3, 3) - 0.5, (3, 3)),
        Branch(random(3, 3, 2, 2) - 0.5, (2, 2), resize=Resize(random(4, 6), random(4, 6, seed=1))),
    ),
}


@pytest.mark.parametrize("saturated", [0.0, 0.6])
@pytest.mark.parametrize("name", MAPS)
def test_it_is_the_nearest(name: str, saturated: float) -> None:
    image_map = independent_kernels(ImageMap(MAPS[name], SIZE), 1e-9)
    x = ((1 + 2 * saturated) * random(2, *SIZE) - saturated).clamp(0, 1)
    t = x + 0.6 * (random(2, *SIZE, seed=1) - 0.5)
    found = project_image_box(NullProjection(image_map), x, t, torch.zeros_like(x), torch.ones_like(x))
    assert found.status is Status.SOLVED
    assert float(found.gap.max()) < 1e-8
    assert float(found.bound_violation.max()) == 0
    null = null_projector(image_map)
    for z, source, target, residual in zip(found.value, x.flatten(1), t.flatten(1), found.residual, strict=True):
        assert 0 <= z.min() <= z.max() <= 1
        change = (z - source).numpy()
        assert residual <= 1e-9
        assert residual == pytest.approx(np.linalg.norm(change - null @ change), rel=0.05, abs=1e-13)
        np.testing.assert_allclose(z, nearest(null, source.numpy(), target.numpy()), atol=2e-5)


def nearest(null: NDArray[np.float64], x: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same by SLSQP, in coordinates of the nullspace."""
    basis = np.linalg.svd(null)[0][:, : round(np.trace(null))]
    ways = np.vstack([basis, -basis])

    def distance(c: NDArray[np.float64]) -> float:
        return float(0.5 * np.sum((x + basis @ c - t) ** 2))

    def slope(c: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(basis.T @ (x + basis @ c - t))

    found = minimize(
        distance,
        np.zeros(basis.shape[1]),
        jac=slope,
        constraints=LinearConstraint(ways, -np.concatenate([x, 1 - x])),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    return np.asarray(x + basis @ found.x)


def test_bounds_that_fix_an_entry_and_a_target_that_is_feasible() -> None:
    image_map = independent_kernels(ImageMap(MAPS["overlapping"], SIZE), 1e-9)
    x, projection = 0.3 + 0.4 * random(1, *SIZE), NullProjection(image_map)
    lower, upper = torch.zeros_like(x), torch.ones_like(x)
    lower[:, :, :2] = upper[:, :, :2] = x[:, :, :2]
    t = x + 0.1 * projection(random(1, *SIZE, seed=1) - 0.5).images
    free = project_image_box(projection, x, t, torch.zeros_like(x), torch.ones_like(x))
    torch.testing.assert_close(free.value, t.flatten(1), atol=1e-8, rtol=0)
    fixed = project_image_box(projection, x, t, lower, upper)
    assert fixed.status is Status.SOLVED
    assert torch.equal(fixed.value.view_as(x)[:, :, :2], x[:, :, :2])
    assert (fixed.value - x.flatten(1)).norm() > 0.1


def test_too_few_steps_are_told() -> None:
    found = _demanding(max_iterations=1)
    assert found.status is Status.ITERATION_LIMIT
    assert found.residual > 1e-9
    assert found.gap > 1e-9


def test_on_any_device(device: torch.device) -> None:
    torch.testing.assert_close(_demanding(device=device).value.cpu(), _demanding().value, atol=1e-8, rtol=0)


def _demanding(device: torch.device | str = "cpu", max_iterations: int = 60) -> Solution:
    image_map = independent_kernels(ImageMap(MAPS["overlapping"], SIZE), 1e-9).to(device)
    x = (2 * random(1, *SIZE, seed=3) - 0.5).clamp(0, 1).to(device)
    bounds = torch.zeros_like(x), torch.ones_like(x)
    return project_image_box(NullProjection(image_map), x, 1 - x, *bounds, max_iterations=max_iterations)
