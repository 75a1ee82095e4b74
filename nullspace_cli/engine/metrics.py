"""Measures of change, each with one definition: tensors in, a number out; None where undefined."""

from math import inf, log10, sqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

CONSTANT = 1e-12
"""Values that differ by this share of the largest, or by less, differ by rounding alone: they are constant."""
SSIM_WINDOW = 7


def is_constant(values: Float[Tensor, "..."]) -> bool:
    """Whether values say nothing: all alike, up to rounding."""
    return bool(values.max() - values.min() <= CONSTANT * values.abs().max())


def psnr(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> float | None:
    """Peak signal-to-noise ratio in dB of images in [0, 1]; None for identical ones, whose ratio is infinite."""
    error = float((a.double() - b.double()).square().mean())
    value = -10 * log10(error) if error > 0 else inf
    return None if value == inf else value


def correlation(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> float | None:
    """Pearson's correlation over all elements; None where either is constant."""
    a, b = a.double().flatten(), b.double().flatten()
    if is_constant(a) or is_constant(b):  # whose mean is rounded, so that what is left of them is noise, not 0
        return None
    a, b = a - a.mean(), b - b.mean()
    return max(-1.0, min(1.0, float(a @ b) / float(a.norm() * b.norm())))


def ssim(a: Float[Tensor, "*c h w"], b: Float[Tensor, "*c h w"], data_range: float) -> float:
    """Mean structural similarity over windows and channels (Wang et al. 2004, eq. 13).

    (2 m_a m_b + C1) (2 s_ab + C2) / ((m_a^2 + m_b^2 + C1) (s_a^2 + s_b^2 + C2)), C1 = (0.01 L)^2, C2 = (0.03 L)^2, with
    means, variances and covariance (over n - 1) in each square window that fits into the image. Windows are 7 x 7, all
    pixels equal, as is the default of scikit-image's `structural_similarity`; a smaller image is cut into smaller
    windows, down to one of all its pixels. Equal weights let the border of a 7 x 7 grid of tokens count in full, which
    a Gaussian would all but discard.

    Args:
        data_range: L, by how much values can differ: 1 for images in [0, 1].
    """
    height, width = a.shape[-2:]
    window = (min(SSIM_WINDOW, height), min(SSIM_WINDOW, width))
    count = window[0] * window[1]
    x, y = (values.double().reshape(-1, 1, height, width) for values in (a, b))

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, cov = (
        (mean(p * q) - mp * mq) * count / (count - 1)
        for p, q, mp, mq in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return min(1.0, float(values.mean()))


def cosine(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float | None:
    """Cosine of the angle between two vectors; None where either is zero."""
    norms = float(a.double().norm() * b.double().norm())
    return float(a.double() @ b.double()) / norms if norms > 0 else None


def cosines(a: Float[Tensor, "b n"], b: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """`cosine` of each row, on the device of the tensors; NaN where undefined."""
    a, b = a.double(), b.double()
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def wilson(share: float, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a proportion that was seen to be `share` among `count`; z = 1.96 is that of 95%."""
    spread = z * sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    centre, scale = share + z * z / (2 * count), 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def relative_change(before: Float[Tensor, "..."], after: Float[Tensor, "..."]) -> float | None:
    """Root mean square of the change over that of what was there before; None where that is zero."""
    scale = float(before.double().norm())
    return float((after.double() - before.double()).norm()) / scale if scale > 0 else None


def squared_change(before: Float[Tensor, "*batch k"], after: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Squared change summed over the outputs, as the authors of the paper report it."""
    return (after.double() - before.double()).square().sum(-1)


def top1(logits: Float[Tensor, " k"]) -> tuple[int, float]:
    """The predicted class and its softmax probability."""
    probabilities = torch.softmax(logits.double(), 0)
    index = int(probabilities.argmax())
    return index, float(probabilities[index])
