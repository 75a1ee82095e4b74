"""A suspect that can only be asked: by its logits, or by its labels alone."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from nullspace_cli.engine.ownership.answers import Answers
from nullspace_cli.engine.ownership.randomisation import p_value
from nullspace_cli.engine.ownership.verdict import Finding

SMALL = 0.25
"""Largest share of what mirrored null noise does that null noise may do to a suspect that is called derived. By 24
images networks without kinship were seen at 0.38 and above."""
FEWEST = 16
"""Least number of images by which a suspect is called derived. By 8, one of 132 networks without kinship would have
been: p was 0.01, and null noise did 0.14 of what its mirror image did."""
UNMOVED = 1e-6
"""Squared change of logits, relative to their variance, that is too small to say anything."""


@dataclass(frozen=True)
class BlackBox:
    """What null noise does to a suspect's answers, beside its mirror image and beside surrogates.

    Attributes:
        answers: "logits" or "labels".
        statistic: T, over all images, of null noise less the same of its mirror image: of the logarithms of squared
            changes of logits, or of the number of labels that changed.
        surrogates: T of the other pairs; each counts with both signs, since which of two is the mirror image is open.
        ratio: what null noise does, by what its mirror image does: squared change of logits in the geometric mean over
            the images, or number of labels changed; None where that is 0.
        movement: what mirrored null noise does: root mean square change of the logits relative to their standard
            deviation, None of labels.
        changed, changed_mirrored: images whose label each changed.
        changed_ci95, changed_mirrored_ci95: their shares' exact intervals (Clopper and Pearson).
        mcnemar_p: that null noise changes labels less often than its mirror image, by the images of which only one of
            both changes the label (McNemar's exact test): for these two noises alone, not for surrogates.
    """

    images: int
    pairs: int
    answers: str
    statistic: float
    surrogates: Float[Tensor, " pairs-1"]
    ratio: float | None
    movement: float | None
    changed: int
    changed_mirrored: int
    changed_ci95: tuple[float, float]
    changed_mirrored_ci95: tuple[float, float]
    mcnemar_p: float

    @property
    def p(self) -> float:
        """Exact where the suspect has nothing of the claim's: all 2 `pairs` orders of the pairs are equally likely."""
        return p_value(self.statistic, torch.cat([self.surrogates, -self.surrogates, torch.tensor([-self.statistic])]))

    def finding(self, level: float) -> Finding:
        """Derived, if p <= `level` and null noise does at most `SMALL` of what its mirror image does.

        By fewer than `FEWEST` images nothing is derived.
        """
        if self.movement is not None and self.movement**2 < UNMOVED:
            return Finding("says nothing", "the suspect's answers do not move under mirrored null noise either")
        if self.ratio is None:
            return Finding("says nothing", "mirrored null noise changes none of the suspect's answers either")
        figures = f"p = {self.p:.2g}, null noise does {self.ratio:.2f} of what its mirror image does"
        if self.p <= level and self.ratio <= SMALL and self.images < FEWEST:
            return Finding("says nothing", f"{figures}, of {self.images} images; ask it about {FEWEST} at least")
        if self.p <= level and self.ratio <= SMALL:
            return Finding("derived", f"{figures}: the suspect ignores what the claim's model ignores")
        return Finding("not shown", f"{figures}; derived would be p <= {level:g} and at most {SMALL:g}")

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "pairs": self.pairs,
            "answers": self.answers,
            "statistic": self.statistic,
            "p": self.p,
            "null_to_mirrored": self.ratio,
            "movement": self.movement,
            "changed": self.changed,
            "changed_mirrored": self.changed_mirrored,
            "changed_ci95": list(self.changed_ci95),
            "changed_mirrored_ci95": list(self.changed_mirrored_ci95),
            "mcnemar_p": self.mcnemar_p,
        }


def judge_answers(answers: Answers) -> BlackBox:
    """Hold a suspect's answers to null noise against those to its mirror image and to surrogates."""
    changed, moved = answers.changed, answers.moved
    images, pairs, _ = changed.shape
    null, mirrored = (int(changed[:, 0, side].sum()) for side in (0, 1))
    if moved is None:
        statistics = (changed[..., 0].double() - changed[..., 1].double()).sum(0)
        ratio = null / mirrored if mirrored else None
        movement = None
    else:
        # A change that rounding alone keeps from being 0 is none, and has a logarithm all the same.
        logs = moved.clamp_min(UNMOVED * 1e-6).log()
        statistics = (logs[..., 0] - logs[..., 1]).sum(0)
        ratio = float((statistics[0] / images).exp())
        movement = float(moved[:, 0, 1].mean().sqrt())
    only_null = int((changed[:, 0, 0] & ~changed[:, 0, 1]).sum())
    only_mirrored = int((changed[:, 0, 1] & ~changed[:, 0, 0]).sum())
    discordant = only_null + only_mirrored
    return BlackBox(
        images=images,
        pairs=pairs,
        answers="labels" if moved is None else "logits",
        statistic=float(statistics[0]),
        surrogates=statistics[1:],
        ratio=ratio,
        movement=movement,
        changed=null,
        changed_mirrored=mirrored,
        changed_ci95=_clopper_pearson(null, images),
        changed_mirrored_ci95=_clopper_pearson(mirrored, images),
        mcnemar_p=float(binomtest(only_mirrored, discordant, alternative="greater").pvalue) if discordant else 1.0,
    )


def _clopper_pearson(count: int, of: int) -> tuple[float, float]:
    """The exact 95% interval of a share."""
    interval = binomtest(count, of).proportion_ci(0.95, "exact")
    return float(interval.low), float(interval.high)
