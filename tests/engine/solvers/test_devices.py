"""The solvers on a card find what they find on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nullspace_cli.engine.solvers.affine import nearest_affine
from nullspace_cli.engine.solvers.bounded_least_squares import bounded_least_squares
from nullspace_cli.engine.solvers.box_projection import project_affine_box

pytestmark = pytest.mark.gpu


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """A, x on its bounds in part, and t."""
    generator = torch.Generator().manual_seed(0)
    A = torch.linalg.qr(torch.randn(96, 24, generator=generator, dtype=torch.float64)).Q.mT.contiguous()
    x, t = (torch.rand(6, 96, generator=generator, dtype=torch.float64) for _ in range(2))
    x[:3] = torch.where(torch.rand(3, 96, generator=generator) < 0.6, x[:3].round(), x[:3])
    return A, x, 2 * t - 0.5


SOLVERS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "box": project_affine_box,
    "affine, p = 1": lambda A, x, t: nearest_affine(A, x, t, torch.arange(96, device=A.device) < 64, norm=1),
    "affine, p = 2": lambda A, x, t: nearest_affine(A, x, t, torch.arange(96, device=A.device) < 64, norm=2),
    "bounded least squares": lambda A, x, t: bounded_least_squares(A, 2 * t @ A.mT, -0.4, 0.4),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_as_on_the_cpu(name: str) -> None:
    A, x, t = inputs()
    here, there = SOLVERS[name](A, x, t), SOLVERS[name](A.cuda(), x.cuda(), t.cuda())
    for figure in ("value", "residual", "iterations"):
        assert getattr(there, figure).is_cuda
    torch.testing.assert_close(there.value.cpu(), here.value, rtol=0, atol=1e-6)
    assert there.status is here.status
