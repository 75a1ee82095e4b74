"""Projections and rounding that leave a linear map's output as it is, and the resize that a model begins with."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike
from torch import Tensor

from nullspace_cli.engine.errors import NoNullspaceError, UsageError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import patch_map_of
from nullspace_cli.engine.nullspace.decomposition import split_space
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.box_projection import project_affine_box as _project
from nullspace_cli.engine.solvers.interior_point import solve_affine_box as _solve
from nullspace_cli.engine.solvers.metric_rounding import MetricRounding
from nullspace_cli.engine.solvers.solution import AffineBox, Solution
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.library.arguments import require_choice, require_count, require_number, wrong

BEYOND = 1.0
"""How far an image may leave [0, 1] before it is taken for one in other units."""


@full_precision
def project_affine_box(
    A: ArrayLike | Tensor,
    x: ArrayLike | Tensor,
    t: ArrayLike | Tensor,
    lower: ArrayLike | Tensor | float = 0.0,
    upper: ArrayLike | Tensor | float = 1.0,
    *,
    p: Literal[1, 2] = 2,
    tol: float = 1e-9,
) -> Solution:
    """The z nearest to t with A z = A x and lower <= z <= upper (paper, eq. 7), with a proof.

    Args:
        A: [r, n], of any rank. What counts is its row space: it need not be orthonormal.
        x: [n], or [p, n] for p problems at once; inside the box, so that there is a solution.
        t: of the shape of x.
        lower, upper: numbers, or what broadcasts to x.
        p: minimised is 1/2 ||z - t||_2^2, or ||z - t||_1.
        tol: largest ||A (z - x)||_2, by orthonormal rows of A, that counts as solved.

    Returns:
        `.value` z in float64, of the shape of x; of each problem `.residual` ||A (z - x)||_2 by orthonormal rows,
        `.bound_violation`, `.gap` (primal - dual) / (1 + primal), which is 0 at the optimum and nowhere else, and
        `.iterations`; `.status`, the worst of them, whose text says what to try.

    Raises:
        UsageError: the shapes do not fit, values are not finite, x lies outside the box, or a setting makes no sense.
    """
    require_choice("p", p, (1, 2))
    require_number("tol", tol, above=0)
    matrix, start, target = (_numbers(name, value) for name, value in (("A", A), ("x", x), ("t", t)))
    if (
        matrix.ndim != 2
        or matrix.shape[1] == 0
        or start.ndim not in (1, 2)
        or start.shape != target.shape
        or start.shape[-1] != matrix.shape[1]
    ):
        shapes = f"A has the shape {list(matrix.shape)}, x {list(start.shape)}, t {list(target.shape)}"
        raise UsageError(f"{shapes}; expected [r, n], and [n] or [p, n] for both others.")
    if not all(bool(value.isfinite().all()) for value in (matrix, start, target)):
        raise UsageError("A, x and t are not all finite.")
    flat = start.reshape(-1, start.shape[-1])
    try:
        low, high = (_numbers(*bound).expand_as(start) for bound in (("lower", lower), ("upper", upper)))
    except RuntimeError as error:
        raise UsageError(f"lower and upper do not broadcast to x, {list(start.shape)}.") from error
    if not bool((low <= high).all()):
        raise UsageError("lower is above upper in places, or one of them is not a number.")
    if not bool(((low <= start) & (start <= high)).all()):
        raise UsageError("x lies outside the box in places: then there may be no z at all. Give an x inside it.")
    rows = matrix[:0]  # those of a matrix of zeros: then all of the box is allowed
    if bool(matrix.any()):
        rows, _, _ = split_space(matrix, torch.finfo(torch.float64).eps * max(matrix.shape))
    problem = AffineBox(rows, flat, target.reshape(flat.shape), low.reshape(flat.shape), high.reshape(flat.shape))
    # Without rows the norms agree on each entry's nearest point of the box.
    solution = _solve(*problem, norm=1, tolerance=tol) if p == 1 and len(rows) else _project(*problem, tolerance=tol)
    return replace(solution, value=solution.value.reshape(start.shape))


def _numbers(name: str, value: ArrayLike | Tensor) -> Tensor:
    try:
        # By numpy: torch makes float32 of Python's numbers, and 0.1 another one.
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise wrong(name, value, "real numbers, as an array or a tensor") from error
    if tensor.is_complex():
        raise wrong(name, value, "real numbers")
    return tensor.double()


@full_precision
def round_to_8_bits(x: Float[Tensor, "*batch c h w"], W: Model | Tensor) -> UInt8[Tensor, "*batch c h w"]:
    """Images in [0, 1] as 8 bits, rounded so that what W makes of their patches hardly moves.

    "The prediction changes after I save the image": rounding each value to the nearest level moves the patch embeddings
    by more than an attack or a watermark may have left them. Here the levels are chosen together, in the metric of W.

    Args:
        x: [c, h, w] or [b, c, h, w], floats; what leaves [0, 1] by less than 1 is clipped first, what leaves it by
            more is taken for another unit and refused. What whole patches leave over is rounded to the nearest level.
        W: a model, for its patch embedding; or that kernel [d, c, r_h, r_w], on pixels in [0, 1].

    Raises:
        NoNullspaceError: the model does not start with one linear map of disjoint patches.
        UsageError: the shapes do not fit, or values are not finite or in other units.
    """
    patch_map = patch_map_of(W) if isinstance(W, Model) else _map_of(W)
    if patch_map is None:
        assert isinstance(W, Model)
        raise NoNullspaceError(f"{W.name} has no patch embedding to round for. Save the image losslessly instead.")
    channels = patch_map.in_chans
    fits = isinstance(x, Tensor) and x.is_floating_point() and x.ndim in (3, 4) and x.shape[-3] == channels
    if not fits:
        raise wrong("x", x, f"floats [c, h, w] or [b, c, h, w] with {channels} channels")
    least, largest = torch.aminmax(x.detach()) if x.numel() else (torch.zeros(()), torch.ones(()))
    if not (float(least) > -BEYOND and float(largest) < 1 + BEYOND):
        raise UsageError(
            f"x reaches from {float(least):.3g} to {float(largest):.3g}; expected an image in [0, 1], neither "
            f"normalised nor in levels up to 255."
        )
    images = x.detach().double().clamp(0, 1)
    patches = patch_map.patchify(images)
    rounding = MetricRounding.of(patch_map.matrix("pixel").to(images.device))
    rounded = rounding.round(patches.reshape(-1, patches.shape[-1])).reshape(patches.shape)
    levels = patch_map.unpatchify(rounded, images) * 255
    return levels.round().to(torch.uint8)


def _map_of(weight: Tensor) -> PatchMap:
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 4:
        raise wrong("W", weight, "a Model, or a kernel of floats [d, c, r_h, r_w]")
    if not bool(weight.isfinite().all()) or not bool(weight.any()):
        raise UsageError("W is all 0, or not finite.")
    return PatchMap.from_weight(weight, (1.0,) * weight.shape[1])


def resize_operator(model_or_transform: Model | EvalTransform, width: int, height: int) -> ResizeOperator:
    """The resize and crop that a model begins with, for images of one size, as an operator on pixels in [0, 1].

    `.apply(images)` [..., 3, height, width] to [..., 3, h, w] is Pillow's resize and timm's crop without their rounding
    to 8 bits, and differentiable; `.adjoint(views)` is the transpose of its linear part. `.to(device, dtype)`.

    Raises:
        ImageError: such an image is too elongated to be resized.
        UsageError: that is no size, or no model.
    """
    if not isinstance(model_or_transform, Model | EvalTransform):
        raise wrong("model_or_transform", model_or_transform, "a Model, or its transform")
    require_count("width", width)
    require_count("height", height)
    transform = model_or_transform.transform if isinstance(model_or_transform, Model) else model_or_transform
    return ResizeOperator(transform, width, height)
