"""How alike two saliency maps are, or two images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.metrics import correlation, is_constant

TOP_SHARE = 0.1
SSIM_WINDOW = 7


@dataclass(frozen=True)
class Similarity:
    """Likeness of two maps on one grid; None, "undefined", where either map is constant.

    Attributes:
        spearman: rank correlation, ties given their mean rank.
        pearson: linear correlation.
        ssim: structural similarity of the maps, each scaled to [0, 1].
        top10: share that the tenths of the grid with the largest values have in common.
    """

    spearman: float | None
    pearson: float | None
    ssim: float | None
    top10: float | None


def similarity(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> Similarity:
    """Compare two maps, best on their native grid: upsampling makes neighbours alike whatever the model did."""
    a, b = a.double().cpu(), b.double().cpu()
    if is_constant(a) or is_constant(b):
        return Similarity(None, None, None, None)
    return Similarity(
        spearman=correlation(_ranks(a), _ranks(b)),
        pearson=correlation(a, b),
        ssim=ssim(_unit_range(a), _unit_range(b), 1.0),
        top10=top_overlap(a, b),
    )


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


def top_overlap(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"], share: float = TOP_SHARE) -> float:
    """|T_a and T_b| / k, with T the k positions of the largest values, k = `share` of them, at least one.

    Positions that tie for the last places of T share those: each belongs to T by a fraction, and the intersection sums
    the smaller of the two fractions.
    """
    k = max(1, round(share * a.numel()))
    return float(torch.minimum(_membership(a, k), _membership(b, k)).sum()) / k


def _membership(values: Float[Tensor, "h w"], k: int) -> Float[Tensor, "h w"]:
    """By how much each position belongs to the k largest; sums to k."""
    last = values.flatten().topk(k).values[-1]
    above, tied = values > last, values == last
    return above.double() + tied * ((k - above.sum()).double() / tied.sum())


def _ranks(values: Float[Tensor, "h w"]) -> Float[Tensor, " n"]:
    return torch.from_numpy(rankdata(values.flatten().numpy()))


def _unit_range(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    low, high = values.min(), values.max()
    return (values - low) / (high - low)
