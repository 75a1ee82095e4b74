"""Claims in memory: the same verdicts as of the command."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import nullspace_cli as vn


def network(seed: int) -> vn.Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, embed_dim=48)
    return vn.wrap(module, mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(3, 64, 64), name=f"network {seed}")


def test_a_claim_and_its_file(tmp_path: Path) -> None:
    owner = network(0)
    made = vn.claim_model(owner)
    loaded = vn.load_claim(made.save(tmp_path / "a.safetensors", reveal=True), digest=made.digest)
    for claim in (made, loaded):
        found = claim.check(owner)
        assert found.derived
        assert found.to_dict()["by_weights"]["p"] == 1e-4
        assert claim.check(network(1)).verdict == "not shown"
    assert made.check(owner, references=[owner]).verdict == "not shown"
    beyond = made.check(owner, references=[network(1)]).to_dict()["by_weights"]["angles_beyond_references"]
    assert beyond["overlap"] == pytest.approx(1)
    assert repr(made) == f"<ModelClaim to network 0, digest {made.digest[:12]}>"
    with pytest.raises(vn.VitnullError, match="exists already"):
        made.save(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"suspect": "demo"}, {"suspect": "demo", "answers": "a.jsonl"}, {"answers": "a.jsonl", "level": 2}],
)
def test_suspects_that_are_none(arguments: dict[str, Any]) -> None:
    with pytest.raises(vn.VitnullError, match="expected"):
        vn.claim_model(network(0), pairs=2).check(**arguments)


@pytest.mark.parametrize("arguments", [{"pairs": 1}, {"seed": -1}])
def test_claims_that_are_none(arguments: dict[str, int]) -> None:
    with pytest.raises(vn.VitnullError, match="expected a whole number"):
        vn.claim_model(network(0), **arguments)
