"""sha256 of files and of weights."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def sha256_of_each(files: Mapping[str, Path | None]) -> dict[str, str]:
    """The `parents` that a provenance names, of those files that there are."""
    return {name: sha256_of(path) for name, path in files.items() if path}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_state(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of a state dictionary, independent of device and key order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
