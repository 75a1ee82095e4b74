"""Sheets say what the network makes of the pictures that they show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from nullspace_cli.engine.adversarial.report import Report
from nullspace_cli.engine.files.orientation import UPRIGHT
from nullspace_cli.engine.plots import fooling


def record(*, bounded: bool) -> dict[str, Any]:
    def answer(label: str) -> dict[str, Any]:
        return {"class": 0, "label": label, "probability": 0.5}

    names = {"source": "moon", "target": "cross", "transformed": "moon", "preview": "cross"}
    said = {name: answer(label) for name, label in names.items()}
    figures = {"saliency": (1.0, 0.25), "saliency_png": (0.125, 0.75)}
    return {
        "bounded": bounded,
        "prediction": {**said, "preview": None} if bounded else said,
        **{
            kind: {"rollout": {"source_transformed": {"spearman": a}, "target_transformed": {"spearman": b}}}
            for kind, (a, b) in figures.items()
        },
    }


@pytest.mark.parametrize(
    ("bounded", "answer", "maps"),
    [
        (True, "moon 50.0%", ["ρ = 0.75 to transformed", "ρ = 0.12 to source"]),
        (
            False,
            "cross 50.0%\nunclipped: moon 50.0%",
            [
                "ρ = 0.25 to transformed\n(unclipped; clipped: ρ = 0.75)",
                "ρ = 1.00 to source\n(unclipped; clipped: ρ = 0.12)",
            ],
        ),
    ],
)
def test_captions(bounded: bool, answer: str, maps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(fooling, "save_figure", lambda path, figure, force: drawn.append(figure))
    picture = np.zeros((32, 32, 3), np.uint8)
    views, grids = torch.zeros(3, 3, 32, 32), {"rollout": torch.rand(3, 4, 4)}
    whole = (slice(None), slice(None))
    fooling.draw_fooling(
        Path("sheet.png"), Report(record(bounded=bounded), (picture,) * 3, whole, views, grids, UPRIGHT)
    )
    said = [axis.get_xlabel() for axis in drawn[0].axes]
    assert [text for text in said if text] == ["moon 50.0%", "cross 50.0%", maps[0], answer, maps[1]]
