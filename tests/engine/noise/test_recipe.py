"""What a plan is made of: what was asked for, and else the protocol's."""

from dataclasses import asdict

import pytest

from nullspace_cli.engine.noise.presets import PROTOCOLS, ProtocolName
from nullspace_cli.engine.noise.recipe import Recipe
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

TRANSFORM = EvalTransform((3, 32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 1.0)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_what_is_left_open_is_the_protocols(protocol: ProtocolName) -> None:
    recipe = Recipe("input", (0.5, 1.0), protocol)
    plan, preset = recipe.plan("fingerprint", 7, TRANSFORM, seed=3), PROTOCOLS[protocol]
    assert (plan.rounds, plan.lr, plan.fraction) == (preset.rounds, preset.lr, preset.fraction)
    assert (plan.data, plan.images, plan.data_config, plan.seed) == ("fingerprint", 7, asdict(TRANSFORM), 3)
    assert len(recipe.chosen_images(200, seed=3)) == 200 * preset.fraction


def test_what_is_asked_for_counts_even_if_it_is_nothing() -> None:
    recipe = Recipe("encoder", (1.0,), "adamw", rounds=1, lr=0.0, fraction=0.0)
    plan = recipe.plan("", 1, TRANSFORM, seed=0)
    assert (plan.rounds, plan.lr, plan.fraction) == (1, 0, 0)
    assert len(recipe.chosen_images(200, seed=0)) == 1
