"""The library by the name of its distribution: all that `nullspace_cli` has, as lazily."""

from typing import TYPE_CHECKING, Any

import nullspace_cli

if TYPE_CHECKING:
    from nullspace_cli import AttackResult as AttackResult
    from nullspace_cli import Check as Check
    from nullspace_cli import ClaimResult as ClaimResult
    from nullspace_cli import Evaluation as Evaluation
    from nullspace_cli import ImageNullspace as ImageNullspace
    from nullspace_cli import LearnedNoise as LearnedNoise
    from nullspace_cli import Model as Model
    from nullspace_cli import ModelClaim as ModelClaim
    from nullspace_cli import NearNullspace as NearNullspace
    from nullspace_cli import Noise as Noise
    from nullspace_cli import Nullspace as Nullspace
    from nullspace_cli import Outputs as Outputs
    from nullspace_cli import ResizeOperator as ResizeOperator
    from nullspace_cli import Solution as Solution
    from nullspace_cli import Stamper as Stamper
    from nullspace_cli import Status as Status
    from nullspace_cli import VitnullError as VitnullError
    from nullspace_cli import WatermarkResult as WatermarkResult
    from nullspace_cli import attack as attack
    from nullspace_cli import check_nullspace as check_nullspace
    from nullspace_cli import claim_model as claim_model
    from nullspace_cli import evaluate_noise as evaluate_noise
    from nullspace_cli import explain as explain
    from nullspace_cli import explanation_methods as explanation_methods
    from nullspace_cli import find_nullspace as find_nullspace
    from nullspace_cli import learn_noise as learn_noise
    from nullspace_cli import load_claim as load_claim
    from nullspace_cli import load_model as load_model
    from nullspace_cli import load_noise as load_noise
    from nullspace_cli import make_watermark as make_watermark
    from nullspace_cli import project_affine_box as project_affine_box
    from nullspace_cli import resize_operator as resize_operator
    from nullspace_cli import round_to_8_bits as round_to_8_bits
    from nullspace_cli import text_image as text_image
    from nullspace_cli import watermark as watermark
    from nullspace_cli import wrap as wrap

__version__ = nullspace_cli.__version__
__all__ = nullspace_cli.__all__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(nullspace_cli, name)


def __dir__() -> list[str]:
    return dir(nullspace_cli)
