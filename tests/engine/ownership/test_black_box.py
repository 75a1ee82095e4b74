"""Answers to probes: what they say of a suspect, and that they say nothing by chance."""

import numpy as np
import pytest
import torch
from scipy import stats

from nullspace_cli.engine.ownership.answers import Answers
from nullspace_cli.engine.ownership.black_box import FEWEST, judge_answers
from nullspace_cli.engine.ownership.claim import Claim
from nullspace_cli.engine.ownership.frequencies import spectra
from nullspace_cli.engine.ownership.probes import MARGIN, probe_images, probes_of


def by_chance(seed: int, images: int = 3, pairs: int = 50) -> Answers:
    """Of a suspect to whom all pairs are alike; both noises of an image have much in common."""
    generator = torch.Generator().manual_seed(seed)
    moved = torch.exp(
        torch.randn(images, 1, 1, generator=generator) + 0.3 * torch.randn(images, pairs, 2, generator=generator)
    ).double()
    return Answers(moved > 1, moved)


def test_p_values_are_uniform_without_kinship() -> None:
    values = np.array([judge_answers(by_chance(seed)).p for seed in range(400)])
    assert values.min() >= 1 / 100
    spread = values - np.random.default_rng(0).random(len(values)) / 100
    assert stats.kstest(spread, "uniform").pvalue > 0.05


def test_labels_alone_are_never_too_sure() -> None:
    found = [judge_answers(Answers(by_chance(seed).changed, None)).p for seed in range(400)]
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(found) <= level) <= level + 0.02


def test_what_ignores_null_noise_is_derived() -> None:
    answers = by_chance(0, FEWEST)
    assert answers.moved is not None
    answers.moved[:, 0, 0] = 1e-4
    answers.changed[:, 0] = torch.tensor([False, True])
    found = judge_answers(answers)
    assert (found.p, found.finding(0.01).verdict) == (1 / 100, "derived")
    assert found.ratio is not None
    assert found.ratio < 0.01
    assert (found.changed, found.changed_mirrored) == (0, FEWEST)
    assert found.mcnemar_p == pytest.approx(0.5**FEWEST)
    assert found.changed_ci95 == pytest.approx((0, 1 - 0.025 ** (1 / FEWEST)))  # Clopper and Pearson's, of none
    few = judge_answers(Answers(answers.changed[1:], answers.moved[1:]))
    assert (few.p, few.finding(0.01).verdict) == (1 / 100, "says nothing")
    assert "ask it about 16" in few.finding(0.01).reason
    # Half of what the mirror image does is too much, however sure it is.
    answers.moved[:, 0, 0], answers.moved[:, 0, 1] = 0.05, 0.10
    assert judge_answers(answers).finding(0.5).verdict == "not shown"


@pytest.mark.parametrize("moved", [torch.zeros(3, 50, 2, dtype=torch.float64), None])
def test_answers_that_nothing_moves(moved: torch.Tensor | None) -> None:
    found = judge_answers(Answers(torch.zeros(3, 50, 2, dtype=torch.bool), moved))
    assert (found.finding(1.0).verdict, found.p) == ("says nothing", 1.0)


def test_probes_are_what_they_are_said_to_be(claim: Claim) -> None:
    pixels = torch.rand(3, 70, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = dict(probe_images(claim, 0, pixels))
    assert list(made) == probes_of(claim, 0)
    assert len({probe.name for image in range(3) for probe in probes_of(claim, image)}) == 3 * 25
    none = next(image for probe, image in made.items() if probe.pair is None)
    assert torch.allclose(none, 0.5 + (1 - 2 * MARGIN) * (pixels - 0.5))
    A = claim.patch_map.matrix("pixel")
    noises = {(probe.pair, probe.mirrored): image - none for probe, image in made.items() if probe.pair is not None}
    cut = {key: claim.patch_map.patchify(noise) for key, noise in noises.items()}
    assert float((cut[0, False] @ A.mT).abs().max()) < 1e-12
    assert all(float((cut[key] @ A.mT).abs().max()) > 0.1 for key in cut if key != (0, False))
    null = cut[0, False].unflatten(1, (3, 16, 16))
    for (pair, mirrored), patches in cut.items():
        shaped = patches.unflatten(1, (3, 16, 16))
        assert torch.allclose(spectra(shaped).abs(), spectra(null).abs())
        if mirrored:
            assert torch.allclose(shaped, cut[pair, False].unflatten(1, (3, 16, 16)).flip(3))
    assert all(float(image.min()) > 0 and float(image.max()) < 1 for image in made.values())  # nothing is clipped
    assert all(not bool(noise[:, 64:].any()) for noise in noises.values())


def test_other_images_have_other_noise(claim: Claim) -> None:
    pixels = torch.full((3, 64, 64), 0.5, dtype=torch.float64)
    first, second = (dict(probe_images(claim, image, pixels)) for image in (0, 1))
    assert not torch.allclose(list(first.values())[1], list(second.values())[1])
