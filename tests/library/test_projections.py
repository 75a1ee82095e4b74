"""Projection onto an affine set and a box, rounding, and the resize: against other solvers, timm and Pillow."""

from collections.abc import Callable
from typing import Any

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from PIL import Image
from scipy.optimize import linprog
from torch import Tensor, nn

from nullspace_cli import Model, Status, VitnullError, project_affine_box, resize_operator, round_to_8_bits
from nullspace_cli.demo.drawing import draw

Array = Any


def problem(seed: int, n: int = 9, rows: int = 4) -> tuple[Array, Array, Array]:
    """A of rank rows - 1, not orthonormal and badly scaled; x in the box, partly on it; t partly outside."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(rows, n)) * np.logspace(0, 2, rows)[:, None]
    A[-1] = A[0] - 3 * A[1]
    x = np.where(rng.random(n) < 0.2, 1.0, rng.random(n))
    return A, x, x + rng.normal(size=n)


def by_highs(A: Array, x: Array, t: Array, low: Array, high: Array) -> float:
    """The least ||z - t||_1: minimise sum(e) with -e <= z - t <= e."""
    n, eye = len(x), np.eye(len(x))
    answer = linprog(
        np.r_[np.zeros(n), np.ones(n)],
        A_ub=np.block([[eye, -eye], [-eye, -eye]]),
        b_ub=np.r_[t, -t],
        A_eq=np.hstack([A, np.zeros_like(A)]),
        b_eq=A @ x,
        bounds=[*zip(np.broadcast_to(low, n), np.broadcast_to(high, n), strict=True), *[(0, None)] * n],
        method="highs",
    )
    assert answer.fun is not None
    return float(answer.fun)


def by_clarabel(A: Array, x: Array, t: Array, low: Array, high: Array) -> Array:
    """The z of least ||z - t||_2^2 / 2; Clarabel takes b - M z in a cone."""
    n, rows, eye = len(x), A[:-1], np.eye(len(x))  # the last row depends on the others
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    answer = clarabel.DefaultSolver(
        sp.csc_matrix(eye),
        -t,
        sp.csc_matrix(np.vstack([rows, eye, -eye])),
        np.r_[rows @ x, np.broadcast_to(high, n), -np.broadcast_to(low, n)],
        [clarabel.ZeroConeT(len(rows)), clarabel.NonnegativeConeT(2 * n)],
        settings,
    ).solve()
    return np.array(answer.x)


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_point_by_2_norm(seed: int) -> None:
    A, x, t = problem(seed)
    found = project_affine_box(A, x, t)
    z = found.value.numpy()
    np.testing.assert_allclose(z, by_clarabel(A, x, t, 0.0, 1.0), atol=1e-6)
    assert found.status is Status.SOLVED
    assert np.abs(A @ (z - x)).max() < 1e-6
    assert (z >= 0).all()
    assert (z <= 1).all()
    assert float(found.gap.max()) < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_point_by_1_norm(seed: int) -> None:
    A, x, t = problem(seed)
    found = project_affine_box(A, x, t, p=1)
    z = found.value.numpy()
    assert np.abs(z - t).sum() == pytest.approx(by_highs(A, x, t, 0.0, 1.0), abs=1e-6)
    assert np.abs(A @ (z - x)).max() < 1e-6
    assert (z >= 0).all()
    assert (z <= 1).all()


@pytest.mark.parametrize("p", [1, 2])
def test_many_at_once_are_each_alone(p: Any) -> None:
    A, *_ = problem(0)
    x, t = (np.stack([problem(seed)[which] for seed in range(5)]) for which in (1, 2))
    found = project_affine_box(torch.from_numpy(A), torch.from_numpy(x), torch.from_numpy(t), p=p)
    assert found.value.shape == (5, 9)
    assert found.residual.shape == found.gap.shape == found.bound_violation.shape == (5,)
    for i in range(5):
        alone = project_affine_box(A, x[i], t[i], p=p).value
        if p == 2:  # of the other norm there may be several
            torch.testing.assert_close(found.value[i], alone, atol=1e-6, rtol=0)
        distance = np.linalg.norm(found.value[i].numpy() - t[i], p)
        assert distance == pytest.approx(np.linalg.norm(alone.numpy() - t[i], p), abs=1e-6)


def test_bounds_of_each_entry() -> None:
    A, x, t = problem(1)
    rng = np.random.default_rng(0)
    low, high = x - rng.random(9), x + 0.3 * rng.random(9)
    z = project_affine_box(A, x, t, low, high).value.numpy()
    np.testing.assert_allclose(z, by_clarabel(A, x, t, low, high), atol=1e-6)
    one = project_affine_box(A, x, t, low, high, p=1).value.numpy()
    assert np.abs(one - t).sum() == pytest.approx(by_highs(A, x, t, low, high), abs=1e-6)
    wide = project_affine_box(A, x, t, -np.inf, np.inf).value.numpy()
    np.testing.assert_allclose(wide, t + np.linalg.pinv(A) @ A @ (x - t), atol=1e-9)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("rows", [0, 2])
def test_without_a_constraint_each_entry_is_clipped(p: Any, rows: int) -> None:
    _, x, t = problem(2)
    np.testing.assert_allclose(project_affine_box(np.zeros((rows, 9)), x, t, p=p).value, t.clip(0, 1), atol=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_what_may_not_move_does_not(p: Any) -> None:
    _, x, t = problem(2)
    np.testing.assert_allclose(project_affine_box(np.eye(9) * 7, x, t, p=p).value, x, atol=1e-9)


def test_lists_whole_numbers_and_gradients_are_taken_as_numbers() -> None:
    plain = project_affine_box([[1, 1, 0]], [0, 1, 0], [2, 2, 2])
    np.testing.assert_allclose(plain.value, [0.5, 0.5, 1])
    z = project_affine_box([[1, 1, 0, 0]], [0.1, 0.3, 0.3, 0.3], [0.1, 0.3, 0, 1], 0.1, 0.7).value
    assert z.tolist() == pytest.approx([0.1, 0.3, 0.1, 0.7], abs=1e-12)  # float32's 0.1 is another
    tracked = torch.tensor([[1.0, 1.0, 0.0]], requires_grad=True)
    assert not project_affine_box(tracked, [0, 1, 0], [2, 2, 2], p=1).value.requires_grad


# Rounding


@pytest.fixture(scope="module")
def kernel() -> Tensor:
    """[24, 3, 8, 8]: it reads an eighth of a patch."""
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def moved(kernel: Tensor, q: Tensor, x: Tensor) -> float:
    """||W (q - x)|| of 8-bit images q, by the convolution."""
    return float(nn.functional.conv2d(q.double() / 255 - x.double(), kernel, stride=kernel.shape[-1]).norm())


def test_rounding_for_a_kernel(kernel: Tensor) -> None:
    x = torch.rand(2, 3, 20, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q = round_to_8_bits(x, kernel)
    nearest = (255 * x).round().byte()
    assert (q.dtype, q.shape) == (torch.uint8, x.shape)
    assert moved(kernel, q, x) < 0.25 * moved(kernel, nearest, x)
    distance = (q.double() - 255 * x).abs()
    assert float((distance <= 1).double().mean()) > 0.8
    assert distance.max() < 6
    assert torch.equal(q[..., 16:, :], nearest[..., 16:, :])
    assert torch.equal(q[..., 16:], nearest[..., 16:])
    assert torch.equal(round_to_8_bits(x[0], kernel), q[0])


def test_rounding_for_a_model(model: Model, plain: nn.Module, images: Tensor) -> None:
    """In the metric of its own embedding: what it makes of normalised images."""
    x = (images[:1] * 0.8 + 0.1 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))).double()
    embed: Any = plain.get_submodule("patch_embed.proj")
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    kernel = embed.weight.detach().double() / std
    assert moved(kernel, round_to_8_bits(x, model), x) < 0.5 * moved(kernel, (255 * x).round().byte(), x)


def test_images_that_are_8_bits_stay(kernel: Tensor) -> None:
    x = torch.from_numpy(draw("val", 0, size=16)[0]).movedim(-1, 0)
    assert torch.equal(round_to_8_bits(x / 255, kernel), x)
    assert torch.equal(round_to_8_bits(x.double() / 255, kernel), x)


def test_what_leaves_the_range_a_little_is_clipped(kernel: Tensor) -> None:
    x = torch.full((3, 8, 8), 1.2)
    assert (round_to_8_bits(x, kernel) == 255).all()
    assert (round_to_8_bits(-0.2 * x, kernel) == 0).all()


# The resize


@pytest.mark.parametrize("size", [(96, 110), (40, 30), (35, 35)])
def test_the_resize_is_pillows(size: tuple[int, int], model: Model) -> None:
    """deit's: to 35 pixels (32 / 0.9), bicubic, then the middle 32 x 32."""
    height, width = size
    pixels = draw("val", 1, size=110)[0][:height, :width].copy()
    scale = 35 / min(size)
    resized = Image.fromarray(pixels).resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = (round((side - 32) / 2) for side in resized.size)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32))).transpose(2, 0, 1)
    x = torch.from_numpy(pixels).movedim(-1, 0).double() / 255
    seen = 255 * resize_operator(model, width, height).apply(x).numpy()
    inside = (expected > 0) & (expected < 255)  # Pillow clips
    assert np.abs(seen - expected)[inside].max() < 1.5
    assert np.abs(seen.clip(0, 255) - expected).max() < 2


