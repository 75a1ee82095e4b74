"""Artefacts of ours made without the run that they come from, and files that break the rules of how they are made."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from nullspace_cli.engine.data.datasets import ImageSet
    from nullspace_cli.engine.models.model import Model
    from nullspace_cli.engine.noise.injection_sites import Level


def write_noise(path: Path, model: "Model", level: "Level", delta: "Tensor", limit: float = 0.5) -> Path:
    """Noise that is said to have been learned for a model, in one step."""
    from nullspace_cli.engine.noise import noise
    from nullspace_cli.engine.noise.trainer import Plan

    plan = Plan(
        level=level, limits=(limit,), protocol="adamw", rounds=1, lr=0.02, fraction=1.0, norm=2.0, stop_eps=None,
        step_images=4, seed=model.seed, data="made", images=4, data_config=asdict(model.transform),
    )  # fmt: skip
    record = {
        "limit": limit, "rounds": 1, "steps": 1, "loss_first": 1.0, "loss_last": 1.0,
        "norm_init": float((2 * delta).double().norm()), "norm_final": float(delta.double().norm()), "stopped": False,
    }  # fmt: skip
    return noise.write_noise(
        path, model, level, delta, init=2 * delta, losses=[1.0], limit=limit, plan=plan.to_dict(), record=record,
        force=True,
    )  # fmt: skip


def training_images(folder: Path, count: int) -> "ImageSet":
    """Drawings of the demo's as a folder of PNG files."""
    from PIL import Image

    from nullspace_cli.demo.drawing import draw
    from nullspace_cli.engine.data.datasets import open_data

    for i in range(count):
        Image.fromarray(draw("train", i, size=40)[0]).save(folder / f"{i}.png")
    return open_data(str(folder))


def write_unchecked(path: Path, tensors: Mapping[str, "Tensor"], provenance: Any) -> Path:
    """Tensors with whatever provenance."""
    from safetensors.torch import save_file

    save_file(dict(tensors), path, {"vitnull": provenance if isinstance(provenance, str) else json.dumps(provenance)})
    return path


def contents_of(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """The tensors and the provenance of an artefact, to be broken."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        return load_file(path), json.loads(file.metadata()["vitnull"])
