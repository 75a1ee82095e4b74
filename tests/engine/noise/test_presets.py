"""Which images make up a step, and how the learning rate falls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nullspace_cli.engine.noise.presets import PROTOCOLS, chosen_images, owner, steps_of_round


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_every_image_once_a_round(count: int, size: int, seed: int, number: int) -> None:
    steps = steps_of_round(count, size, seed, number)
    assert len(steps) == -(-count // size)
    assert sorted(image for step in steps for image in step) == list(range(count))
    assert all(len(step) == size for step in steps[:-1])


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 8))
def test_processes_have_equal_parts_of_every_step(count: int, size: int, world: int) -> None:
    for step in steps_of_round(count, size, 0, 0):
        parts = [sum(owner(image, size, world) == rank for image in step) for rank in range(world)]
        assert max(parts) - min(parts) <= 1


def test_rounds_and_seeds_differ() -> None:
    assert steps_of_round(100, 10, 0, 0) == steps_of_round(100, 10, 0, 0)
    orders = [steps_of_round(100, 10, seed, number) for seed in (0, 1) for number in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_a_share_of_the_images() -> None:
    assert sorted(chosen_images(50, 1.0, 0)) == list(range(50))
    part = chosen_images(50, 0.3, 0)
    assert len(set(part)) == 15
    assert part != sorted(part)
    assert part == chosen_images(50, 0.3, 0)
    assert part != chosen_images(50, 0.3, 1)
    assert len(chosen_images(3, 0.0, 0)) == 1


def test_learning_rates() -> None:
    cosine, tenths = PROTOCOLS["adamw"].decay, PROTOCOLS["sgd"].decay
    assert [cosine(done, 100) for done in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
    steps = 500 * 37
    at = {149: 1, 150: 0.1, 299: 0.1, 300: 0.01, 399: 0.01, 400: 0.001, 499: 0.001}
    for number, factor in at.items():
        assert tenths(number * 37, steps) == pytest.approx(factor)
        assert tenths(number * 37 + 36, steps) == pytest.approx(factor)


def test_no_protocol_pulls_the_noise_to_zero() -> None:
    import torch

    for protocol in PROTOCOLS.values():
        noise = torch.nn.Parameter(torch.ones(3))
        optimizer = protocol.optimizer(noise, 0.1)
        noise.grad = torch.zeros(3)
        optimizer.step()
        assert torch.equal(noise.detach(), torch.ones(3))