def test_the_adjoint_is_the_transpose(model: Model) -> None:
    operator = resize_operator(model.transform, 50, 40)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 40, 50, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    left, right = (operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-12)


def test_the_resize_has_a_gradient(model: Model) -> None:
    operator = resize_operator(model, 50, 40).to(dtype=torch.float32)
    x = torch.rand(3, 40, 50, requires_grad=True)
    y = torch.ones(3, 32, 32)
    (operator.apply(x) * y).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, operator.adjoint(y))


# What is refused

EYE = np.eye(3)
HALF = [0.5] * 3
project: Any = project_affine_box  # without their types, which forbid what is asked here
rounded: Any = round_to_8_bits
resize: Any = resize_operator
IMAGE = torch.full((3, 16, 16), 0.5)
KERNEL = torch.ones(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: project(EYE, HALF, HALF, p=3), "p is 3; expected one of 1, 2"),
        (lambda m: project(EYE, HALF, HALF, tol=0), "tol is 0; expected a number above 0"),
        (lambda m: project("A", HALF, HALF), "A is 'A'; expected real numbers"),
        (lambda m: project(EYE, None, HALF), "x is None; expected real numbers"),
        (lambda m: project(EYE, HALF, [[1], [1, 2]]), "t is a list of 2; expected real numbers"),
        (lambda m: project(EYE * 1j, HALF, HALF), "A is an array of complex128"),
        (lambda m: project(EYE, HALF[:2], HALF[:2]), r"A has the shape \[3, 3\], x \[2\], t \[2\]; expected"),
        (lambda m: project(EYE, HALF, HALF[:2]), r"x \[3\], t \[2\]"),
        (lambda m: project(EYE[0], HALF, HALF), r"A has the shape \[3\]"),
        (lambda m: project(EYE[:, :0], [], []), r"A has the shape \[3, 0\]"),
        (lambda m: project(EYE * np.nan, HALF, HALF), "A, x and t are not all finite"),
        (lambda m: project(EYE, HALF, [np.inf] * 3), "A, x and t are not all finite"),
        (lambda m: project(EYE, [2, 0, 0], HALF), "x lies outside the box"),
        (lambda m: project(EYE, HALF, HALF, 0.6), "x lies outside the box"),
        (lambda m: project(EYE, HALF, HALF, [0, 0]), "lower and upper do not broadcast to x"),
        (lambda m: project(EYE, HALF, HALF, 1, 0), "lower is above upper"),
        (lambda m: project(EYE, HALF, HALF, np.nan), "lower is above upper in places, or one of them is not a number"),
        (lambda m: project(EYE, HALF, HALF, "a"), "lower is 'a'"),
        (lambda m: rounded(IMAGE.numpy(), m), "x is an array of float32"),
        (lambda m: rounded((255 * IMAGE).byte(), m), "x is a tensor of torch.uint8"),
        (lambda m: rounded(IMAGE[:1], m), r"x is a tensor of .*\[1, 16, 16\]; expected floats .* with 3 channels"),
        (lambda m: rounded(IMAGE[0], m), r"x is a tensor of torch.float32 \[16, 16\]"),
        (lambda m: rounded(255 * IMAGE, m), r"x reaches from 128 to 128; expected an image in \[0, 1\]"),
        (lambda m: rounded(-4 * IMAGE, m), "x reaches from -2 to -2"),
        (lambda m: rounded(IMAGE * torch.nan, m), "x reaches from nan"),
        (lambda m: rounded(IMAGE, "demo"), "W is 'demo'; expected a Model, or a kernel"),
        (lambda m: rounded(IMAGE, m.module), "W is VisionTransformer"),
        (lambda m: rounded(IMAGE, KERNEL[0]), r"W is a tensor of torch.float32 \[3, 8, 8\]"),
        (lambda m: rounded(IMAGE, 0 * KERNEL), "W is all 0, or not finite"),
        (lambda m: rounded(IMAGE, torch.nan * KERNEL), "W is all 0, or not finite"),
        (lambda m: resize(m.module, 9, 9), "model_or_transform is VisionTransformer"),
        (lambda m: resize(m, 0, 9), "width is 0; expected a whole number of at least 1"),
        (lambda m: resize(m, 9, 9.5), "height is 9.5; expected a whole number"),
        (lambda m: resize(m, 100_000_000, 1), "too elongated"),
    ],
)
def test_what_is_refused(ask: Callable[[Any], Any], message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        ask(model)
