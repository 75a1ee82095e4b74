"""Draws of one seed that have nothing in common."""

from itertools import combinations

import torch

from nullspace_cli.engine.runtime.random_generators import stream


def test_equal_seeds_and_purposes_draw_alike() -> None:
    first, second = (torch.randn(100, generator=stream(7, 2)) for _ in range(2))
    assert torch.equal(first, second)


def test_all_else_is_uncorrelated() -> None:
    keys = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2**32 - 1, 1)]
    draws = [torch.randn(40_000, generator=stream(*key)) for key in keys]
    draws.append(torch.randn(40_000, generator=torch.Generator().manual_seed(0)))
    for a, b in combinations(draws, 2):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.025  # five standard deviations
