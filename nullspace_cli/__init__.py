"""vitnull: the nullspace of vision transformers.

All that the command line does, for models and images in memory: `from nullspace_cli import load_model, find_nullspace`.
Nothing is imported before it is used, and nothing is written before `save` is called.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nullspace_cli.engine.errors import VitnullError as VitnullError
    from nullspace_cli.engine.evaluation.stability import Evaluation as Evaluation
    from nullspace_cli.engine.models.model import Model as Model
    from nullspace_cli.engine.models.model import Outputs as Outputs
    from nullspace_cli.engine.noise.noise import Noise as Noise
    from nullspace_cli.engine.nullspace.check import Check as Check
    from nullspace_cli.engine.solvers.solution import Solution as Solution
    from nullspace_cli.engine.solvers.solution import Status as Status
    from nullspace_cli.engine.transforms.resize_operator import ResizeOperator as ResizeOperator
    from nullspace_cli.library.attacks import AttackResult as AttackResult
    from nullspace_cli.library.attacks import attack as attack
    from nullspace_cli.library.claims import ClaimResult as ClaimResult
    from nullspace_cli.library.claims import ModelClaim as ModelClaim
    from nullspace_cli.library.claims import claim_model as claim_model
    from nullspace_cli.library.claims import load_claim as load_claim
    from nullspace_cli.library.models import load_model as load_model
    from nullspace_cli.library.models import wrap as wrap
    from nullspace_cli.library.noises import LearnedNoise as LearnedNoise
    from nullspace_cli.library.noises import evaluate_noise as evaluate_noise
    from nullspace_cli.library.noises import learn_noise as learn_noise
    from nullspace_cli.library.noises import load_noise as load_noise
    from nullspace_cli.library.nullspaces import ImageNullspace as ImageNullspace
    from nullspace_cli.library.nullspaces import NearNullspace as NearNullspace
    from nullspace_cli.library.nullspaces import Nullspace as Nullspace
    from nullspace_cli.library.nullspaces import check_nullspace as check_nullspace
    from nullspace_cli.library.nullspaces import find_nullspace as find_nullspace
    from nullspace_cli.library.projections import project_affine_box as project_affine_box
    from nullspace_cli.library.projections import resize_operator as resize_operator
    from nullspace_cli.library.projections import round_to_8_bits as round_to_8_bits
    from nullspace_cli.library.saliency import explain as explain
    from nullspace_cli.library.saliency import explanation_methods as explanation_methods
    from nullspace_cli.library.stamping import Stamper as Stamper
    from nullspace_cli.library.stamping import watermark as watermark
    from nullspace_cli.library.watermarks import WatermarkResult as WatermarkResult
    from nullspace_cli.library.watermarks import make_watermark as make_watermark
    from nullspace_cli.library.watermarks import text_image as text_image

__version__ = "0.1.0"

_HOMES = {
    "engine.errors": ("VitnullError",),
    "engine.evaluation.stability": ("Evaluation",),
    "engine.models.model": ("Model", "Outputs"),
    "engine.noise.noise": ("Noise",),
    "engine.nullspace.check": ("Check",),
    "engine.solvers.solution": ("Solution", "Status"),
    "engine.transforms.resize_operator": ("ResizeOperator",),
    "library.attacks": ("AttackResult", "attack"),
    "library.claims": ("ClaimResult", "ModelClaim", "claim_model", "load_claim"),
    "library.models": ("load_model", "wrap"),
    "library.noises": ("LearnedNoise", "evaluate_noise", "learn_noise", "load_noise"),
    "library.nullspaces": ("ImageNullspace", "NearNullspace", "Nullspace", "check_nullspace", "find_nullspace"),
    "library.projections": ("project_affine_box", "resize_operator", "round_to_8_bits"),
    "library.saliency": ("explain", "explanation_methods"),
    "library.stamping": ("Stamper", "watermark"),
    "library.watermarks": ("WatermarkResult", "make_watermark", "text_image"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
