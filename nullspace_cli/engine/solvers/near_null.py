"""Images that a map hardly reads: a spectral filter of A^T A, with a proven bound, where there may be no nullspace.

    v = p(A^T A) x,   p(t) = T_m(l(t)) / T_m(l(0)),   l from [(rtol s)^2, S^2] onto [-1, 1],   s <= ||A|| <= S,

with T_m the Chebyshev polynomial: of all polynomials of degree m with p(0) = 1 it is the least on that interval, at
most e = 1 / T_m(l(0)) there, and falls from 1 to e below it. With A's singular values up to rtol s on one side and
the others on the other,

    ||A v||^2 <= (rtol s)^2 ||v||^2 + (e S)^2 ||x||^2.

What is filtered is A itself, edges and all, and not its circular twin.
"""

from math import acosh, ceil, cosh
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.image_map import ImageMap
from nullspace_cli.engine.solvers.polyphase import norm_bound

LEAK = 1e-6
"""e, about: share that is left of what is to be filtered out."""


class NearNull(NamedTuple):
    """Filtered images and what A makes of them, in units of s ||v||; infinity where nothing is left of one.

    Attributes:
        read: ||A v||, measured.
        bound: proven before it was measured: no more than this.
        degree: m, how often A^T A was applied.
    """

    images: Float[Tensor, "b c h w"]
    read: Float[Tensor, " b"]
    bound: Float[Tensor, " b"]
    degree: int


@full_precision
def near_null(
    image_map: ImageMap, images: Float[Tensor, "b c h w"], rtol: float, sigma_max: float, *, leak: float = LEAK
) -> NearNull:
    """The images' parts along which A is at most about rtol times as large as it can be.

    Args:
        rtol: in (0, 1).
        sigma_max: s, A's largest singular value; if less than that, the bound is still true.
        leak: e, at most.
    """
    top = norm_bound(image_map)
    cut = (rtol * sigma_max / top) ** 2
    at_zero = (1 + cut) / (1 - cut)
    degree = ceil(acosh(1 / leak) / acosh(at_zero))

    def mapped(v: Tensor) -> Tensor:
        """-l(A^T A) v: at 0 it is `at_zero`."""
        read = image_map.adjoint(image_map.forward(v)) / top**2
        return at_zero * v - (2 / (1 - cut)) * read

    # T_k(l) / T_k(at_zero) by T's recurrence; the scales alone would grow without bound.
    ratio = 1 / at_zero
    before, v = images, ratio * mapped(images)
    for _ in range(1, degree):
        following = 1 / (2 * at_zero - ratio)
        before, v = v, 2 * following * mapped(v) - ratio * following * before
        ratio = following
    left, whole = v.flatten(1).norm(dim=1), images.flatten(1).norm(dim=1)
    leaked = whole * top / (sigma_max * cosh(degree * acosh(at_zero)))
    bound = (rtol**2 + (leaked / left) ** 2).sqrt()
    return NearNull(v, image_map.forward(v).norm(dim=1) / (sigma_max * left), bound, degree)
