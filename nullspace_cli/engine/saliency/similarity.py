"""How alike two saliency maps are."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.metrics import correlation, is_constant, ssim

TOP_SHARE = 0.1


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
    from scipy.stats import rankdata  # half a second, which most runs need not wait

    return torch.from_numpy(rankdata(values.flatten().numpy()))


def _unit_range(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    low, high = values.min(), values.max()
    return (values - low) / (high - low)
