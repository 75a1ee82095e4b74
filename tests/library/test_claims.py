"""Claims in memory: the same verdicts as of the command."""

from pathlib import Path

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
    assert repr(made) == f"<ModelClaim to network 0, digest {made.digest[:12]}>"
    with pytest.raises(vn.VitnullError, match="exists already"):
        made.save(tmp_path / "a.safetensors")


def test_what_is_refused() -> None:
    claim = vn.claim_model(network(0), pairs=2)
    for arguments in (
        {},
        {"suspect": network(0), "answers": "a.jsonl"},
        {"suspect": "demo"},
        {"suspect": network(0), "level": 2},
    ):
        with pytest.raises(vn.VitnullError, match="expected"):
            claim.check(**arguments)  # type: ignore[arg-type]
    for arguments in ({"pairs": 1}, {"seed": -1}):
        with pytest.raises(vn.VitnullError, match="expected a whole number"):
            vn.claim_model(network(0), **arguments)
