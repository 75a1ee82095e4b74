"""What the comparisons of ownership.py come to."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, mannwhitneyu

from nullspace_cli.engine.ownership.black_box import SMALL
from nullspace_cli.engine.ownership.verdict import DEFAULT_LEVEL
from nullspace_cli.engine.ownership.white_box import ALIKE

Line = dict[str, Any]
"""A claim, a suspect, and what was found."""

ASKED = (2, 8, 24)
"""Images that a black box is asked about."""

SCORES: dict[str, Callable[[Line], float]] = {
    "weights": lambda line: line["weights"]["likeness"] or 0.0,
    "24 logits": lambda line: -line["answers"]["24 logits"]["statistic"],
    "24 labels": lambda line: -line["answers"]["24 labels"]["statistic"],
    "same errors": lambda line: line["same errors"]["share"],
}
"""The larger, the more like the owner."""


def summarise(found: Sequence[Line]) -> None:
    reported, setting, attacks = (
        [line for line in found if line["kind"] == kind] for kind in ("reported", "setting", "attack")
    )
    strangers = [line for line in setting if line["relation"] != "same seed, other data"]
    if setting:
        thresholds(setting)
    if reported:
        false_claims(reported)
    if attacks:
        power(attacks)
    if strangers and reported and attacks:
        ranking(strangers, reported, [line for line in attacks if line["suspect"] != "distilled"])
    for kind in ("universal", "universal, known"):
        if lines := [line for line in found if line["kind"] == kind]:
            largest = max(line["weights"]["likeness"] for line in lines)
            print(f"{kind}: {derived(lines, 'weights')} of {len(lines)} derived, likeness up to {largest:.2f}")


def thresholds(setting: Sequence[Line]) -> None:
    """What bounds have to be beyond, by pairs of owners that are not reported."""
    print(f"setting part, {len(setting)} pairs; bounds in use: likeness {ALIKE}, ratio {SMALL}")
    for relation in dict.fromkeys(line["relation"] for line in setting):
        lines = [line for line in setting if line["relation"] == relation]
        likeness, ratio = max(map(SCORES["weights"], lines)), min(map(ratio_of, lines))
        print(f"{relation}: {len(lines)} pairs, likeness up to {likeness:.3f}, ratio of 24 images down to {ratio:.3f}")


def false_claims(reported: Sequence[Line]) -> None:
    print("\npairs | derived by weights | likeness | p <= 0.01, 0.05, 0.2 | by 2, 8, 24 logits, labels | ratio of 24")
    for chosen in [*dict.fromkeys(line["relation"] for line in reported), "all"]:
        lines = [line for line in reported if chosen in (line["relation"], "all")]
        weights = share(derived(lines, "weights"), len(lines))
        logits, labels = (", ".join(str(derived(lines, f"{n} {kind}")) for n in ASKED) for kind in ("logits", "labels"))
        likeness, ratio = span(map(SCORES["weights"], lines)), span(map(ratio_of, lines))
        p = [line["weights"]["p"] for line in lines]
        small = ", ".join(str(sum(one <= level for one in p)) for level in (0.01, 0.05, 0.2))
        print(f"{chosen} | {weights} | {likeness} | {small} | {logits}; {labels} | {ratio}")
    power = sum(line["equal power"]["p"] <= DEFAULT_LEVEL for line in reported)
    print(f"with surrogates of equal power instead of mirror images: {power} of {len(reported)} derived")


def power(attacks: Sequence[Line]) -> None:
    print("\nattack | accuracy | by weights | likeness | by 2, 8, 24 logits | ratio | by 24 labels | same errors")
    for name in dict.fromkeys(line["suspect"] for line in attacks):
        lines = [line for line in attacks if line["suspect"] == name]
        accuracy, likeness, ratio, errors = (
            span(map(score, lines)) for score in (accuracy_of, SCORES["weights"], ratio_of, SCORES["same errors"])
        )
        weights, labels = derived(lines, "weights"), derived(lines, "24 labels")
        logits = ", ".join(str(derived(lines, f"{n} logits")) for n in ASKED)
        counts = f"{weights} of {len(lines)} | {likeness} | {logits} | {ratio} | {labels}"
        print(f"{name} | {accuracy} | {counts} | {errors}")


def ranking(strangers: Sequence[Line], reported: Sequence[Line], attacks: Sequence[Line]) -> None:
    """The ROC of each score, attacks against pairs, and where the setting part's largest score stands on it."""
    print("\nscore | negatives | area | power at 0, 1, 5% false claims | at the setting part's largest | false claims")
    alike = [line for line in reported if line["claim"].split()[0] == line["suspect"].split()[0]]
    for name, score in SCORES.items():
        high = np.array([score(line) for line in attacks])
        for label, negatives in (("all pairs", reported), ("pairs of one data set", alike)):
            low = np.array([score(line) for line in negatives])
            area = float(mannwhitneyu(high, low).statistic) / (len(low) * len(high))
            bars = np.quantile(low, [1, 0.99, 0.95], method="higher")
            points = ", ".join(f"{np.mean(high > bar):.0%}" for bar in bars)
            bar = max(map(score, strangers))
            there = share(int(np.sum(low > bar)), len(low))
            print(f"{name} | {label} | {area:.3f} | {points} | {np.sum(high > bar)} of {len(high)} | {there}")


def accuracy_of(line: Line) -> float:
    return line["accuracy"]


def ratio_of(line: Line) -> float:
    """What null noise does by what its mirror image does, by 24 images."""
    return line["answers"]["24 logits"]["null_to_mirrored"]


def derived(lines: Sequence[Line], by: str) -> int:
    """How many, by "weights" or by a key of "answers", of however few images."""
    found = [line["weights"] if by == "weights" else line["answers"][by] for line in lines]
    sure = [one for one in found if one["p"] is not None and one["p"] <= DEFAULT_LEVEL]
    if by == "weights":
        return sum(one["likeness"] >= ALIKE for one in sure)
    return sum(one["null_to_mirrored"] is not None and one["null_to_mirrored"] <= SMALL for one in sure)


def share(count: int, of: int) -> str:
    return f"{count} of {of} (at most {binomtest(count, of).proportion_ci(0.95, 'exact').high:.1%})"


def span(values: Any) -> str:
    found = list(values)
    return f"{min(found):.2f} to {max(found):.2f}"
