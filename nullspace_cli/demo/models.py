"""What the embedded models are: plain timm architectures, their arguments and their weight files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class DemoModel:
    """One embedded model. `architecture` and `model_kwargs` go to `timm.create_model` as they are."""

    architecture: str
    weights: str
    model_kwargs: dict[str, Any]
    learning_rate: float
    training_images: int
    data_config: dict[str, Any] = field(
        default_factory=lambda: {
            "input_size": (3, 224, 224),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
        }
    )


DEMO_MODELS = {
    "demo": DemoModel(
        architecture="vit_small_patch32_224",
        weights="vit.safetensors",
        model_kwargs={"num_classes": 10, "embed_dim": 192, "depth": 6, "num_heads": 3},
        learning_rate=1e-3,
        training_images=360_000,
    ),
    "demo-cnn": DemoModel(
        architecture="resnet10t",
        weights="cnn.safetensors",
        model_kwargs={"num_classes": 10, "channels": (16, 32, 64, 128), "stem_width": 16},
        learning_rate=4e-3,
        training_images=80_000,
    ),
}
