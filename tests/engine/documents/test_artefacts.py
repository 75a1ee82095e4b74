"""Artefacts: the same bytes for the same content, refused where they are damaged or do not belong."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nullspace_cli.engine.documents import artefacts
from nullspace_cli.engine.documents.artefacts import Provenance
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.files import hashes

PARAMETERS = {"rtol": 1e-7, "per_channel": False, "compact": True, "std": [0.5]}
PROVENANCE = Provenance("basis", "pixel", "demo", "ab" * 32, seed=3, parameters=PARAMETERS, parents={"a": "cd" * 32})
TENSORS = {
    "row_space": torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2),
    "singular_values": torch.ones(1, dtype=torch.float64),
}


def test_round_trip(tmp_path: Path) -> None:
    path = artefacts.write_tensors(tmp_path / "x.safetensors", TENSORS, PROVENANCE)
    tensors, provenance = artefacts.read_tensors(path, "basis")
    assert provenance == PROVENANCE
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in tensors)


def test_metadata_is_one_json_document(tmp_path: Path) -> None:
    path = artefacts.write_tensors(tmp_path / "x.safetensors", TENSORS, PROVENANCE)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["vitnull"]
    document = json.loads(metadata["vitnull"])
    assert document["schema"] == "vitnull/basis/1"
    assert document["parameters"] == PARAMETERS


def test_same_content_same_bytes(tmp_path: Path) -> None:
    first = artefacts.write_tensors(tmp_path / "1", TENSORS, PROVENANCE)
    second = artefacts.write_tensors(tmp_path / "2", dict(reversed(TENSORS.items())), PROVENANCE)
    assert first.read_bytes() == second.read_bytes()
    assert hashes.sha256_of(first) == hashes.sha256_of(second)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ArtifactError, match=r"no file .*Expected a basis"):
        artefacts.read_provenance(path, "basis")
    for data in (b"", b"hello", struct.pack("<Q", 1 << 60), struct.pack("<Q", 10) + b"{}"):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="not a readable safetensors"):
            artefacts.read_provenance(path, "basis")
    save_file(TENSORS, path)
    with pytest.raises(ArtifactError, match="not written by vitnull"):
        artefacts.read_provenance(path, "basis")
    save_file(TENSORS, path, {"vitnull": "{}"})
    with pytest.raises(ArtifactError, match="not written by vitnull"):
        artefacts.read_provenance(path, "basis")
    save_file(TENSORS, path, {"vitnull": '{"kind": "noise", "schema": "vitnull/noise/1"}'})
    with pytest.raises(ArtifactError, match="holds a noise; expected a basis"):
        artefacts.read_tensors(path, "basis")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    artefacts.require_weights(tmp_path, PROVENANCE, "demo", "ab" * 32)
    with pytest.raises(ArtifactError, match="made from other weights"):
        artefacts.require_weights(tmp_path, PROVENANCE, "demo", "cd" * 32)


def test_state_hash_sees_names_types_shapes_and_values() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.int64)}
    reference = hashes.hash_state(state)
    assert hashes.hash_state(dict(reversed(state.items()))) == reference
    assert hashes.hash_state({**state, "a": torch.zeros(3, 2).mT}) == reference
    others = [
        {**state, "a": torch.zeros(3, 2)},
        {**state, "a": torch.zeros(2, 3, dtype=torch.float16)},
        {**state, "a": torch.full((2, 3), 1e-30)},
        {"A": state["a"], "b": state["b"]},
        {"a": state["a"]},
    ]
    assert len({reference, *map(hashes.hash_state, others)}) == 6
